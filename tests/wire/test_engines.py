"""Which engine a name stands for, and what is said when there is none."""

from __future__ import annotations

import sys

import pytest

import lbkit
from lbkit.http2.engine import NativeEngine
from lbkit.http2.engines import VARIABLE, engine_factory
from lbkit.http2.reference.engine import H2Engine


def test_native_engine_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert engine_factory() is NativeEngine
    assert engine_factory("native") is NativeEngine


def test_environment_decides_where_the_program_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "h2")
    assert engine_factory() is H2Engine
    assert engine_factory("native") is NativeEngine


def test_unknown_engine_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"no HTTP/2 engine 'nativ'\. Did you mean 'native'\?"):
        lbkit.Channel("static:///a:1", engine="nativ")
    with pytest.raises(ValueError, match="no HTTP/2 engine 'h3'"):
        lbkit.Server(engine="h3")


def test_engine_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lbkit.http2.reference.engine")
    monkeypatch.setitem(sys.modules, "h2.events", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install 'lbkit\[h2\]'"):
        engine_factory("h2")
