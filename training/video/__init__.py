"""What training on videos has and pictures do not."""
