"""The life of a session and of a test, as pytest sees them."""
