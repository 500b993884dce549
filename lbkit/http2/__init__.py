"""HTTP/2: the engine interface and its implementations."""
