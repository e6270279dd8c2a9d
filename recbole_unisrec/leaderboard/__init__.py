"""Many models, many seeds, one dataset: run what is missing, and report it."""
