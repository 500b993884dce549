"""What a fake API server keeps: objects, their versions, and what changed. Pure, apart from the date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

Object: TypeAlias = dict[str, Any]

_FIRST_VERSION = 1000
_MOST_ENDPOINTS = 1000  # in one slice


class Refusal(Exception):
    """An answer other than the one that was asked for, as the API has it.

    Attributes:
        status: of HTTP.
        reason: the API's word for it.
        retry_after: the header of that name; empty for none.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Change(NamedTuple):
    """One write: the object before it and after it; None for none."""

    version: int
    before: Object | None
    after: Object | None


class Selector:
    """``labelSelector`` and ``fieldSelector`` of a request, and its namespace.

    Raises:
        Refusal: what is written there is none.
    """

    def __init__(self, namespace: str = "", labels: str = "", fields: str = "") -> None:
        self._namespace = namespace
        self._tests = [_label_test(each) for each in _parts(labels)]
        self._tests += [_field_test(each) for each in _parts(fields)]

    def takes(self, about: Object | None) -> bool:
        """Whether it is about this object."""
        if about is None or (self._namespace and about["metadata"]["namespace"] != self._namespace):
            return False
        return all(test(about) for test in self._tests)

    def event(self, change: Change) -> tuple[str, Object] | None:
        """Return what a watch says about a change: what is selected no longer is DELETED; None for nothing."""
        before, after = self.takes(change.before), self.takes(change.after)
        if after:
            assert change.after is not None
            return "MODIFIED" if before else "ADDED", change.after
        if before:
            assert change.before is not None
            gone = deepcopy(change.before)
            gone["metadata"]["resourceVersion"] = str(change.version)
            return "DELETED", gone
        return None


