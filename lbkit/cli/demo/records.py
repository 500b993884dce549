"""The records of the demo's backends in the registry, as an operator changes them by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping

import lbkit
from lbkit.protos import etcd

_TIMEOUT_S = 5.0


class Records:
    """What backends have registered as.

    Args:
        members: where the registry is, ``host:port``; several with commas between them.
        prefix: what the keys of the service begin with.
    """

    def __init__(self, members: str, prefix: str) -> None:
        self._members = members
        self._prefix = prefix.encode()

    async def check(self) -> None:
        """See that the registry answers.

        Raises:
            RpcError: it does not.
        """
        async with lbkit.Channel(f"static:///{self._members}") as channel:
            request = etcd.RangeRequest(key=self._prefix, count_only=True)
            await channel.stub(etcd, "KV").Range(request, timeout=_TIMEOUT_S)

    async def weigh(self, weights: Mapping[str, float]) -> None:
        """Put weights into the records: what ``etcdctl put --ignore-lease`` does.

        Args:
            weights: by the address of the backend; who is not in it keeps its own.

        Raises:
            RpcError: the registry does not do it.
        """
        async with lbkit.Channel(f"static:///{self._members}") as channel:
            kv = channel.stub(etcd, "KV")
            # Up to the next that does not begin so.
            everything = self._prefix[:-1] + bytes([self._prefix[-1] + 1])
            request = etcd.RangeRequest(key=self._prefix, range_end=everything)
            for pair in (await kv.Range(request, timeout=_TIMEOUT_S)).kvs:
                record = json.loads(pair.value)
                if record["Addr"] in weights:
                    record["Metadata"] = {**(record["Metadata"] or {}), "weight": weights[record["Addr"]]}
                    value = json.dumps(record).encode()
                    await kv.Put(
                        etcd.PutRequest(key=pair.key, value=value, ignore_lease=True), timeout=_TIMEOUT_S
                    )
