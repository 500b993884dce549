"""Draw the tables of docs/design/http2.md from the code: `python scripts/draw_tables.py` writes, `--check` compares.

A table stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from lbkit.http2 import stream  # noqa: E402 -- not importable before
from lbkit.limits import Limits  # noqa: E402
from lbkit.transport import keepalive, state  # noqa: E402

PAGE = ROOT / "docs/design/http2.md"
ENGINE = tuple(ROOT / f"lbkit/http2/{name}.py" for name in ("engine", "headers", "control", "guard"))

# Where each default comes from; a limit without a line here is an error.
SOURCES = {
    "max_concurrent_streams": "Envoy's edge; h2's cost per stream grows with their number; CVE-2023-44487",
    "max_connections": "Envoy: 10 000 a listener",
    "max_connections_per_peer": "off, as everywhere",
    "max_message": "gRPC's default",
    "stream_window": "four times RFC 9113 6.9.2's default: a message of 256 KiB needs no second round trip",
    "connection_window": "four streams' worth",
    "max_window": "grpc-go, C-core: the largest bandwidth-delay product",
    "send_buffer": "measured: the peer reads the first part while the next is put together",
    "max_frame_size": "RFC 9113 4.2's default",
    "header_list_advertised": "PROTOCOL-HTTP2 suggests 8 KiB",
    "max_header_list": "C-core's hard limit",
    "abusive_header_list": "nghttp2; CVE-2016-6581",
    "continuation_frames": "nghttp2: 8; CVE-2024-28182, CERT VU#421644",
    "control_frames_pause": "grpc-go: 100",
    "control_frames": "nghttp2, Envoy: 1000; CVE-2019-9512, CVE-2019-9514, CVE-2019-9515",
    "resets_burst": "nghttp2 has 1000; Python pays more a stream; CVE-2023-44487, CVE-2025-8671",
    "resets_rate": "nghttp2 has 33",
    "glitches_burst": "nghttp2 has 10 000; RFC 9113 10.5",
    "glitches_rate": "nghttp2 has 330",
    "empty_frames": "Envoy has 1; CVE-2019-9518",
    "priority_frames": "Envoy's formula; CVE-2019-9513",
    "settings_burst": "CVE-2019-9515; grpc peers send one each time their window doubles",
    "settings_rate": "see above",
    "settings_entries": "nghttp2: 32",
    "settings_timeout_s": "RFC 9113 6.5.3 asks for one",
    "pings_burst": "CVE-2019-9512; peers that measure the path send one for each frame of ours, which is free",
    "pings_rate": "see above",
    "ping_interval_s": "gRFC A8: 5 min",
    "idle_ping_interval_s": "gRFC A8: 2 h",
    "ping_strikes": "gRFC A8: 2",
    "handshake_timeout_s": "slow connections; grpc-go and C-core allow 120 s",
    "header_timeout_s": "slow headers, RFC 9113 10.5",
    "write_timeout_s": "gRFC A18's 20 s",
}
# What acts that has no field of its own.
FORMULAS = {
    "window_updates": "5 + 2 x streams + 20 x frames sent (Envoy's formula, with HEADERS among the frames)",
}


class Rule(NamedTuple):
    """One place in the engine that finds fault with a peer."""

    section: str
    text: str
    level: str
    code: str
    where: str


def machine(states: tuple[str, ...], inputs: tuple[str, ...], table: tuple[int, ...]) -> Iterator[str]:
    """Draw a transition table."""
    yield f"| state | {' | '.join(inputs)} |"
    yield "|---" * (len(inputs) + 1) + "|"
    for number, name in enumerate(states):
        cells = table[number * len(inputs) : (number + 1) * len(inputs)]
        yield f"| {name} | {' | '.join('cannot come' if cell < 0 else states[cell] for cell in cells)} |"


def limits() -> Iterator[str]:
    """Draw the limits, each with its unit and its source."""
    yield "| limit | default | where the default comes from |"
    yield "|---|---|---|"
    defaults = Limits()
    names = [field.name for field in fields(Limits)]
    if set(names) != set(SOURCES):
        raise SystemExit(f"limits without a source, or sources without a limit: {set(names) ^ set(SOURCES)}")
    for name in names:
        yield f"| `{name}` | {_amount(name, getattr(defaults, name))} | {SOURCES[name]} |"
    for name, text in FORMULAS.items():
        yield f"| WINDOW_UPDATE frames (counted as `{name}`) | | {text} |"


def _amount(name: str, value: float) -> str:
    if name == "max_connections_per_peer" and not value:
        return "no limit"
    if name.endswith("_s"):
        return f"{value:g} s"
    if name.endswith("_rate"):
        return f"{value:g} a second"
    if isinstance(value, int) and value >= 8192 and value % 1024 == 0:
        return f"{value // 1024} KiB" if value < 1024 * 1024 else f"{value // (1024 * 1024)} MiB"
    return f"{value:,g}".replace(",", " ")


def rules() -> Iterator[str]:
    """Draw every fault that the engine finds: the section of the RFC, what it is, and what becomes of it."""
    yield "| RFC 9113 | what the peer did | ends | with | file |"
    yield "|---|---|---|---|---|"
    found = {rule for path in ENGINE for rule in _rules_of(path)}
    for rule in sorted(found, key=lambda rule: ([int(part) for part in rule.section.split(".")], rule)):
        yield f"| {rule.section} | {rule.text} | {rule.level} | {rule.code} | `{rule.where}` |"


def _rules_of(path: Path) -> Iterator[Rule]:
    tree = ast.parse(path.read_text())
    constants = _texts(tree.body)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        if function.name == "exceed":  # passes on what its callers say
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and (found := _judge(call)):
                level, code, text = found
                before = [
                    node for node in ast.walk(function) if getattr(node, "lineno", call.lineno) < call.lineno
                ]
                texts = constants | _texts(before)
                yield from _rule(path.stem, level, code, texts.get(getattr(text, "id", "")) or _text(text))


def _judge(call: ast.Call) -> tuple[str, ast.expr | None, ast.expr] | None:
    """Return level, code and text of a call that finds fault."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    arguments = call.args
    if name == "ConnectionFault":
        return "the connection", arguments[0], arguments[1]
    if name == "exceed":
        return "the connection", None, arguments[1]
    if name == "_stream_fault":
        return "the stream", arguments[1], arguments[2]
    if name == "_refuse":
        return "the stream", arguments[1], arguments[2]
    return None


