from __future__ import annotations

import abc
import asyncio
import copy
import pickle
import sys
import traceback
from types import ModuleType
from unittest.mock import MagicMock

import grpc
import grpc.aio
import pytest

import lbkit
from lbkit import foreign
from lbkit.compat import shim
from lbkit.errors import Attempt
from lbkit.foreign import rpc_error_class
from lbkit.metadata import Metadata


def an_error() -> lbkit.RpcError:
    return rpc_error_class()(
        lbkit.StatusCode.NOT_FOUND,
        "no such user",
        initial_metadata=Metadata([("a", "1")]),
        trailing_metadata=Metadata([("b", "2")]),
        attempts=[Attempt("10.0.0.1:50051", 0.25)],
        elapsed_s=0.5,
    )


def without_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "grpc")


# Which class


def test_error_is_plain_where_grpcio_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    without_grpcio(monkeypatch)
    assert rpc_error_class() is lbkit.RpcError


@pytest.mark.parametrize("other", [MagicMock(), ModuleType("grpc"), shim], ids=["mocked", "half", "shim"])
def test_error_is_plain_where_grpc_is_not_quite_grpcio(
    monkeypatch: pytest.MonkeyPatch, other: ModuleType
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", other)
    assert rpc_error_class() is lbkit.RpcError


@pytest.mark.parametrize("caught", [grpc.RpcError, grpc.aio.AioRpcError, lbkit.RpcError, lbkit.Error])
def test_error_is_caught_as_grpcios_and_as_ours(caught: type[Exception]) -> None:
    with pytest.raises(caught):
        raise an_error()


def test_error_has_one_class_only() -> None:
    assert rpc_error_class() is rpc_error_class()
    assert rpc_error_class() is not lbkit.RpcError


def test_cancelled_error_is_no_error_of_a_call() -> None:
    assert not issubclass(rpc_error_class(), asyncio.CancelledError)
    assert not issubclass(asyncio.CancelledError, lbkit.Error | grpc.RpcError)


# What it tells


def test_error_tells_what_the_plain_one_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = an_error()
    without_grpcio(monkeypatch)
    ours = an_error()
    assert type(ours) is not type(theirs)
    for error in (ours, theirs):
        assert error.code() is lbkit.StatusCode.NOT_FOUND
        assert error.details() == "no such user"
        assert error.initial_metadata() == Metadata([("a", "1")])
        assert error.trailing_metadata() == Metadata([("b", "2")])
        assert error.backend == "10.0.0.1:50051"
        assert error.elapsed_s == 0.5
        assert error.args == (lbkit.StatusCode.NOT_FOUND, "no such user")
        assert str(error) == "NOT_FOUND: no such user [10.0.0.1:50051, 0.500 s]"
        assert repr(error) == "RpcError(<StatusCode.NOT_FOUND: (5, 'not found')>, 'no such user')"


def test_code_is_found_where_codes_of_grpcio_are_the_keys() -> None:
    error = an_error()
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert {grpc.StatusCode.NOT_FOUND: 404}[error.code()] == 404  # type: ignore[index]


def test_debug_string_says_where_and_how_long() -> None:
    error = an_error()
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.debug_error_string() == "NOT_FOUND: no such user [10.0.0.1:50051, 0.500 s]"


def test_traceback_names_lbkit() -> None:
    last = traceback.format_exception_only(an_error())[-1]
    assert last == "lbkit.RpcError: NOT_FOUND: no such user [10.0.0.1:50051, 0.500 s]\n"


# Pickled


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_error_comes_back_whole(protocol: int) -> None:
    error = an_error()
    error.add_note("while signing in")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert again.trailing_metadata() == error.trailing_metadata()
    assert again.__notes__ == ["while signing in"]


def test_pickled_error_arrives_plain_where_grpcio_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    error = an_error()
    pickled = pickle.dumps(error)
    without_grpcio(monkeypatch)
    again = pickle.loads(pickled)
    assert type(again) is lbkit.RpcError
    assert str(again) == str(error)


def test_copied_error_is_as_good() -> None:
    error = an_error()
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)


# Virtual subclasses


def test_registered_class_is_an_instance_of_grpcios() -> None:
    class Server:
        pass

    assert not isinstance(Server(), grpc.aio.Server)
    foreign.register("Server", Server)
    foreign.register("Server", Server)
    assert isinstance(Server(), grpc.aio.Server)
    assert not isinstance(Server(), grpc.aio.Channel)


@pytest.mark.parametrize("other", [None, MagicMock(), ModuleType("grpc")], ids=["none", "mocked", "half"])
def test_registering_does_nothing_where_there_is_no_grpcio(
    monkeypatch: pytest.MonkeyPatch, other: ModuleType
) -> None:
    class Server:
        pass

    without_grpcio(monkeypatch)
    if other is not None:
        monkeypatch.setitem(sys.modules, "grpc", other)
    foreign.register("Server", Server)
    assert not isinstance(Server(), grpc.aio.Server)
    assert isinstance(grpc.aio.Server, abc.ABCMeta)
