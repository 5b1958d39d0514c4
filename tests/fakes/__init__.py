"""Servers of our own for what cannot be asked of the real ones."""
