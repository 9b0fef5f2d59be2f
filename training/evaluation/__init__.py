"""How models are scored on people that they never saw."""
