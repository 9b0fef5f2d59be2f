"""What is asked of Ray Serve, and new versions beside served ones."""
