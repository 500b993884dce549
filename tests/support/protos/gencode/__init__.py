"""The service of ``kinds.proto`` as grpcio-tools of several ages generate it, for the messages of ``kinds_pb2``.

Made from the root, for each version, with
``python -m grpc_tools.protoc -I . --grpc_python_out=OUT tests/support/protos/kinds.proto``:

- ``v1_48``: grpcio-tools 1.48.2
- ``v1_62``: grpcio-tools 1.62.3
- ``v1_85``: grpcio-tools 1.85.1; its types with ``--mypy_grpc_out=OUT`` of mypy-protobuf 5.1.0
"""
