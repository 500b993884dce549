"""HTTP/2 connections on asyncio: one client connection, one server connection, listeners and connectors."""
