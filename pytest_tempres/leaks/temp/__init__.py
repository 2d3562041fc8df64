"""The detector of leaks in the temp location."""
