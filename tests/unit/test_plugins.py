from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from lbkit.errors import BrokenPluginError, DuplicatePluginError, PluginError, UnknownPluginError
from lbkit.plugins import Origin, Registry, origin_of

GROUP = "test.things"


def adapt(plugin: object) -> str:
    if not isinstance(plugin, str):
        raise TypeError(f"{plugin!r} must be text")
    return plugin


def registry(*entries: tuple[str, str]) -> Registry[str]:
    listed = [EntryPoint(name, value, GROUP) for name, value in entries]
    return Registry("thing", GROUP, adapt, entry_points=lambda group: listed)


@pytest.fixture
def module() -> Iterator[Any]:
    made = ModuleType("lbkit_test_plugins")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


ANN = Origin("ann", "plugin")
BOB = Origin("bob", "plugin")


def test_registered_is_found() -> None:
    things = registry()
    things.register("a-b_c.d+1", "it", origin=ANN)
    assert things.get("a-b_c.d+1") == "it"
    assert "a-b_c.d+1" in things
    assert list(things) == ["a-b_c.d+1"]


@pytest.mark.parametrize("name", ["", "Upper", "with space", "a/b", "a:b", "ä"])
def test_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"thing name .*: use lower-case letters"):
        registry().register(name, "it", origin=ANN)


def test_entry_point_is_imported_on_first_use(module: Any) -> None:
    module.plugin = "installed"
    things = registry(("one", "lbkit_test_plugins:plugin"), ("broken", "no_such_module:plugin"))
    assert things.names() == ["broken", "one"]
    assert things.get("one") == "installed"
    module.plugin = "changed"
    assert things.get("one") == "installed"


def test_entry_points_are_listed_once_and_late() -> None:
    asked: list[str] = []

    def list_entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return []

    things = Registry("thing", GROUP, adapt, entry_points=list_entry_points)
    things.register("one", "it", origin=ANN)
    assert not asked
    assert "one" in things.names()
    assert things.get("one") == "it"
    assert asked == [GROUP]


def test_same_entry_point_twice_is_one(module: Any) -> None:
    module.plugin = "installed"
    entry = ("one", "lbkit_test_plugins:plugin")
    assert registry(entry, entry).get("one") == "installed"


def test_entry_point_whose_module_registers_itself(module: Any) -> None:
    things = registry(("one", "lbkit_test_plugins:plugin"))

    def load(name: str) -> str:
        things.register("one", "registered", origin=Origin("lbkit_test_plugins", "plugin"))
        return "named"

    module.__getattr__ = load
    assert things.get("one") == "registered"
    assert things.get("one") == "registered"


def test_entry_point_may_name_a_re_export(module: Any) -> None:
    things: Registry[object] = Registry(
        "thing",
        GROUP,
        lambda plugin: plugin,
        entry_points=lambda _: [EntryPoint("one", f"{module.__name__}:it", GROUP)],
    )
    module.it = Plugin
    things.register("one", Plugin)  # as the decorator did where it is defined
    assert things.get("one") is Plugin
    things.register("one", adapt)
    with pytest.raises(DuplicatePluginError, match=f"{__name__}:Plugin and {__name__}:adapt"):
        things.get("one")


def test_unknown_says_the_nearest_and_all() -> None:
    things = registry(("static", "a:b"), ("manual", "a:b"))
    with pytest.raises(UnknownPluginError) as caught:
        things.get("statik")
    assert str(caught.value) == "no thing 'statik'. Did you mean 'static'? Known: manual, static"


def test_unknown_without_a_near_one_says_all() -> None:
    with pytest.raises(LookupError, match=r"^no thing 'zzz'\. Known: static$"):
        registry(("static", "a:b")).get("zzz")


def test_frozen_application_is_told_to_register() -> None:
    with pytest.raises(
        PluginError, match=r"no entry points of group 'test.things' are visible; .*lbkit.thing"
    ):
        registry().get("static")


def test_two_owners_clash_when_the_name_is_used() -> None:
    things = registry()
    things.register("one", "a", origin=ANN)
    things.register("one", "b", origin=BOB)
    assert things.names() == ["one"]
    with pytest.raises(DuplicatePluginError, match="thing 'one' is claimed by ann:plugin and bob:plugin"):
        things.get("one")


def test_registered_and_installed_clash() -> None:
    things = registry(("one", "ann:plugin"))
    things.register("one", "b", origin=BOB)
    with pytest.raises(DuplicatePluginError, match="bob:plugin and ann:plugin"):
        things.get("one")


def test_two_installed_clash() -> None:
    with pytest.raises(DuplicatePluginError, match="ann:plugin and bob:plugin"):
        registry(("one", "ann:plugin"), ("one", "bob:plugin")).get("one")


def test_same_owner_replaces_itself() -> None:
    things = registry()
    things.register("one", "old", origin=ANN)
    things.register("one", "new", origin=ANN)
    assert things.get("one") == "new"


def test_reload_replaces_what_was_installed(module: Any) -> None:
    module.plugin = "old"
    things = registry(("one", "lbkit_test_plugins:plugin"))
    assert things.get("one") == "old"
    things.register("one", "new", origin=Origin("lbkit_test_plugins", "plugin"))
    assert things.get("one") == "new"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module:plugin", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("lbkit_test_plugins:missing", "AttributeError"),
        ("lbkit_test_plugins:wrong", "TypeError: 7 must be text"),
    ],
)
def test_broken_plugin_says_why(module: Any, value: str, why: str) -> None:
    module.wrong = 7
    things = registry(("one", value))
    with pytest.raises(
        BrokenPluginError, match=rf"thing 'one' \({value}\) cannot be loaded: {why}"
    ) as caught:
        things.get("one")
    assert caught.value.__cause__ is not None


def test_broken_plugin_is_tried_again(module: Any) -> None:
    things = registry(("one", "lbkit_test_plugins:plugin"))
    with pytest.raises(BrokenPluginError):
        things.get("one")
    module.plugin = "repaired"
    assert things.get("one") == "repaired"


def test_installed_plugins_of_this_process_are_the_default() -> None:
    assert Registry("script", "console_scripts", adapt).names()


class Plugin:
    pass


def test_origin_names_class_function_and_class_of_an_instance() -> None:
    assert str(origin_of(Plugin)) == f"{__name__}:Plugin"
    assert origin_of(Plugin()) == origin_of(Plugin)
    assert origin_of(adapt) == Origin(__name__, "adapt")
