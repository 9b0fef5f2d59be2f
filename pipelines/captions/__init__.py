"""How captions are written: by whom, how fast, with which engine."""
