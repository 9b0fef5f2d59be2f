"""Video jobs: asked for now, drawn when there is time, fetched later, forgotten in time."""
