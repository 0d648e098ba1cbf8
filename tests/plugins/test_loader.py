"""The plugin door: what is found, what is refused and why, and that nothing of one plugin harms another."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import types
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import ClassVar

import deltacompose_plugins
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deltacompose.attach import attached
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cli import app
from deltacompose.composition import Part
from deltacompose.errors import BadInput
from deltacompose.method import Method
from deltacompose.method.weights import init_weights
from deltacompose.plugins import Lazy, check, describe, hookspecs, load, loaded
from deltacompose.plugins import loader as plugins
from deltacompose.plugins.scaffold import new_plugin

ROOT = Path(__file__).parents[2]
HOOKS = [name for name in vars(hookspecs) if name.startswith("deltacompose_")]


@dataclass(frozen=True)
class Soft(Part):
    name: ClassVar[str] = "soft"


@dataclass(frozen=True)
class Hard(Part):
    name: ClassVar[str] = "hard"


@dataclass(frozen=True)
class Misnamed(Part):
    name: ClassVar[str] = "other"


@dataclass(frozen=True)
class Nameless(Part):
    pass


@dataclass(frozen=True)
class Half(Method):
    name: ClassVar[str] = "half"

    def init(self, backbone, generator):
        return {}


class Undecorated(Soft):
    name = "soft"


@dataclass
class Thawed(Part):
    name: ClassVar[str] = "soft"


CALLS: list[str] = []


def made(text: str) -> str:
    CALLS.append(text)
    return text.upper()


def fails() -> None:
    raise ZeroDivisionError("no\nluck")


class Fake(Distribution):
    """A distribution in memory; its entry points name attributes of this module."""

    def __init__(self, name: str, version: str, entries: dict[str, str]):
        self.texts = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "entry_points.txt": "[deltacompose]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items()),
        }

    def read_text(self, filename):
        return self.texts.get(filename)

    def locate_file(self, path):
        raise FileNotFoundError(path)


def returning(key, value):
    return value if key not in HOOKS or callable(value) else lambda: value


def plugin(name, *, distribution=None, version="1.0", **attributes):
    """The entry point of a plugin object with these attributes; a hook may be given as what it returns."""
    holder = types.SimpleNamespace(**{key: returning(key, value) for key, value in attributes.items()})
    where = f"holder_{len(vars(HOLDERS))}"
    setattr(HOLDERS, where, holder)
    (point,) = Fake(distribution or f"dist-{name}", version, {name: f"{__name__}:HOLDERS.{where}"}).entry_points
    return point


HOLDERS = types.SimpleNamespace()


def only(entry_point):
    """The one plugin that became of an entry point, loaded alone."""
    (found,) = load([entry_point]).plugins
    return found


def here(attribute):
    return f"{__name__}:{attribute}"


# What is found


def test_every_hook_has_its_kind_and_its_docstring():
    assert sorted(HOOKS) == sorted(plugins.HOOKS)
    assert all(getattr(hookspecs, name).__doc__ for name in HOOKS)


def test_the_built_in_members_enter_by_the_same_door():
    first = loaded().plugins[0]
    assert (first.name, first.distribution) == ("builtin", "deltacompose")
    assert {"method full", "method lora", "method bitfit", "method adapter"} <= set(first.members)
    assert loaded().origin("method", "lora") == f"deltacompose {importlib.metadata.version('deltacompose')}"


def test_every_built_in_member_can_be_read():
    assert [row for row in check(loaded(), "builtin") if row["reason"]] == []
    assert loaded().plugins[0].reason == ""


def test_the_classes_of_the_built_in_methods_are_imported_from_the_package():
    for name in loaded().methods:
        method = loaded().methods[name]
        if loaded().origin("method", name).startswith("deltacompose "):
            assert getattr(deltacompose_plugins, method.__name__) is method
            assert method.__name__ in dir(deltacompose_plugins)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'deltacompose_plugins' has no attribute 'LoRa'"):
        deltacompose_plugins.LoRa  # noqa: B018


def test_a_plugin_gives_members_of_every_kind():
    point = plugin(
        "all",
        deltacompose_methods={"soft": here("Soft"), "hard": Hard},
        deltacompose_expressions={"both": "soft + hard"},
        deltacompose_tasks={"count words": Lazy(here("made"), "task")},
        deltacompose_backbones={"t5": object()},
        deltacompose_measures={"cosine": made},
        deltacompose_engines={"here": here("made")},
    )
    found = load([point])
    assert found.plugins[0].state == "active"
    assert found.plugins[0].reason == ""
    assert (found.methods["soft"], found.methods["hard"]) == (Soft, Hard)
    assert found.expressions["both"] == "soft + hard"
    assert found.tasks["count words"] == "TASK"
    assert found.measures["cosine"] is found.engines["here"] is made
    assert found.origin("backbone", "t5") == "dist-all 1.0"
    assert found.origin("task", "count words") == "dist-all 1.0"
    assert [row["reason"] for row in check(found, "all")] == [""] * 7


def test_listing_reads_no_member_and_reading_makes_it_once():
    CALLS.clear()
    found = load([plugin("lazy", deltacompose_tasks={"a": Lazy(made, "a"), "b": Lazy(here("made"), "b")})])
    assert (list(found.tasks), len(found.tasks), "a" in found.tasks, "c" in found.tasks) == (["a", "b"], 2, True, False)
    assert repr(found.tasks) == "Members(a, b)"
    assert CALLS == []
    assert [found.tasks["a"], found.tasks["a"]] == ["A", "A"]
    assert CALLS == ["a"]


def test_a_plugin_is_described_as_plain_data():
    point = plugin("plain", version="2.3", deltacompose_methods={"soft": Soft})
    assert describe(load([point])) == [
        {
            "name": "plain",
            "distribution": "dist-plain",
            "version": "2.3",
            "state": "active",
            "reason": "",
            "members": ["method soft"],
        }
    ]


def test_two_distributions_with_one_entry_point_name_are_both_seen():
    points = [
        plugin("same", distribution="one", deltacompose_methods={"soft": Soft}),
        plugin("same", distribution="two", deltacompose_methods={"hard": Hard}),
    ]
    found = load(points)
    assert [(p.name, p.distribution, p.state) for p in found.plugins] == [
        ("same", "one", "active"),
        ("same", "two", "active"),
    ]
    assert set(found.methods) == {"soft", "hard"}
    assert len(check(found, "same")) == 2


def test_distributions_on_the_path_are_found(tmp_path, monkeypatch):
    for number, name in enumerate(("first", "second")):
        write_distribution(tmp_path / name, f"on-path-{name}", f"0.{number}", "entry = " + f"on_path_{name}")
        (tmp_path / name / f"on_path_{name}.py").write_text(
            f"def deltacompose_tasks():\n    return {{'{name}': 'on_path_{name}:TASK'}}\nTASK = '{name} read'\n"
        )
        monkeypatch.syspath_prepend(tmp_path / name)
    found = load()
    assert [(p.distribution, p.version, p.state) for p in found.plugins if p.name == "entry"] == [
        ("on-path-first", "0.0", "active"),
        ("on-path-second", "0.1", "active"),
    ]
    assert (found.tasks["first"], found.tasks["second"]) == ("first read", "second read")
    assert "lora" in found.methods


def write_distribution(folder, name, version, entry):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[deltacompose]\n{entry}\n")


# What is refused, and that everything else goes on


def raising():
    raise OSError("no such\n   file")


def leaving():
    raise SystemExit(3)


WRONG = {
    "it returned a list": {"deltacompose_methods": ["soft"]},
    "OSError: no such file": {"deltacompose_methods": raising},
    "SystemExit: 3": {"deltacompose_methods": leaving},
    "did you mean 'deltacompose_methods'": {"deltacompose_method": made},
    "it has no hook; hooks: deltacompose_methods": {"methods": made},
    "deltacompose_methods is a dict, not a function": {},
    "'settings'": {"deltacompose_methods": lambda settings: {}},
    "missing 1 required keyword-only argument": {"deltacompose_methods": (lambda *, deep: {})},
    "'soft' is 3, not a frozen dataclass made from deltacompose.method.Method": {"deltacompose_methods": {"soft": 3}},
    "<class 'int'>, not a frozen dataclass": {"deltacompose_methods": {"soft": int}},
    "made from deltacompose.method.Method; write @dataclass(frozen=True) above it": {
        "deltacompose_methods": {"soft": Undecorated}
    },
    "Nameless'>, which does not say its name": {"deltacompose_methods": {"soft": Nameless}},
    "Half'>, which lacks edits": {"deltacompose_methods": {"half": Half}},
    "Undecorated'>, not a frozen dataclass": {"deltacompose_methods": {"soft": Undecorated}},
    "Thawed'>, not a frozen dataclass": {"deltacompose_methods": {"soft": Thawed}},
    "'soft' is 'somewhere.Soft', not 'package.module:Attribute'": {"deltacompose_methods": {"soft": "somewhere.Soft"}},
    "'late' is 'made', not 'package.module:Attribute'": {"deltacompose_tasks": {"late": Lazy("made")}},
    "'t5' is None, not a backbone": {"deltacompose_backbones": {"t5": None}},
    "listed as 'soft' and its own name is 'other'": {"deltacompose_methods": {"soft": Misnamed}},
    "'two words' cannot be written in a composition": {"deltacompose_methods": {"two words": Soft}},
    "'lambda' cannot be written in a composition": {"deltacompose_expressions": {"lambda": "lora"}},
    "3 is not a valid name": {"deltacompose_tasks": {3: here("made")}},
    "'mam' is 4, not a composition as text": {"deltacompose_expressions": {"mam": 4}},
    "deltacompose_api is '1', not a whole number": {"deltacompose_api": "1", "deltacompose_methods": {"soft": Soft}},
    "deltacompose_api is True": {"deltacompose_api": True, "deltacompose_methods": {"soft": Soft}},
}


def test_a_method_without_edits_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract class Half .*edits"):
        Half()


def wrong(reason):
    point = plugin("wrong", **WRONG[reason])
    if "is a dict" in reason:
        holder = getattr(HOLDERS, point.value.rpartition(".")[2])
        holder.deltacompose_methods = {"soft": Soft}
    return point


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_plugin_is_broken_and_says_why(reason):
    found = only(wrong(reason))
    assert (found.state, found.members) == ("broken", ())
    assert reason in found.reason
    assert "\n" not in found.reason


@given(st.lists(st.sampled_from([*WRONG, "good"]), max_size=6))
def test_wrong_plugins_take_nothing_from_good_ones(kinds):
    good = [n for n, kind in enumerate(kinds) if kind == "good"]
    points = [
        plugin(f"good{n}", deltacompose_expressions={f"good{n}": "soft"}) if kind == "good" else wrong(kind)
        for n, kind in enumerate(kinds)
    ]
    found = load(points)
    assert sorted(found.expressions) == [f"good{n}" for n in good]
    assert [p.state for p in found.plugins] == ["active"] * len(good) + ["broken"] * (len(kinds) - len(good))


def test_modules_that_cannot_be_imported_are_named_with_their_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    sources = {
        "absent_import": "import no_such_module_anywhere",
        "half_written": "def deltacompose_methods(:",
        "exits_early": "raise SystemExit('bye')",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
        write_distribution(tmp_path, name, "1.0", f"{name} = {name}")
    write_distribution(tmp_path, "nowhere", "1.0", "nowhere = no_such_plugin_module")
    write_distribution(tmp_path, "attribute", "1.0", "attribute = half_written:missing")
    write_distribution(tmp_path, "unwritable", "1.0", "unwritable = not a module !")
    ours = {*sources, "nowhere", "attribute", "unwritable"}
    states = {p.name: (p.state, p.reason) for p in load().plugins if p.name in ours}
    assert set(states) == ours
    assert {state for state, _ in states.values()} == {"broken"}
    assert states["absent_import"][1] == (
        "'absent_import' cannot be loaded: ModuleNotFoundError: No module named 'no_such_module_anywhere'"
    )
    assert "SyntaxError" in states["half_written"][1]
    assert states["exits_early"][1] == "'exits_early' cannot be loaded: SystemExit: bye"
    assert "No module named 'no_such_plugin_module'" in states["nowhere"][1]
    assert "SyntaxError" in states["attribute"][1]
    assert states["unwritable"][1] == "'not a module !' is not 'package.module'"
    assert "lora" in load().methods


def test_a_distribution_whose_entry_points_cannot_be_read_is_named_and_the_others_load(tmp_path, monkeypatch):
    on_path(tmp_path, monkeypatch)
    write_distribution(tmp_path, "malformed", "2.0", "no equals sign here")
    found = {p.distribution: p for p in load().plugins}
    assert (found["malformed"].state, found["malformed"].version) == ("broken", "2.0")
    assert "its entry_points.txt cannot be read" in found["malformed"].reason
    assert found["seen"].state == found["deltacompose"].state == "active"
    assert "lora" in load().methods


@pytest.mark.parametrize("backport", [False, True], ids=["alone", "with the backport"])
def test_a_distribution_that_lost_its_metadata_still_gives_its_members(tmp_path, monkeypatch, backport):
    on_path(tmp_path, monkeypatch)
    if backport:  # its finder answers in place of Python's own once any package has imported it
        pytest.importorskip("importlib_metadata")
    (tmp_path / "seen-1.0.dist-info" / "METADATA").unlink()
    (seen,) = (p for p in load().plugins if p.name == "seen")
    assert (seen.state, seen.origin) == ("active", "unknown distribution")


def test_one_wrong_hook_or_member_leaves_a_plugins_others_to_be_used():
    point = plugin(
        "mixed",
        deltacompose_methods={"soft": Soft, "hard": 3},
        deltacompose_tasks=raising,
        deltacompose_expressions={"mild": "soft"},
    )
    found = load([point])
    assert found.plugins[0].state == "broken"
    assert found.plugins[0].members == ("expression mild", "method soft")
    assert "deltacompose_methods: 'hard' is 3" in found.plugins[0].reason
    assert "deltacompose_tasks: OSError: no such file" in found.plugins[0].reason
    assert (found.methods["soft"], found.expressions["mild"]) == (Soft, "soft")


@pytest.mark.parametrize("kind", ["methods", "expressions", "tasks", "backbones", "measures", "engines", "loggers"])
def test_a_taken_name_stays_with_the_first_and_both_are_named(kind):
    value = "a + b" if kind == "expressions" else here("made")
    points = [
        plugin("late", distribution="bbb", **{f"deltacompose_{kind}": {"soft": value, "free": value}}),
        plugin("early", distribution="aaa", version="3.1", **{f"deltacompose_{kind}": {"soft": value}}),
    ]
    early, late = load(points).plugins
    one = f"{kind[:-1]} soft"
    assert (early.state, early.members) == ("active", (one,))
    assert (late.state, late.members) == ("conflict", (f"{kind[:-1]} free",))
    assert late.reason == f"{one} of bbb 1.0 is refused: {one} of aaa 3.1 has that name"
    assert load(points).origin(kind[:-1], "soft") == "aaa 3.1"


def test_a_named_composition_cannot_take_a_methods_name_from_another_plugin_or_its_own():
    points = [
        plugin("a", deltacompose_methods={"soft": Soft}),
        plugin("b", deltacompose_expressions={"soft": "hard", "hard": "soft"}, deltacompose_methods={"hard": Hard}),
    ]
    found = load(points)
    assert (
        "expression soft of dist-b 1.0 is refused: method soft of dist-a 1.0 has that name" in found.plugins[1].reason
    )
    assert found.plugins[1].state == "conflict"
    assert list(found.methods) == ["soft"]
    assert list(found.expressions) == ["hard"]


def test_a_stranger_does_not_take_a_built_in_name_whatever_it_calls_itself():
    builtin = importlib.metadata.entry_points(group="deltacompose", name="builtin")
    stranger = plugin("builtin", distribution="aardvark", deltacompose_methods={"lora": here("Soft"), "soft": Soft})
    first, second = load([stranger, *builtin]).plugins
    assert (first.distribution, second.distribution) == ("deltacompose", "aardvark")
    assert second.state == "conflict"
    assert second.members == ("method soft",)


def test_a_plugin_for_later_hooks_is_incompatible():
    found = only(plugin("later", deltacompose_api=2, deltacompose_methods=raising))
    assert found.state == "incompatible"
    assert found.reason == "it needs version 2 of the plugin hooks and this deltacompose has version 1"


def test_a_member_that_cannot_be_read_names_itself_its_origin_and_the_error():
    point = plugin(
        "unsound",
        version="0.7",
        deltacompose_methods={
            "gone": "no_such_module_at_all:Gone",
            "soft": here("Misnamed"),
            "hard": here("Hard"),
            "number": here("HOOKS"),
        },
        deltacompose_tasks={"unmade": Lazy(here("fails"))},
        deltacompose_expressions={"unread": "soft + hrd", "read": "hard >> hard"},
    )
    found = load([point])
    assert found.plugins[0].state == "active"
    with pytest.raises(BadInput, match=r"method gone of dist-unsound 0\.7 cannot be read: ModuleNotFoundError: No"):
        found.methods["gone"]
    with pytest.raises(BadInput, match="cannot be used: it is listed as 'soft' and its own name is 'other'"):
        found.methods["soft"]
    with pytest.raises(BadInput, match=r"task unmade of dist-unsound 0\.7 cannot be read: ZeroDivisionError: no luck"):
        found.tasks["unmade"]
    assert found.methods["hard"] is Hard
    reasons = {row["name"]: row["reason"] for row in check(found, "unsound")}
    assert [name for name, reason in reasons.items() if not reason] == ["read", "hard"]
    assert "not a frozen dataclass made from deltacompose.method.Method" in reasons["number"]
    assert "soft" in reasons["unread"]


UNUSABLE = {
    "cannot be loaded: ModuleNotFoundError: No module named 'no_such_plugin_module'": "broken",
    "no hook 'deltacompose_method'; did you mean 'deltacompose_methods'": "broken",
    "method soft of dist-checked 1.0 is refused: method soft of aaa 1.0 has that name": "conflict",
    "it needs version 2 of the plugin hooks": "incompatible",
    "it is not among the plugins that may load": "disabled",
}


def unusable(state, reason):
    """What became of a plugin `checked` of a state, beside a sound one."""
    given = {
        "incompatible": {"deltacompose_api": 2, "deltacompose_methods": {"hard": Hard}},
        "conflict": {"deltacompose_methods": {"soft": Soft, "hard": Hard}},
        "disabled": {"deltacompose_methods": {"hard": Hard}},
        "broken": {"deltacompose_method": made},
    }[state]
    absent = Fake("dist-checked", "1.0", {"checked": "no_such_plugin_module"}).entry_points
    points = [*absent] if "cannot be loaded" in reason else [plugin("checked", **given)]
    first = plugin("first", distribution="aaa", deltacompose_methods={"soft": Soft})
    return load([*points, first], allow=["first"] if state == "disabled" else None)


@pytest.mark.parametrize(("reason", "state"), UNUSABLE.items(), ids=lambda x: x[:24])
def test_a_plugin_that_cannot_be_used_is_checked_with_its_own_state_and_reason(reason, state):
    (row, *members) = check(unusable(state, reason), "checked")
    assert (row["kind"], row["name"], row["origin"], row["state"]) == ("plugin", "checked", "dist-checked 1.0", state)
    assert reason in row["reason"]
    assert [(one["kind"], one["name"], one["state"]) for one in members] == (
        [("method", "hard", "sound")] if state == "conflict" else []
    )


@pytest.mark.parametrize(("reason", "state"), UNUSABLE.items(), ids=lambda x: x[:24])
def test_checking_a_plugin_that_cannot_be_used_says_why_and_exits_with_1(reason, state, monkeypatch):
    monkeypatch.setattr(plugins, "loaded", lambda: unusable(state, reason))
    monkeypatch.setattr("deltacompose.cli.listings.checked", lambda known, row: row)
    done = CliRunner().invoke(app, ["plugins", "check", "checked"])
    assert done.exit_code == 1
    assert re.search(rf"plugin +checked +{state} +.*{re.escape(reason)}", done.stdout)


def test_an_unknown_kind_member_or_plugin_is_answered_by_those_that_exist():
    found = load([plugin("known", deltacompose_tasks={"a": here("made")})])
    with pytest.raises(BadInput, match="no kind 'tsk'; did you mean 'task'"):
        found.origin("tsk", "a")
    with pytest.raises(BadInput, match="no task 'b'; tasks: a"):
        found.origin("task", "b")
    with pytest.raises(BadInput, match="no plugin 'knwon'; did you mean 'known'"):
        check(found, "knwon")
    with pytest.raises(KeyError):
        found.tasks["b"]


# What may load


def test_only_the_allowed_plugins_are_imported_and_the_built_in_always():
    builtin = importlib.metadata.entry_points(group="deltacompose", name="builtin")
    points = [
        plugin("wanted", deltacompose_methods={"soft": Soft}),
        plugin("other", deltacompose_methods={"hard": Hard}),
        *Fake("absent", "1.0", {"absent": "no_such_module_either"}).entry_points,
        *builtin,
    ]
    found = load(points, allow=["wanted"])
    assert {p.name: p.state for p in found.plugins} | {"builtin": ""} == {
        "builtin": "",
        "wanted": "active",
        "other": "disabled",
        "absent": "disabled",
    }
    assert "lora" in found.methods
    assert "soft" in found.methods
    assert "hard" not in found.methods
    none = load(points, disabled=True)
    assert [p.state for p in none.plugins[1:]] == ["disabled"] * 3
    assert "lora" in none.methods
    assert "soft" not in none.methods


def test_an_allowed_name_that_no_plugin_has_is_an_error():
    with pytest.raises(BadInput, match="no plugin 'wantd'; did you mean 'wanted'"):
        load([plugin("wanted", deltacompose_methods={"soft": Soft})], allow=["wantd"])


@pytest.fixture
def fresh():
    loaded.cache_clear()
    yield
    loaded.cache_clear()


def on_path(tmp_path, monkeypatch):
    write_distribution(tmp_path, "seen", "1.0", "seen = seen_plugin")
    (tmp_path / "seen_plugin.py").write_text("def deltacompose_expressions():\n    return {'seen': 'lora'}\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "active"),
        ({"DELTACOMPOSE_PLUGINS": " seen , builtin"}, "active"),
        ({"DELTACOMPOSE_PLUGINS": ""}, "disabled"),
        ({"DELTACOMPOSE_NO_PLUGINS": "1"}, "disabled"),
        ({"DELTACOMPOSE_NO_PLUGINS": "0"}, "active"),
        ({"DELTACOMPOSE_PLUGINS": "seen", "DELTACOMPOSE_NO_PLUGINS": "1"}, "disabled"),
    ],
)
def test_the_environment_says_what_may_load(environment, state, tmp_path, monkeypatch, fresh):
    on_path(tmp_path, monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (seen,) = (p for p in loaded().plugins if p.name == "seen")
    assert seen.state == state
    assert ("seen" in loaded().expressions) == (state == "active")
    assert "lora" in loaded().methods


def test_a_switch_that_is_neither_on_nor_off_is_an_error(monkeypatch, fresh):
    monkeypatch.setenv("DELTACOMPOSE_NO_PLUGINS", "please")
    with pytest.raises(BadInput, match="DELTACOMPOSE_NO_PLUGINS='please'; it is 1"):
        loaded()


def test_listing_imports_nothing_heavy():
    program = """
