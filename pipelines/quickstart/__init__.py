"""The small web, the film and the endpoint that the quickstart shows."""
