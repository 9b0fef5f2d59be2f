"""Videos curated into clips of people: the jobs, and what they leave for others."""
