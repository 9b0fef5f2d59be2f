"""What makes the loop from pictures to an endpoint one run."""
