"""Certificates for tests, made by openssl when the first test asks for them: nothing is committed that expires."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = "DNS:localhost,DNS:*.test.example,IP:127.0.0.1,IP:::1"
CLIENT_NAMES = "DNS:client.example,URI:spiffe://example/client,IP:10.0.0.1,email:who@client.example"
_EXTENSIONS = "subjectAltName={}\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"


class Authority:
    """A certificate authority in a folder, and what it signs.

    Attributes:
        ca: the path of its certificate.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.ca = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._serial = 0
        _openssl(
            "req", "-x509", *_new_key(self._key), "-subj", f"/CN={name}", "-days", "30", "-out", self.ca,
            "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def issue(self, name: str, names: str = NAMES, *, days: int = 30) -> tuple[Path, Path]:
        """Sign a new certificate; give its path and its key's. With a negative number of days it has expired."""
        self._serial += 1
        stem = self._folder / f"{self._name}-{self._serial}"
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        cert, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        extensions.write_text(_EXTENSIONS.format(names))
        _openssl("req", *_new_key(key), "-subj", f"/O=lbkit/CN={name}", "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-set_serial", str(self._serial),
            "-days", str(days), "-extfile", extensions, "-out", cert,
        )  # fmt: skip
        return cert, key


class Certificates:
    """What the tests of TLS need.

    Attributes:
        folder: where all of it is.
        authority: whom both sides trust; ``other`` is another one, trusted by nobody.
        cert, key: of the server, for localhost and the loopback addresses.
        client_cert, client_key: of a client.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "test CA")
        self.other = Authority(folder, "other CA")
        self.cert, self.key = self.authority.issue("server one")
        self.client_cert, self.client_key = self.authority.issue("client one", CLIENT_NAMES)

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.authority.ca

    @functools.cached_property
    def expired(self) -> tuple[Path, Path]:
        """A server's certificate and key, out of date."""
        return self.authority.issue("server of old", days=-1)

    @functools.cached_property
    def nameless(self) -> tuple[Path, Path]:
        """A server's certificate and key for other names than those of this machine."""
        return self.authority.issue("elsewhere", "DNS:elsewhere.example,DNS:www.elsewhere.example")

    @functools.cached_property
    def foreign_client(self) -> tuple[Path, Path]:
        """A client's certificate and key that the other authority signed."""
        return self.other.issue("stranger", "DNS:stranger.example")


@functools.cache
def certificates() -> Certificates:
    """Make them once for the whole run; the folder goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="lbkit-certificates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Certificates(folder)


def _new_key(path: Path) -> list[str | Path]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def _openssl(*arguments: str | Path) -> None:
    assert shutil.which("openssl"), "the tests of TLS need the openssl command: apt-get install openssl"
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
