"""Record formats: where the systems that write to etcd put a backend, and how they write it."""

from __future__ import annotations

from collections.abc import Mapping

from lbkit_resolvers.etcd.codecs.base import Codec
from lbkit_resolvers.etcd.codecs.gozero import GoZeroCodec
from lbkit_resolvers.etcd.codecs.kratos import KratosCodec
from lbkit_resolvers.etcd.codecs.naming import NamingCodec

DEFAULT_CODEC = "etcd"
CODECS: Mapping[str, type[Codec]] = {"etcd": NamingCodec, "gozero": GoZeroCodec, "kratos": KratosCodec}

__all__ = ["CODECS", "DEFAULT_CODEC", "Codec"]
