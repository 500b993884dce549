"""Protos of the tests with their generated code; `scripts/protos` makes it anew."""
