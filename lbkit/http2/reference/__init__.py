"""The second engine: h2 behind the same interface, as the reference for our own. See docs/design/h2-engine.md."""
