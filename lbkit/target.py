"""Targets: where something is to be found, as people write it. Resolvers and registrars read the same ones."""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import NamedTuple

from lbkit.errors import TargetError
from lbkit.masking import masked
from lbkit.suggest import did_you_mean

DEFAULT_SCHEME = "dns"


class Target(NamedTuple):
    """A channel's target, taken apart as the gRPC naming document says (RFC 3986).

    Attributes:
        text: as the user wrote it.
        scheme: selects the resolver; lower case.
        authority: between ``//`` and the next ``/``: usually where the registry is; may be empty.
        path: the name to resolve, percent-decoded, without its one leading ``/``.
        query: what follows ``?``, as written; it belongs to the resolver.
    """

    text: str
    scheme: str
    authority: str
    path: str
    query: str

    @classmethod
    def parse(cls, text: str, schemes: Container[str]) -> Target:
        """Take a target apart. Text without a scheme means ``dns:///text``.

        ``scheme:rest`` counts as a scheme only if it is in ``schemes`` (else it is ``host:port``), and
        ``scheme://`` always does, so that a mistyped scheme is not taken for a host name.

        Raises:
            TargetError: empty, or it holds blanks or control characters.
        """
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if not colon or not (rest.startswith("//") or scheme in schemes):
            scheme, rest = DEFAULT_SCHEME, f"///{text}"
        if not text or not text.isprintable() or " " in text:
            raise TargetError(f"target {text!r} is empty or holds blanks or control characters")
        path, _, query = rest.partition("?")
        authority = ""
        if path.startswith("//"):
            authority, slash, path = path[2:].partition("/")
            path = slash + path
        if "%" in path:
            from urllib.parse import unquote  # 3 ms to import, and few targets need it

            path = unquote(path)
        return cls(text, scheme, authority, path.removeprefix("/"), query)

    @property
    def file_path(self) -> str:
        """The path as that of a file: absolute if a slash was written before it."""
        absolute = self.text.partition(":")[2].startswith("/")
        return "/" + self.path.lstrip("/") if absolute else self.path

    def parameters(self) -> dict[str, str]:
        """Return the query as names and values.

        Raises:
            TargetError: not of the form ``name=value&name=value``, or a name given twice.
        """
        from urllib.parse import parse_qsl  # 3 ms to import, and few targets have a query

        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, strict_parsing=bool(self.query))
        except ValueError as error:
            raise TargetError(f"target {str(self)!r} has a malformed query: {error}") from None
        if len(dict(pairs)) != len(pairs):
            raise TargetError(f"target {str(self)!r} gives a parameter twice")
        return dict(pairs)

    def __str__(self) -> str:
        """The target as it may stand in a log: passwords and tokens in it are not shown."""
        return masked(self.text)


def check_parameters(target: Target, known: Collection[str], kind: str) -> None:
    """See that a plug-in knows every parameter of its target: a mistyped one is an outage waiting to happen.

    Args:
        target: whose query to look at.
        known: the names that it may have.
        kind: what the plug-in is, for the text.

    Raises:
        TargetError: there is another; says the nearest that is known, and all of them.
    """
    for name in target.parameters():
        if name not in known:
            raise TargetError(
                f"target {str(target)!r}: {kind} {target.scheme!r} has no parameter {name!r}."
                f"{did_you_mean(name, known)} Known: {', '.join(sorted(known)) or 'none'}"
            )