def _rule(where: str, level: str, code: ast.expr | None, text: str) -> Iterator[Rule]:
    sections = re.search(r" \(RFC 9113 ([\d.]+)\)$", text)
    if where == "guard":  # what may be done only so often
        yield Rule("10.5", text, level, "ENHANCE_YOUR_CALM", where)
    elif sections:
        name = "ENHANCE_YOUR_CALM" if code is None else ast.unparse(code).replace("ErrorCode.", "")
        names = " or ".join(re.findall(r"[A-Z_]{6,}", _resolve(name))) or name
        yield Rule(sections[1], text[: sections.start()], level, names, where)
    elif code is None:
        yield Rule("10.5", text, level, "ENHANCE_YOUR_CALM", where)


def _resolve(name: str) -> str:
    # The one code that depends on the frame: WINDOW_UPDATE of nothing, or past the largest window.
    return "PROTOCOL_ERROR or FLOW_CONTROL_ERROR" if name == "code" else name


def _texts(nodes: Sequence[ast.AST]) -> dict[str, str]:
    """Collect the texts that are given names; of several of one name the last in the file."""
    found = {}
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and (text := _text(node.value))
        ):
            found[node.targets[0].id] = text
    return found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else f"*{_short(part)}*"
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        ]
        return "".join(map(str, parts)).replace("|", "\\|")
    return ""


def _short(part: ast.Constant | ast.FormattedValue) -> str:
    """Name what stands in a text: its last word is telling enough."""
    words = re.findall(r"[a-z]+", ast.unparse(part))
    return "n" if not words or words[0] == "len" else words[-1]


TABLES = {
    "streams": lambda: machine(stream.STATE_NAMES, stream.INPUT_NAMES, stream.TRANSITIONS),
    "connections": lambda: machine(state.STATE_NAMES, state.INPUT_NAMES, state.TRANSITIONS),
    "keepalive": lambda: machine(keepalive.STATE_NAMES, keepalive.INPUT_NAMES, keepalive.TRANSITIONS),
    "limits": limits,
    "rules": rules,
}


def draw(page: str) -> str:
    """Return the page with every table drawn anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(begin)
        if not found:
            raise SystemExit(f"{PAGE.name} has no place for the table {name}")
        page = before + begin + "\n".join(table()) + "\n" + end + rest.partition(end)[2]
    return page


def main() -> int:
    """Write the page, or compare it."""
    page = PAGE.read_text()
    drawn = draw(page)
    if "--check" in sys.argv:
        return int(page != drawn)
    PAGE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
