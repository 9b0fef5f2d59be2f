"""From identity vectors to people: neighbours, groups, labels that are checked, names."""
