"""Videos: decoded once, cut into clips, and in each clip the tracks of its faces."""
