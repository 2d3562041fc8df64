"""Where a session lives on disk: made, proved to be ours, kept, removed, swept."""
