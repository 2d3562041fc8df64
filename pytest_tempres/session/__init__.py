"""A session and its tests: start, ownership, retention, verdict, cleanup."""
