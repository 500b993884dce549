"""What the two ends of an interop pair need for TLS, as it crosses to other processes, and a CA for runs by hand."""

from __future__ import annotations

import shutil
import ssl
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.certificates import Certificates, certificates

# Covered by the certificate, but no name of the address that is dialled: only an override gets there.
OVERRIDE = "interop.test.example"
SHARED = Path(__file__).parents[2] / ".cache" / "interop-ca"
WEEK_S = 7 * 24 * 3600  # certificates last for thirty days


class Identity(NamedTuple):
    """What a server shows: paths of a certificate and of its key."""

    cert: str
    key: str

    def pem(self) -> tuple[bytes, bytes]:
        """The key and the certificate, in grpcio's order."""
        return Path(self.key).read_bytes(), Path(self.cert).read_bytes()

    def context(self) -> ssl.SSLContext:
        """For servers on asyncio's TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        context.set_alpn_protocols(["h2"])
        return context


class Trust(NamedTuple):
    """Whom a client believes: the path of an authority's certificate, and the name that the server's must have."""

    ca: str
    name: str = ""

    def pem(self) -> bytes:
        """The certificate."""
        return Path(self.ca).read_bytes()

    def context(self) -> ssl.SSLContext:
        """For clients on asyncio's TLS."""
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["h2"])
        return context


def of_this_run() -> tuple[Identity, Trust]:
    """What the suite's pairs use; the name is overridden in all of them."""
    known = certificates()
    return Identity(str(known.cert), str(known.key)), Trust(str(known.ca), OVERRIDE)


def shared(folder: Path = SHARED) -> tuple[Identity, Trust]:
    """The test CA of runs by hand, which server and client find in the same place; made anew each week."""
    home = folder / f"week-{int(time.time() // WEEK_S)}"
    if not home.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder))
        known = Certificates(new)
        known.cert.replace(new / "server.pem")
        known.key.replace(new / "server.key")
        known.ca.replace(new / "ca.pem")
        try:
            new.rename(home)
        except OSError:  # another process was quicker
            shutil.rmtree(new)
    return Identity(str(home / "server.pem"), str(home / "server.key")), Trust(str(home / "ca.pem"))
