"""Pictures that are there more than once: which are alike, which belong together, which is kept."""
