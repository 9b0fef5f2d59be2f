"""One file per verb of the command line: arguments in, sentences out."""
