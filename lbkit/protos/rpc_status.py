"""The google.rpc.Status message: use it as a ``_pb2`` module. Types are in ``rpc_status.pyi``."""

from lbkit.protos import classes_of, load

DESCRIPTOR = load("rpc_status")
globals().update(classes_of(DESCRIPTOR))