import sys
from deltacompose.plugins import describe, loaded
listed = [*loaded().methods, *loaded().tasks, *loaded().backbones, *loaded().measures, *loaded().engines]
assert "lora" in listed and describe(loaded())
heavy = {"torch", "transformers", "peft", "sklearn", "scipy", "pandas", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# New plugins from the template, and installed ones


def pieces(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def test_a_new_plugin_is_a_complete_distribution(tmp_path):
    folder = new_plugin("deltacompose-soft-gain", tmp_path)
    assert folder == tmp_path / "deltacompose-soft-gain"
    assert pieces(folder) == [
        "README.md",
        "pyproject.toml",
        "src/deltacompose_soft_gain/__init__.py",
        "src/deltacompose_soft_gain/soft_gain.py",
        "tests/test_soft_gain.py",
    ]
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "deltacompose-soft-gain"
    assert project["project"]["entry-points"]["deltacompose"] == {"soft_gain": "deltacompose_soft_gain"}
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert "{" + "{" not in path.read_text()
    assert len((folder / "src/deltacompose_soft_gain/soft_gain.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("name", ["3d", "Gain", "a b", "", "lambda", "../up", "gain_", "deltacompose-", "plugins"])
def test_a_name_that_cannot_be_a_plugins_is_refused(name, tmp_path):
    with pytest.raises(BadInput, match=r"is not a name for a plugin|is taken"):
        new_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_plugin_takes_no_existing_name_and_no_existing_folder(tmp_path):
    with pytest.raises(BadInput, match="the name 'lora' is taken"):
        new_plugin("lora", tmp_path, taken=loaded().methods)
    new_plugin("gain", tmp_path)
    with pytest.raises(BadInput, match="deltacompose-gain exists already"):
        new_plugin("gain", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written: Not a directory"):
        new_plugin("gain", tmp_path / "file")


def test_the_example_still_has_the_shape_of_the_template(tmp_path):
    example = ROOT / "plugins" / "deltacompose-example"
    new = new_plugin("example", tmp_path)
    assert pieces(example) == [piece.replace("example.py", "red.py") for piece in pieces(new)]
    ours, fresh = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (example, new))
    assert ours.pop("project") | {"description": ""} == fresh.pop("project") | {"description": ""}
    assert ours == fresh


@pytest.fixture
def overlay(tmp_path):
    """A fresh environment that sees this one's packages, so that installing into it leaves this one as it is."""
    folder = tmp_path / "overlay"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "overlay.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    return folder / "bin" / "python"


def install(python, folder):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "-q"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--editable", folder], check=True, capture_output=True, text=True)


def run(python, program):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DELTACOMPOSE")}
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


FOUND = """
from deltacompose.plugins import loaded
print(*[plugin.state for plugin in loaded().plugins if plugin.distribution == {!r}])
"""
PROJECTS = sorted((ROOT / "plugins").glob("*/pyproject.toml"))


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_every_distribution_beside_the_built_in_members_installs_and_is_found(project, overlay):
    before = pieces(project.parent)
    install(overlay, project.parent)
    assert pieces(project.parent) == before
    assert run(overlay, FOUND.format(tomllib.loads(project.read_text())["project"]["name"])) == ["active"]


def test_a_new_plugin_installs_and_is_found(overlay, tmp_path):
    install(overlay, new_plugin("soft-gain", tmp_path))
    assert run(overlay, FOUND.format("deltacompose-soft-gain")) == ["active"]


def method_of_a_new_plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(new_plugin("gain", tmp_path) / "src")
    write_distribution(tmp_path / "deltacompose-gain" / "src", "deltacompose-gain", "0.1.0", "gain = deltacompose_gain")
    return load().methods["gain"]


def method_of_the_example(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "plugins" / "deltacompose-example" / "src")
    return importlib.import_module("deltacompose_example.red").RED


@pytest.mark.parametrize("made", [method_of_a_new_plugin, method_of_the_example])
@pytest.mark.parametrize("family", ["t5", "bert", "gpt2", "llama"])
def test_the_methods_of_the_template_and_the_example_start_neutral_and_act(made, family, tmp_path, monkeypatch):
    method = made(tmp_path, monkeypatch)()
    backbone = pico_backbone(family)
    weights = init_weights(backbone, method)
    ids = torch.tensor([[5, 6, 7]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if backbone.kind == "encoder-decoder" else {})
    with torch.no_grad():
        plain = backbone.model(**inputs)[0]
        with attached(backbone, method, weights) as model:
            assert torch.equal(model(**inputs)[0], plain)
        with attached(backbone, method, {name: tensor + 0.5 for name, tensor in weights.items()}) as model:
            assert not torch.allclose(model(**inputs)[0], plain)
        assert torch.equal(backbone.model(**inputs)[0], plain)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_the_examples_parameters_are_as_many_as_its_formula_says(family, tmp_path, monkeypatch):
    backbone = pico_backbone(family)
    weights = init_weights(backbone, method_of_the_example(tmp_path, monkeypatch)())
    layers = sum(backbone.layers(stream) for stream in backbone.streams)
    assert sum(tensor.numel() for tensor in weights.values()) == 2 * layers * backbone.embedding_width


def test_the_code_in_the_documentation_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)
    hooks, *_, listing = blocks  # tests/test_docs.py runs those between them
    space: dict = {}
    exec(compile(hooks, "plugins.md", "exec"), space)
    found = load(
        [plugin("documented", **{name: hook for name, hook in space.items() if name.startswith("deltacompose_")})]
    )
    assert (found.plugins[0].state, len(found.plugins[0].members)) == ("active", 4)
    exec(compile(listing, "plugins.md", "exec"), {})
