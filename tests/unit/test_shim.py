"""The stand-in for grpcio, piece by piece; tests/e2e/test_drop_in.py makes calls with it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import grpc
import pytest

import lbkit
from lbkit.compat import install_grpc_shim, shim
from lbkit.eof import EOF

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
GENCODE = "tests.support.protos.gencode"


class Refusal:
    """Refuses to import grpcio."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] == "grpc":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


OWN = {"annotations", "handlers", "NoReturn", "NotSupportedError"}  # what the shim imports to make the rest


class CallDetails(NamedTuple):
    """What a server asks a generic handler with."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


def forget_grpcio() -> None:
    """Have modules that import grpc do so again."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "grpc" or name.startswith(GENCODE):
            del sys.modules[name]


@pytest.fixture
def unloaded() -> Iterator[None]:
    """As if grpcio was installed, but not loaded yet."""
    with patch.dict(sys.modules):
        forget_grpcio()
        yield


@pytest.fixture
def missing(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if grpcio was not installed."""
    monkeypatch.setattr(sys, "meta_path", [Refusal(), *sys.meta_path])


# Where it is put


def test_nothing_is_done_where_grpcio_is_loaded() -> None:
    assert not install_grpc_shim()
    assert sys.modules["grpc"] is grpc


@pytest.mark.usefixtures("unloaded")
def test_nothing_is_done_where_grpcio_could_be_loaded() -> None:
    assert not install_grpc_shim()
    assert not [name for name in sys.modules if name.partition(".")[0] == "grpc"]


@pytest.mark.usefixtures("missing")
def test_stand_in_is_what_import_gives() -> None:
    assert install_grpc_shim()
    for name in ("grpc", "grpc._utilities", "grpc.aio", "grpc.experimental"):
        assert importlib.import_module(name).__name__.startswith("lbkit.compat.shim")
    assert importlib.import_module("grpc") is shim


@pytest.mark.usefixtures("missing")
def test_second_time_changes_nothing() -> None:
    assert install_grpc_shim()
    before = dict(sys.modules)
    assert install_grpc_shim()
    assert sys.modules == before


@pytest.mark.usefixtures("missing")
def test_other_parts_of_grpcio_are_missing_as_before() -> None:
    install_grpc_shim()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("grpc.framework")


def test_import_that_was_blocked_by_hand_counts_as_missing(unloaded: None) -> None:
    sys.modules["grpc"] = None  # type: ignore[assignment]
    assert install_grpc_shim()


def test_folder_named_grpc_is_not_grpcio(
    unloaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grpc").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert install_grpc_shim()


def test_importing_lbkit_brings_neither_the_shim_nor_grpcio() -> None:
    program = "import sys, lbkit; print([n for n in sys.modules if n.startswith(('lbkit.compat', 'grpc'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# What is in it


@pytest.mark.parametrize("kind", KINDS)
def test_method_handler_has_the_fields_of_grpcios(kind: str) -> None:
    def behaviour(request: Any, context: Any) -> None: ...

    given = {"request_deserializer": bytes.fromhex, "response_serializer": bytes.hex}
    made, theirs = (
        getattr(module, f"{kind}_rpc_method_handler")(behaviour, **given) for module in (shim, grpc)
    )
    for field in type(theirs)._fields:
        assert getattr(made, field) == getattr(theirs, field), field
    assert [name for name in KINDS if getattr(made, name)] == [kind]


def test_generic_handler_knows_its_methods_by_path() -> None:
    handler = shim.unary_unary_rpc_method_handler(lambda request, context: request)
    generic = shim.method_handlers_generic_handler("a.B", {"C": handler})
    assert isinstance(generic, shim.GenericRpcHandler)
    assert isinstance(generic, shim.ServiceRpcHandler)
    assert generic.service_name() == "a.B"
    assert generic.service(CallDetails("/a.B/C", ())) is handler
    assert generic.service(CallDetails("/a.B/D", ())) is None


def test_names_are_those_of_lbkit() -> None:
    assert shim.StatusCode is lbkit.StatusCode
    assert shim.ChannelConnectivity is lbkit.ConnectivityState
    assert shim.RpcError is shim.aio.AioRpcError is lbkit.RpcError
    assert shim.ServicerContext is shim.aio.ServicerContext is lbkit.ServicerContext
    assert shim.aio.Channel is lbkit.Channel
    assert shim.aio.Server is lbkit.Server
    assert shim.aio.EOF is EOF


@pytest.mark.parametrize("module", [shim, shim.aio, shim.experimental], ids=lambda module: module.__name__)
def test_every_public_name_is_one_of_grpcio(module: Any) -> None:
    importlib.import_module("grpc.experimental")  # no attribute of grpc before
    theirs = importlib.import_module(module.__name__.replace("lbkit.compat.shim", "grpc"))
    public = [name for name in vars(module) if not name.startswith("_") and name not in OWN]
    assert [name for name in public if not hasattr(theirs, name)] == []


def test_name_that_is_not_in_it_says_what_to_do() -> None:
    with pytest.raises(AttributeError, match=r"^grpc\.insecure_channel: .*install grpcio"):
        _ = shim.insecure_channel
    assert not hasattr(shim, "Compression")


def test_no_generated_code_is_too_new_for_it() -> None:
    assert not shim._utilities.first_version_is_lower(shim.__version__, "1.2000.0")
    utilities: Any = importlib.import_module("grpc._utilities")
    assert not utilities.first_version_is_lower(shim.__version__, "1.200.0")


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"])
def test_call_without_a_channel_is_refused(kind: str) -> None:
    install_grpc_shim()
    generated = importlib.import_module(f"{GENCODE}.v1_85.kinds_pb2_grpc")
    with pytest.raises(lbkit.NotSupportedError, match=rf"/lbkit\.tests\.Kinds/{kind}: .*lbkit\.Channel"):
        getattr(generated.Kinds, kind)(b"", "127.0.0.1:1")
