"""The detector of open file descriptors."""
