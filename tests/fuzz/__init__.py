"""Fuzzing of everything that reads what a stranger sends: ``python -m tests.fuzz --help``."""
