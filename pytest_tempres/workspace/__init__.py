"""The session root on disk: created, proved to be ours, kept, removed and swept."""
