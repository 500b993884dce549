"""The grpc.health.v1 service: use it as a ``_pb2`` module. Types are in ``health.pyi``."""

from lbkit.protos import classes_of, load

DESCRIPTOR = load("health")
globals().update(classes_of(DESCRIPTOR))
