"""Recipes of runs as their papers tell them."""
