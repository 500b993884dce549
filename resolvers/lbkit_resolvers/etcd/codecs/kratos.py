"""``kratos``: what services of go-kratos write (contrib/registry/etcd)."""

from __future__ import annotations

from math import inf
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lbkit.address import Endpoint
from lbkit.registrar import Instance
from lbkit_resolvers.etcd.codecs.base import Codec, read_object, write_object
from lbkit_resolvers.records import RecordError, endpoint_of, shown

_NORMAL_WEIGHT = 100  # of an instance that says none (kratos selector/node/direct)
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}  # Go's strconv.ParseBool


class KratosCodec(Codec):
    """``/microservices/<name>/<id>`` holds a ``ServiceInstance`` as JSON.

    Like ``{"id":"a","name":"foo","version":"v1","metadata":{"weight":"300"},"endpoints":["grpc://10.0.0.1:9000"]}``.
    Of the endpoints (``http://`` is often among them) the first of gRPC counts: ``grpc://host:port``, ``grpcs://`` for
    TLS, or as older versions have it, ``grpc://host:port?isSecure=true``. ``version`` and ``secure`` become metadata.

    Kratos takes 100 for the weight of an instance without one; so its 100 is our 1.
    """

    default_namespace = "/microservices"

    def decode(self, key: bytes, value: bytes, name: str = "") -> Endpoint:
        """Read the first gRPC endpoint, and the metadata."""
        record = read_object(value)
        said = record.get("name")
        if name and isinstance(said, str) and said not in {"", name}:
            # As Kratos does: the keys of a service ``foo/bar`` stand among those of ``foo``.
            raise RecordError(f"it is of the service {shown(said)}")
        address, secure = _grpc_endpoint(record.get("endpoints"))
        given = record.get("metadata")
        metadata: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
        if "weight" in metadata:
            metadata["weight"] = _weight(metadata["weight"])
        version = record.get("version")
        if isinstance(version, str) and version:
            metadata["version"] = version
        if secure:
            metadata["secure"] = True
        return endpoint_of(address, metadata)

    def encode(self, name: str, instance: Instance) -> bytes:
        """Write a ServiceInstance with one endpoint. Weights become whole numbers, which Kratos needs."""
        metadata = dict(instance.metadata)
        version = metadata.pop("version", "")
        if instance.weight != 1:
            metadata["weight"] = str(max(1, round(instance.weight * _NORMAL_WEIGHT)))
        if instance.zone:
            metadata["zone"] = instance.zone
        return write_object(
            {
                "id": instance.id,
                "name": name,
                "version": version,
                "metadata": metadata,
                "endpoints": [f"{'grpcs' if instance.secure else 'grpc'}://{instance.address}"],
            }
        )


def _grpc_endpoint(endpoints: object) -> tuple[str, bool]:
    """Return the address of the first gRPC endpoint, and whether it takes TLS."""
    for url in endpoints if isinstance(endpoints, list) else []:
        if not isinstance(url, str) or not url.startswith(("grpc://", "grpcs://")):
            continue
        try:
            parts = urlsplit(url)
        except ValueError:  # brackets that make no sense
            raise RecordError(f"{shown(url)} is no URL") from None
        legacy = parse_qs(parts.query).get("isSecure", [""])[0]
        return parts.netloc, parts.scheme == "grpcs" or legacy in _TRUE
    raise RecordError(f"no grpc:// endpoint: {shown(str(endpoints))}")


def _weight(value: object) -> float:
    try:
        weight = float(str(value))
    except ValueError:
        weight = 0.0
    if not 0 < weight < inf:
        raise RecordError(f"weight must be a number above 0, not {shown(str(value))}")
    return weight / _NORMAL_WEIGHT
