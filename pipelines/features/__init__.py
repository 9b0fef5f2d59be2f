"""How a corpus becomes what training reads."""
