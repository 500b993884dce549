"""The grpc.reflection.v1 service: use it as a ``_pb2`` module. Types are in ``reflection.pyi``."""

from lbkit.protos import classes_of, load

DESCRIPTOR = load("reflection")
globals().update(classes_of(DESCRIPTOR))
