"""A Ray cluster that is reached over HTTP."""
