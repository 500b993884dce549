"""Numbers of RFC 9113: frame types, flags, settings, error codes, and how a frame header is packed."""

from __future__ import annotations

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 3.4

# Length (24 bits, as 16 + 8), type, flags, stream id with its reserved bit. RFC 9113 4.1.
pack_header = struct.Struct(">HBBBL").pack
unpack_header = struct.Struct(">HBBBL").unpack_from
pack_u32 = struct.Struct(">L").pack
unpack_u32 = struct.Struct(">L").unpack_from
unpack_setting = struct.Struct(">HL").unpack_from
pack_setting = struct.Struct(">HL").pack

STREAM_ID_MASK = 0x7FFFFFFF
MAX_WINDOW = 0x7FFFFFFF  # RFC 9113 6.9.1
MAX_STREAM_ID = 0x7FFFFFFF
DEFAULT_WINDOW = 65535  # RFC 9113 6.9.2
DEFAULT_FRAME_SIZE = 16384  # RFC 9113 4.2
MAX_FRAME_SIZE = 16777215

# Frame types, RFC 9113 6. Plain ints: the parse loop compares them for every frame.
DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20


class Setting(enum.IntEnum):
    """RFC 9113 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(enum.IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def error_name(code: int) -> str:
    """Return the name of an error code, or its number if RFC 9113 has none."""
    return ErrorCode(code).name if code in ErrorCode._value2member_map_ else f"error {code}"


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return one whole frame; for control frames, where speed does not matter."""
    size = len(payload)
    return pack_header(size >> 8, size & 0xFF, kind, flags, stream_id) + payload
