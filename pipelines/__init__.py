"""Jobs and the command line: each job is one page, and the only place where stages are ordered."""
