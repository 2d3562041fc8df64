"""Everything that knows pytest-xdist or another host."""
