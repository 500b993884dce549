"""etcd: backends are keys under a prefix, watched over lbkit's own channel (etcd v3 is gRPC)."""

from lbkit_resolvers.etcd.resolver import EtcdResolver

__all__ = ["EtcdResolver"]
