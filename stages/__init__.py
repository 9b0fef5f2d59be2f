"""What happens to a batch of rows; knows nothing of Ray."""
