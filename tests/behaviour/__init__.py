"""One behaviour on every proxy: each case is written once and run on all that declare it."""
