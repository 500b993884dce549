from __future__ import annotations

import inspect
import re

import pytest

import lbkit
from lbkit import errors
from lbkit.errors import Attempt, RpcError, UnknownPluginError
from lbkit.metadata import Metadata
from lbkit.plugins import Registry
from lbkit.status import Status, StatusCode

A = Attempt("10.0.0.1:50051", 0.0)
B = Attempt("10.0.0.2:50051", 0.25)


# RpcError


def test_rpc_error_that_never_got_to_a_backend_is_told_without_one() -> None:
    error = RpcError(StatusCode.UNAVAILABLE, "all backends are down", elapsed_s=1.5)
    assert str(error) == "UNAVAILABLE: all backends are down"
    assert error.backend is None
    assert error.attempts == ()
    assert error.elapsed_s == 1.5


def test_rpc_error_names_the_last_backend_and_the_time() -> None:
    error = RpcError(StatusCode.NOT_FOUND, "no such user", attempts=[A, B], elapsed_s=0.5128)
    assert str(error) == "NOT_FOUND: no such user [2 attempts, 10.0.0.2:50051, 0.513 s]"
    assert error.backend == "10.0.0.2:50051"
    assert error.elapsed_s == 0.5128


def test_rpc_error_keeps_every_attempt_in_order_whatever_becomes_of_the_list() -> None:
    attempts = [A, B]
    error = RpcError(StatusCode.UNAVAILABLE, attempts=attempts)
    attempts.clear()
    assert error.attempts == (A, B)
    assert [(each.backend, each.started_s) for each in error.attempts] == [
        ("10.0.0.1:50051", 0.0),
        ("10.0.0.2:50051", 0.25),
    ]


def test_attempt_is_told_with_its_kind_backend_start_and_end() -> None:
    assert repr(B) == "first on 10.0.0.2:50051 at +0.250 s, running"
    ended = Attempt("10.0.0.1:50051", 1.0, "retry", Status(StatusCode.UNAVAILABLE, "the connection broke"))
    assert repr(ended) == "retry on 10.0.0.1:50051 at +1.000 s, UNAVAILABLE: the connection broke"


def test_rpc_error_is_read_through_methods_as_of_grpc_aio() -> None:
    initial, trailing = Metadata([("a", "1")]), Metadata([("b", "2")])
    error = RpcError(StatusCode.ABORTED, "lost a race", initial_metadata=initial, trailing_metadata=trailing)
    assert error.code() is StatusCode.ABORTED
    assert error.details() == "lost a race"
    assert error.initial_metadata() == initial
    assert error.trailing_metadata() == trailing
    assert error.args == (StatusCode.ABORTED, "lost a race")


def test_rpc_error_of_a_code_alone_is_empty_otherwise() -> None:
    error = RpcError(StatusCode.INTERNAL)
    assert str(error) == "INTERNAL: "
    assert error.details() == ""
    assert error.initial_metadata() == Metadata()
    assert error.trailing_metadata() == Metadata()
    assert error.elapsed_s == 0.0


# Texts


def registry(*names: str) -> Registry[str]:
    things: Registry[str] = Registry("thing", "test.things", str, entry_points=lambda group: [])
    for name in names:
        things.register(name, name)
    return things


def test_unknown_plugin_error_says_the_nearest_and_all_known_names() -> None:
    with pytest.raises(UnknownPluginError) as caught:
        registry("round_robin", "pick_first").get("round-robin")
    assert str(caught.value) == (
        "no thing 'round-robin'. Did you mean 'round_robin'? Known: pick_first, round_robin"
    )


def test_unknown_plugin_error_guesses_nothing_when_no_name_is_near() -> None:
    with pytest.raises(LookupError) as caught:
        registry("round_robin").get("xyz")
    assert str(caught.value) == "no thing 'xyz'. Known: round_robin"


def test_unknown_plugin_error_without_any_plugin_says_what_to_do() -> None:
    with pytest.raises(
        UnknownPluginError, match=r"register plug-ins explicitly, with the lbkit\.thing decorator"
    ):
        registry().get("xyz")


def test_unknown_plugin_error_is_plain_text_with_line_ends_and_quotes() -> None:
    assert str(UnknownPluginError("it's\n'there'")) == "it's\n'there'"


# The tree


def documented() -> dict[str, tuple[str | None, set[str]]]:
    """Read the tree in the module's docstring: each name with its parent, and its "also a" bases."""
    found: dict[str, tuple[str | None, set[str]]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if item := re.match(r"( *)- ``(\w+)``", line):
            depth, name = len(item[1]) // 4, item[2]
            path[depth:] = [name]
            found[name] = (path[depth - 1] if depth else None, set(re.findall(r"also an? (\w+)", line)))
    return found


DOCUMENTED = documented()
DEFINED = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BaseException)
}
PLAIN = {"Exception", "BaseException", "object"}


def test_the_docstring_lists_every_exception() -> None:
    assert set(DOCUMENTED) == set(DEFINED)


@pytest.mark.parametrize("name", DEFINED)
def test_bases_are_as_documented(name: str) -> None:
    parent, also = DOCUMENTED[name]
    first = DEFINED[name].__bases__[0]
    assert first is (DEFINED[parent] if parent else Exception)
    builtin = {base.__name__ for base in DEFINED[name].__mro__ if base.__module__ == "builtins"}
    assert builtin - PLAIN == also


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("TargetError", ValueError),
        ("AddressError", ValueError),
        ("MetadataError", ValueError),
        ("UnknownPluginError", LookupError),
    ],
)
def test_what_is_wrong_with_a_value_is_caught_as_python_s_own_error(name: str, base: type[Exception]) -> None:
    assert issubclass(DEFINED[name], base)


def test_every_exception_is_public_and_every_public_exception_is_an_lbkit_error() -> None:
    public = {
        name: value
        for name in lbkit.__all__
        if inspect.isclass(value := getattr(lbkit, name)) and issubclass(value, BaseException)
    }
    assert public == DEFINED
    assert all(issubclass(value, lbkit.Error) for value in public.values())
