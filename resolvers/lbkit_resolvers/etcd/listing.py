"""What is known of the keys under a prefix: a list, changed by events. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import NamedTuple

from lbkit.address import Endpoint
from lbkit.protos import etcd
from lbkit_resolvers.etcd.codecs import Codec
from lbkit_resolvers.records import MAX_ENDPOINTS, MAX_VALUE_BYTES, RecordError, shown

MAX_KEYS = 10 * MAX_ENDPOINTS  # under one prefix; more is no service, and not kept in memory


class _Record(NamedTuple):
    """One key: its endpoint, or why there is none."""

    modified: int  # the revision
    endpoint: Endpoint | None
    problem: str


class View(NamedTuple):
    """What is to be published.

    Attributes:
        endpoints: in the order of their keys, each address once.
        problems: why records were passed over, by key.
    """

    endpoints: tuple[Endpoint, ...]
    problems: dict[str, str]


class Listing:
    """The records of one service, as of some revision.

    Of two records of one address (an instance came back before its old lease has expired) the newer one counts. More
    than ``MAX_ENDPOINTS`` are not used: the first ones by key are, so that all clients use the same.

    Attributes:
        name: of the service.
        codec: how they are read.
        cluster: the id of the cluster that they were read from; 0 for none yet.
        revision: the store's, up to which all is known.
    """

    def __init__(self, name: str, codec: Codec) -> None:
        self.name = name
        self.cluster = 0
        self.revision = 0
        self.codec = codec
        self._records: dict[bytes, _Record] = {}
        self._doubles = False  # two records had one address when they were last looked at

    def __len__(self) -> int:
        return len(self._records)

    def replace(self, cluster: int, revision: int, records: dict[bytes, _Record]) -> None:
        """Take a whole new list; see ``read``."""
        self.cluster, self.revision, self._records = cluster, revision, records

    def read(self, values: Iterable[etcd.KeyValue]) -> dict[bytes, _Record]:
        """Read a part of a list."""
        return {value.key: self._read(value) for value in values}

    def apply(self, events: Iterable[etcd.Event], revision: int) -> bool:
        """Take the events of a watch in; return whether there is anything new to publish."""
        changed = False
        for event in events:
            key = event.kv.key
            before = self._records.get(key)
            if event.type == etcd.Event.DELETE:
                changed |= self._records.pop(key, None) is not None
                continue
            now = self._records[key] = self._read(event.kv)
            # That it was written again matters where the newer of two records counts.
            changed |= before is None or before[1:] != now[1:] or self._doubles
        self.revision = max(self.revision, revision)
        return changed

    def view(self) -> View:
        """Return what is to be published."""
        found: dict[Hashable, _Record] = {}
        problems: dict[str, str] = {}
        self._doubles = False
        for key in sorted(self._records):
            record = self._records[key]
            if record.endpoint is None:
                problems[shown(key)] = record.problem
                continue
            other = found.get(record.endpoint.identity)
            self._doubles |= other is not None
            if other is None or other.modified < record.modified:
                found[record.endpoint.identity] = record
        if (spare := len(found) - MAX_ENDPOINTS) > 0:
            problems["what comes last"] = f"{len(found)} endpoints are {spare} more than lbkit takes"
        usable = islice(found.values(), MAX_ENDPOINTS)
        return View(tuple([record.endpoint for record in usable if record.endpoint is not None]), problems)

    def _read(self, value: etcd.KeyValue) -> _Record:
        size = len(value.value)
        if size > MAX_VALUE_BYTES:
            problem = f"{size} bytes are more than the {MAX_VALUE_BYTES} that are read"
            return _Record(value.mod_revision, None, problem)
        try:
            return _Record(value.mod_revision, self.codec.decode(value.key, value.value, self.name), "")
        except RecordError as error:
            return _Record(value.mod_revision, None, str(error))
