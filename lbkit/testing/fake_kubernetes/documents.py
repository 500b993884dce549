"""What an API server says beside objects: which APIs it has, errors, and tables for ``kubectl``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

GROUP, VERSION = "discovery.k8s.io", "v1"
_GROUP_VERSION = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
_GROUP = {"name": GROUP, "versions": [_GROUP_VERSION], "preferredVersion": _GROUP_VERSION}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]

DOCUMENTS: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0+lbkit-fake", "platform": "linux/amd64"},
    "/api": {"kind": "APIVersions", "versions": []},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]},
    f"/apis/{GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **_GROUP},
    f"/apis/{GROUP}/{VERSION}": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{VERSION}",
        "resources": [
            {
                "name": "endpointslices",
                "singularName": "endpointslice",
                "namespaced": True,
                "kind": "EndpointSlice",
                "verbs": _VERBS,
            }
        ],
    },
}

_COLUMNS = [
    {
        "name": name,
        "type": "string",
        "format": "name" if name == "Name" else "",
        "description": "",
        "priority": 0,
    }
    for name in ("Name", "AddressType", "Ports", "Endpoints", "Age")
]
_SHOWN = 3  # ports and endpoints in a cell


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """Make a ``Status`` (meta/v1): what the body of an error is, and the object of an ERROR event."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success" if code < 300 else "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def table(items: list[dict[str, Any]], metadata: dict[str, Any], *, columns: bool = True) -> dict[str, Any]:
    """Make the ``Table`` that ``kubectl get`` prints; of a watch's, only the first has the columns."""
    rows = []
    for item in items:
        about = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": item["metadata"],
        }
        rows.append({"cells": _cells(item), "object": about})
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": _COLUMNS if columns else None,
        "rows": rows,
    }


def _cells(item: dict[str, Any]) -> list[str]:
    ports = [str(port.get("port") or "*") for port in item.get("ports") or []]
    endpoints = [address for each in item.get("endpoints") or [] for address in each.get("addresses") or []]
    return [item["metadata"]["name"], item["addressType"], _few(ports), _few(endpoints), _age(item)]


def _few(found: list[str]) -> str:
    if not found:
        return "<unset>"
    more = f" + {len(found) - _SHOWN} more..." if len(found) > _SHOWN else ""
    return ",".join(found[:_SHOWN]) + more


def _age(item: dict[str, Any]) -> str:
    made = datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    seconds = int((datetime.now(UTC) - made).total_seconds())
    return f"{seconds}s" if seconds < 120 else f"{seconds // 60}m"
