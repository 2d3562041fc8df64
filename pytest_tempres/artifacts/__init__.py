"""The copies of kept paths in the artifacts directory, with a manifest."""
