"""The reports of a session: one summary, and one file for each format."""
