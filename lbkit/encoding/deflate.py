"""``gzip`` and ``deflate``, which every gRPC implementation knows."""

from __future__ import annotations

from lbkit.encoding.faults import behind_the_end, cut_short, oversized
from lbkit.errors import CorruptDataError


class Deflate:
    """The format of zlib (RFC 1950), which gRPC and HTTP call deflate."""

    window_bits = 15

    def compress(self, data: bytes) -> bytes:
        """Compress at zlib's default level, which is also grpcio's and grpc-go's."""
        import zlib  # as with all of these: who compresses nothing need not load it

        return zlib.compress(data, wbits=self.window_bits)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Decompress, and check the checksum; errors as ``Compressor.decompress``."""
        import zlib

        stream = zlib.decompressobj(self.window_bits)
        try:
            plain = stream.decompress(data, limit + 1)
        except zlib.error as error:
            raise CorruptDataError(str(error)) from None
        if len(plain) > limit:
            raise oversized(limit)
        if not stream.eof:
            raise cut_short()
        if stream.unused_data:
            raise behind_the_end(len(stream.unused_data))
        return plain


class Gzip(Deflate):
    """The format of gzip (RFC 1952): one member."""

    window_bits = 31
