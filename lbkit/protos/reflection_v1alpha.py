"""The grpc.reflection.v1alpha service: use it as a ``_pb2`` module. Types are in ``reflection_v1alpha.pyi``."""

from lbkit.protos import classes_of, load

DESCRIPTOR = load("reflection_v1alpha")
globals().update(classes_of(DESCRIPTOR))
