"""The detector of changes in watched directories."""
