"""The detection of leaks: what was left behind, and which owner created it."""
