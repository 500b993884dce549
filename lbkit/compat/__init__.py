"""Drop-in for grpcio: its generated code without grpcio."""

from lbkit.compat.install import install_grpc_shim

__all__ = ["install_grpc_shim"]
