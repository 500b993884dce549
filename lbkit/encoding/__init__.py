"""How messages become bytes (codecs), and how those become fewer (compressors): two registries."""
