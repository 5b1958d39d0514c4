"""Real servers for the tests, started on loopback without containers."""
