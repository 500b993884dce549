"""The tests, and `python -m tests.bench`."""
