"""gRPC over HTTP/2, as pure functions: messages, headers, time-outs, status (PROTOCOL-HTTP2)."""
