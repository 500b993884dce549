"""DNS messages as ``fake_dns`` answers them, through dnspython. Imported with the first server: it takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

_PLAIN_BYTES = 512  # over UDP, for who says nothing of more (RFC 1035 4.2.1)


class Query(NamedTuple):
    """One question.

    Attributes:
        name: lower case, without the last dot.
        kind: ``A``, ``SRV`` ...
        message: all of it.
    """

    name: str
    kind: str
    message: dns.message.Message


class Record(NamedTuple):
    """Records of one name and kind, in an answer."""

    name: str
    kind: str
    ttl_s: int
    data: tuple[str, ...]


def read(wire: bytes) -> Query | None:
    """Read a question; None if it is none."""
    try:
        message = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return None
    if len(message.question) != 1:
        return None
    (question,) = message.question
    name = question.name.to_text(omit_final_dot=True).lower()
    return Query(name, dns.rdatatype.to_text(question.rdtype), message)


def check(name: str, kind: str, ttl_s: int, data: tuple[str, ...]) -> None:
    """See that records can be written.

    Raises:
        ValueError: one cannot; says which and why.
    """
    try:
        owner = dns.name.from_text(name)
        dns.rdatatype.from_text(kind)
    except dns.exception.DNSException as error:
        why = str(error) or type(error).__name__
        raise ValueError(f"{name!r} is no name, or {kind!r} no kind of record: {why}") from None
    for each in data:
        try:
            dns.rrset.from_text(owner, ttl_s, "IN", kind, each)
        except (dns.exception.DNSException, ValueError) as error:
            why = str(error) or type(error).__name__
            raise ValueError(f"{each!r} is no {kind} record of {name}: {why}") from None


def check_code(code: str) -> None:
    """See that there is such an error code.

    Raises:
        ValueError: there is not.
    """
    try:
        dns.rcode.from_text(code)
    except dns.exception.DNSException:
        raise ValueError(f"{code!r} is no fault; write an error code of DNS, like SERVFAIL") from None


def answer(query: Query, records: Iterable[Record], *, code: str = "NOERROR", tcp: bool, cut: bool) -> bytes:
    """Write an answer; over UDP without what does not fit, and with a flag that says so (RFC 2181 9).

    Args:
        query: what was asked.
        records: what there is to say.
        code: the error code.
        tcp: whether it goes over TCP.
        cut: say over UDP that it does not fit, even if it would.
    """
    response = dns.message.make_response(query.message)
    response.set_rcode(dns.rcode.from_text(code))
    for record in records:
        owner = dns.name.from_text(record.name)
        response.answer.append(dns.rrset.from_text(owner, record.ttl_s, "IN", record.kind, *record.data))
    if tcp:
        return response.to_wire()
    if not cut:
        try:
            return response.to_wire(max_size=max(_PLAIN_BYTES, query.message.payload))
        except dns.exception.TooBig:
            pass
    response.answer.clear()
    response.flags |= dns.flags.TC
    return response.to_wire()


def forged(query: Query) -> bytes:
    """Write an answer as somebody would who did not see the question: under another id."""
    data = {"A": "192.0.2.66", "AAAA": "2001:db8::66"}.get(query.kind)
    records = [Record(query.name, query.kind, 300, (data,))] if data else []
    wire = answer(query, records, tcp=True, cut=False)
    return (query.message.id ^ 1).to_bytes(2, "big") + wire[2:]
