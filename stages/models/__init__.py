"""The networks that stages hold, and what is asked of them."""
