"""The command `pytest-tempres`, for what happens outside a test session."""
