"""Copies of kept directories that outlive the machine."""
