"""etcd v3's KV, Watch, Lease, Cluster, Maintenance and Auth services: use it as a ``_pb2`` module. Types are in ``etcd.pyi``."""

from lbkit.protos import POOL, classes_of, load

DESCRIPTOR = load("etcd")
globals().update(classes_of(DESCRIPTOR))
globals().update(classes_of(POOL.FindFileByName("etcd/api/mvccpb/kv.proto")))