class Store:
    """All EndpointSlices, and every change that has not been forgotten.

    Args:
        tell: called with each change.

    Attributes:
        version: of the last change.
        compacted: versions below this are forgotten.
    """

    def __init__(self, tell: Callable[[Change], None]) -> None:
        self.version = _FIRST_VERSION
        self.compacted = _FIRST_VERSION
        self._tell = tell
        self._objects: dict[tuple[str, str], Object] = {}
        self._changes: list[Change] = []
        self._pages: dict[str, list[Object]] = {}  # what is left of lists that are being read

    def get(self, namespace: str, name: str) -> Object:
        """Return an object.

        Raises:
            Refusal: there is none of that name.
        """
        found = self._objects.get((namespace, name))
        if found is None:
            raise Refusal(404, "NotFound", f'endpointslices.discovery.k8s.io "{name}" not found')
        return found

    def put(self, about: Mapping[str, Any], namespace: str, *, create: bool | None = None) -> Object:
        """Create an object, or replace it. One that says the same as before is no change.

        Args:
            about: the manifest.
            namespace: for one that names none.
            create: whether it must be new (True) or must be there (False).

        Raises:
            Refusal: it is not valid, or there (not there), or was changed since the version that it bears.
        """
        new = deepcopy(dict(about))
        name = _checked(new)
        metadata = new["metadata"]
        key = metadata.setdefault("namespace", namespace), name
        before = self._objects.get(key)
        if create is False:
            self.get(*key)
        elif create and before is not None:
            raise Refusal(409, "AlreadyExists", f'endpointslices.discovery.k8s.io "{name}" already exists')
        if before is None:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            kept: Object = {"uid": str(uuid4()), "creationTimestamp": now, "generation": 0}
        else:
            kept = before["metadata"]
            if metadata.get("resourceVersion", kept["resourceVersion"]) != kept["resourceVersion"]:
                raise Refusal(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on endpointslices.discovery.k8s.io "{name}": the object has been '
                    "modified; please apply your changes to the latest version and try again",
                )
            if new["addressType"] != before["addressType"]:
                raise _invalid(name, "addressType: field is immutable")
        metadata.update({key: kept[key] for key in ("uid", "creationTimestamp", "generation")})
        metadata["resourceVersion"] = kept.get("resourceVersion")
        if new == before:
            return new
        metadata["generation"] += 1
        metadata["resourceVersion"] = str(self.version + 1)
        self._objects[key] = new
        self._changed(before, new)
        return new

    def delete(self, namespace: str, name: str) -> Object:
        """Delete an object, and return it.

        Raises:
            Refusal: there is none of that name.
        """
        gone = self.get(namespace, name)
        del self._objects[namespace, name]
        self._changed(gone, None)
        return gone

    def page(self, selector: Selector, limit: int = 0, rest: str = "") -> tuple[list[Object], Object]:
        """Return a page, and the metadata of the list: all pages are of one moment.

        Raises:
            Refusal: the list has expired.
        """
        if rest:
            items = self._pages.pop(rest, None)
            if items is None:
                raise Refusal(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")  # fmt: skip
            version = rest.partition("-")[0]
        else:
            items = [each for _, each in sorted(self._objects.items()) if selector.takes(each)]
            version = str(self.version)
        metadata: Object = {"resourceVersion": version}
        if limit and len(items) > limit:
            metadata["continue"] = f"{version}-{uuid4()}"
            metadata["remainingItemCount"] = len(items) - limit
            self._pages[metadata["continue"]] = items[limit:]
            items = items[:limit]
        return items, metadata

    def since(self, version: int) -> list[Change]:
        """Return what changed after a version.

        Raises:
            Refusal: that has been forgotten.
        """
        if version < self.compacted:
            raise Refusal(410, "Expired", f"too old resource version: {version} ({self.compacted})")
        return [change for change in self._changes if change.version > version]

    def compact(self) -> None:
        """Forget all changes, and the lists that are being read."""
        self.version += 1  # something else has changed, as always in a cluster
        self.compacted = self.version
        self._changes.clear()
        self._pages.clear()

    def _changed(self, before: Object | None, after: Object | None) -> None:
        self.version += 1
        change = Change(self.version, before, after)
        self._changes.append(change)
        self._tell(change)


def _checked(about: Object) -> str:
    """Return the name of a manifest that is one; what the real server checks beside this is not looked at."""
    metadata = about.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise _invalid("", "metadata.name: Required value: name or generateName is required")
    if about.setdefault("addressType", None) not in ("IPv4", "IPv6", "FQDN"):
        raise _invalid(name, 'addressType: Unsupported value: supported values: "FQDN", "IPv4", "IPv6"')
    endpoints = about.get("endpoints") or []
    if not isinstance(endpoints, list) or not all(isinstance(each, dict) for each in endpoints):
        raise _invalid(name, "endpoints: Invalid value: must be a list of objects")
    if len(endpoints) > _MOST_ENDPOINTS:
        raise _invalid(name, f"endpoints: Too many: must have at most {_MOST_ENDPOINTS} items")
    about["apiVersion"], about["kind"] = "discovery.k8s.io/v1", "EndpointSlice"
    return name


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(422, "Invalid", f'EndpointSlice.discovery.k8s.io "{name}" is invalid: {why}')


def _parts(text: str) -> list[str]:
    """Split at commas, not those within parentheses."""
    parts: list[str] = []
    depth = 0
    for each in text.split(","):
        if depth:
            parts[-1] += f",{each}"
        else:
            parts.append(each)
        depth += each.count("(") - each.count(")")
    return [part.strip() for part in parts if part.strip()]


def _label_test(text: str) -> Callable[[Object], bool]:
    """Read one requirement: ``a=b``, ``a!=b``, ``a``, ``!a``, ``a in (b, c)`` or ``a notin (b, c)``."""
    words = text.split(None, 2)
    if len(words) == 3 and words[1] in {"in", "notin"}:
        among = {word.strip() for word in words[2].strip("() ").split(",")}
        return lambda about: (_labels(about).get(words[0]) in among) == (words[1] == "in")
    if "!=" in text:
        key, _, value = text.partition("!=")
        return lambda about: _labels(about).get(key.strip()) != value.strip()
    if "=" in text:
        key, _, value = text.replace("==", "=").partition("=")
        return lambda about: _labels(about).get(key.strip()) == value.strip()
    return lambda about: (text.lstrip("!") in _labels(about)) != text.startswith("!")


def _labels(about: Object) -> Mapping[str, Any]:
    found: Mapping[str, Any] = about["metadata"].get("labels") or {}
    return found


def _field_test(text: str) -> Callable[[Object], bool]:
    key, equal, value = text.replace("==", "=").partition("=")
    field = key.removeprefix("metadata.")
    if not equal or field not in {"name", "namespace"} or field == key:
        raise Refusal(400, "BadRequest", f"field label not supported: {key}")
    return lambda about: about["metadata"].get(field) == value
