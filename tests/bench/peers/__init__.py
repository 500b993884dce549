"""One module per gRPC implementation, each run as a process of its own by the benchmark."""
