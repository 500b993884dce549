"""The grpc.channelz.v1 service: use it as a ``_pb2`` module. Types are in ``channelz.pyi``."""

from lbkit.protos import classes_of, load

DESCRIPTOR = load("channelz")
globals().update(classes_of(DESCRIPTOR))
