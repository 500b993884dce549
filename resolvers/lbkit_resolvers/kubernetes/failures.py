"""What can go wrong between the resolver and the API server, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbkit.errors import ResolverError
from lbkit_resolvers.records import shown

SLOW_S = 30.0  # before asking again what a person has to put right first
_LONGEST_S = 300.0  # that a server can ask us to wait

RULE = (
    'a Role with {{apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["get", "list", "watch"]}}'
    " in namespace {namespace}, and a RoleBinding of it to this service account"
)

# The cure for each status that a person must do something about.
_CURES: Mapping[int, str] = {
    400: "does the server speak the Kubernetes API?",
    401: "the token or certificate is not accepted any more; the token was read again",
    403: f"allow it with {RULE}",
    404: "there is no discovery.k8s.io/v1 at this address: Kubernetes 1.21 or later is needed, and the address of its API server",
}


class Failure(ResolverError):
    """One attempt to list or to watch failed.

    Attributes:
        expired: the version that was asked for is of no use any more: list again.
        status: the HTTP status; 0 if there was none.
        wait_s: seconds to wait at least before the next attempt.
        passing: what happens to a connection sooner or later, if it was good before: nobody has to hear of it.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int = 0,
        wait_s: float = 0.0,
        expired: bool = False,
        passing: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.wait_s = wait_s
        self.expired = expired
        self.passing = passing


def refused(
    where: str, namespace: str, status: int, body: Any, retry_after: str | None = None, slow_s: float = SLOW_S
) -> Failure:
    """Make the failure of an answer that is not 200, or of an ERROR event, which holds the same.

    Args:
        where: the server and the service, to begin the text with.
        namespace: for the RBAC rule in the text.
        status: the HTTP status, or the code of the event.
        body: what came with it: a ``Status`` object (meta/v1) if the API server made it, as text or parsed.
        retry_after: the header of that name (RFC 9110 10.2.3); only seconds are understood.
        slow_s: for what a person has to put right.
    """
    said = _said(body)
    text = f"{where}: the API server answered {status}{said and ': ' + said}"
    if status == 410 or (status == 504 and _too_new(body)):
        return Failure(f"{text}; listing again", status=status, expired=True, passing=status == 410)
    if status in _CURES:
        # Where only watching is refused, listing every now and then is the next best.
        cure = _CURES[status].format(namespace=namespace)
        return Failure(f"{text}; {cure}", status=status, wait_s=slow_s, expired=True)
    if 300 <= status < 400:
        return Failure(
            f"{text}; redirections are not followed, as the token would go with them", wait_s=slow_s
        )
    asked = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
    return Failure(text, status=status, wait_s=min(asked, _LONGEST_S))


def _said(body: Any) -> str:
    """Return what the server says about it, as it may stand in a log."""
    if isinstance(body, Mapping):
        body = body.get("message")
    return shown(body.strip(), 300) if isinstance(body, str) else ""


def _too_new(body: Any) -> bool:
    """Whether a server that was restored from a backup does not know our version yet, and may never."""
    details = body.get("details") if isinstance(body, Mapping) else None
    causes = details.get("causes") if isinstance(details, Mapping) else None
    return isinstance(causes, list) and any(
        isinstance(cause, Mapping) and cause.get("reason") == "ResourceVersionTooLarge" for cause in causes
    )
