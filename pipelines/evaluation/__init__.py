"""What an evaluation is of, and how its scores are told."""
