"""Captions: who writes them, what is asked, and which are good enough."""
