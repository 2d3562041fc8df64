"""The integration with pytest-xdist, remote workers and forked tests."""
