"""The plugin door: finds what is installed, keeps each plugin's faults to itself, and gives the members by name.

Built-in members enter by this door as a stranger's do. pluggy's own loader stops at the first plugin that fails, skips
a second distribution with the same entry-point name, lets a misspelt hook pass and loses every result when one hook
raises; so here each entry point is loaded by itself, each hook is called by itself, and what goes wrong is a state and
a sentence.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pluggy

from deltacompose.errors import BadInput, unknown
from deltacompose.plugins import hookspecs
from deltacompose.plugins.isolation import error_text, isolated, value_text
from deltacompose.plugins.members import KINDS, Lazy, Member, Members

__all__ = ["Lazy", "Loaded", "Plugin", "check", "describe", "load", "loaded"]

State = Literal["active", "disabled", "broken", "conflict", "incompatible"]
PREFIX = f"{hookspecs.GROUP}_"
HOOKS = {f"{PREFIX}{kind}s": kind for kind in KINDS}
MOST_MEMBERS = 100_000
"""A hook's mapping with more names than this does not end, or is a mistake."""


@dataclass(frozen=True)
class Plugin:
    """Outcome of loading one entry point.

    Attributes:
        name: the entry point's name; two distributions may use the same one.
        state: `active`; `disabled` by the user; `broken`, `conflict` (a name that is taken) or `incompatible`.
        reason: what went wrong, in one sentence; empty for an active plugin.
        members: what it gives and what can be used, as `"method lora"`, whatever its state.
    """

    name: str
    distribution: str
    version: str
    state: State = "active"
    reason: str = ""
    members: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Distribution and version, as a delta records where its methods came from."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Loaded:
    """All that entered by the door, by kind and name, and what became of every plugin.

    Listing the names of a kind imports nothing; reading a member imports it and may raise `BadInput`, which names the
    member, its distribution and version, and the error.
    """

    methods: Mapping[str, Any]
    expressions: Mapping[str, str]
    tasks: Mapping[str, Any]
    backbones: Mapping[str, Any]
    measures: Mapping[str, Any]
    engines: Mapping[str, Any]
    loggers: Mapping[str, Any]
    plugins: tuple[Plugin, ...]

    def origin(self, kind: str, name: str) -> str:
        """The distribution and version that a member came from, as in `"deltacompose 0.1.0"`."""
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        members: Members = getattr(self, f"{kind}s")
        if name not in members:
            raise unknown(kind, name, members)
        return members.listed[name].origin


@functools.cache
def loaded() -> Loaded:
    """Installed members, loaded once per process.

    Reads the environment: `DELTACOMPOSE_PLUGINS` names the plugins that may load, separated by commas, and
    `DELTACOMPOSE_NO_PLUGINS=1` loads none; the built-in members are always there.
    """
    allow = os.environ.get("DELTACOMPOSE_PLUGINS")
    names = None if allow is None else [name.strip() for name in allow.split(",") if name.strip()]
    switch = os.environ.get("DELTACOMPOSE_NO_PLUGINS", "")
    if switch not in ("", "0", "1"):
        raise BadInput(f"DELTACOMPOSE_NO_PLUGINS={switch!r}; it is 1 to load no plugins, or 0")
    return load(allow=names, disabled=switch == "1")


def load(
    entry_points: Iterable[EntryPoint] | None = None, allow: Collection[str] | None = None, disabled: bool = False
) -> Loaded:
    """Loads plugins in a fixed order, the built-in one first, the others by distribution and name.

    Args:
        entry_points: those to load; all that are installed if None.
        allow: the names of the plugins that may load, all if None; a name that no plugin has is an error.
        disabled: load the built-in members alone.
    """
    points, unreadable = _installed() if entry_points is None else (entry_points, [])
    ordered = sorted(points, key=lambda point: (not _builtin(point), _distribution(point), point.name, point.value))
    for name in allow or ():
        _known(name, [point.name for point in ordered])
    taken: dict[tuple[str, str], Member] = {}
    plugins: list[Plugin] = []
    for entry_point in ordered:
        opened, members_offered = _opened(entry_point, allow, disabled)
        plugin, members = _admitted(opened, members_offered, taken)
        taken |= {(member.namespace, member.name): member for member in members}
        plugins.append(plugin)
    return Loaded(**{f"{kind}s": _of_kind(kind, taken.values()) for kind in KINDS}, plugins=(*plugins, *unreadable))


def describe(loaded: Loaded) -> list[dict[str, Any]]:
    """Every plugin as plain data: name, distribution, version, state, reason, members."""
    return [asdict(plugin) | {"members": list(plugin.members)} for plugin in loaded.plugins]


def check(loaded: Loaded, name: str) -> list[dict[str, str]]:
    """Reads every member of the plugins of that name: rows of kind, name, origin, state and reason.

    A member is `sound` or `broken`; a named composition is read as one. A plugin that is not active has a row of its
    own, of kind `plugin`, with its state and reason.

    Raises:
        BadInput: no plugin has that name.
    """
    _known(name, [plugin.name for plugin in loaded.plugins])
    rows = []
    for plugin in (candidate for candidate in loaded.plugins if candidate.name == name):
        if plugin.state != "active":
            rows.append(_row("plugin", plugin.name, plugin, plugin.state, plugin.reason))
        for kind, member in (label.split(" ", 1) for label in plugin.members):
            reason = _unsound(loaded, kind, member)
            rows.append(_row(kind, member, plugin, "broken" if reason else "sound", reason))
    return rows


def _installed() -> tuple[Iterable[EntryPoint], list[Plugin]]:
    """The entry points of our group, and the distributions whose own cannot be read.

    importlib gives none at all when one distribution's file is malformed, so then each is asked by itself.
    """
    try:
        return importlib.metadata.entry_points(group=hookspecs.GROUP), []
    except Exception:
        points: dict[str, list[EntryPoint]] = {}
        unreadable = []
        for distribution in importlib.metadata.distributions():
            try:
                points.setdefault(distribution.name, list(distribution.entry_points.select(group=hookspecs.GROUP)))
            except Exception as error:
                reason = f"its entry_points.txt cannot be read: {error_text(error)}"
                unreadable.append(Plugin(distribution.name, distribution.name, distribution.version, "broken", reason))
        return [point for own in points.values() for point in own], unreadable


def _known(name: str, names: Collection[str]) -> None:
    if name not in names:
        raise unknown("plugin", name, set(names))


def _row(kind: str, name: str, plugin: Plugin, state: str, reason: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "origin": plugin.origin, "state": state, "reason": reason}


def _unsound(loaded: Loaded, kind: str, name: str) -> str:
    # Imported here because reading compositions costs pydantic, which listing can do without.
    from deltacompose.composition import parse

    try:
        member = getattr(loaded, f"{kind}s")[name]
        if kind == "expression":
            parse(member, loaded.methods, loaded.expressions)
    except BadInput as error:
        return str(error)
    return ""


def _of_kind(kind: str, members: Iterable[Member]) -> Members:
    return Members({member.name: member for member in members if member.kind == kind})


def _builtin(entry_point: EntryPoint) -> bool:
    return entry_point.name == "builtin" and _distribution(entry_point) == "deltacompose"


def _distribution(entry_point: EntryPoint) -> str:
    return _metadata(entry_point, "name") or "unknown distribution"


def _metadata(entry_point: EntryPoint, field: Literal["name", "version"]) -> str:
    """A field of the distribution's metadata; "" where it has none.

    The backport importlib_metadata, once imported, serves entry points too, and raises where metadata is missing.
    """
    with contextlib.suppress(ImportError, FileNotFoundError):
        return getattr(entry_point.dist, field, None) or ""
    return ""


def _opened(
    entry_point: EntryPoint, allow: Collection[str] | None, disabled: bool
) -> tuple[Plugin, tuple[Member, ...]]:
    """One entry point, loaded and its hooks called, before its names are compared with the others'."""
    plugin = Plugin(entry_point.name, _distribution(entry_point), _metadata(entry_point, "version"))
    if not _builtin(entry_point):
        if disabled:
            return replace(plugin, state="disabled", reason="plugins are switched off"), ()
        if allow is not None and plugin.name not in allow:
            return replace(plugin, state="disabled", reason="it is not among the plugins that may load"), ()
    if not entry_point.pattern.match(entry_point.value):
        return replace(plugin, state="broken", reason=f"{entry_point.value!r} is not 'package.module'"), ()
    label = f"the plugin {plugin.name!r} of {plugin.origin}"
    module = isolated(label, entry_point.load)
    if module.error:
        reason = f"{entry_point.value!r} cannot be loaded: {'; '.join(module.faults)}"
        return replace(plugin, state="broken", reason=reason), ()
    hooks = isolated(label, lambda: _hooks(module.value))
    if hooks.error:
        return _faulty(plugin, [*module.changes, *hooks.faults]), ()
    if isinstance(hooks.value, str):
        return replace(plugin, state="incompatible", reason=hooks.value), ()
    faults: list[str] = [*module.changes, *hooks.changes]
    members: list[Member] = []
    # A hook that raises, and a member that is wrong, are refused alone; the plugin's others can be used.
    for hook, function in hooks.value.items():
        listed = isolated(label, functools.partial(_listed, hook, function, plugin, _builtin(entry_point)))
        own, wrong = ((), ()) if listed.error else listed.value
        members += own
        faults += [f"{hook}: {fault}" for fault in (*listed.faults, *wrong)]
    return _faulty(plugin, faults), tuple(members)


def _faulty(plugin: Plugin, faults: Collection[str]) -> Plugin:
    """The plugin, broken if there are faults."""
    return replace(plugin, state="broken", reason="; ".join(faults)) if faults else plugin


def _listed(hook: str, function: Callable[[], Any], plugin: Plugin, builtin: bool) -> tuple[list[Member], list[str]]:
    """The members that a hook gives and that can be used, and what is wrong with the others."""
    listed = [Member(HOOKS[hook], *item, plugin.origin, builtin) for item in _mapping(function()).items()]
    faults = [member.fault() for member in listed]
    return [member for member, fault in zip(listed, faults) if not fault], list(filter(None, faults))


def _admitted(
    plugin: Plugin, members: tuple[Member, ...], taken: Mapping[tuple[str, str], Member]
) -> tuple[Plugin, tuple[Member, ...]]:
    """A name belongs to whoever came first; the later one is refused, and both are named."""
    own: dict[tuple[str, str], Member] = {}
    faults = []
    for member in members:
        key = (member.namespace, member.name)
        if first := taken.get(key) or own.get(key):
            faults.append(f"{member} of {member.origin} is refused: {first} of {first.origin} has that name")
        else:
            own[key] = member
    plugin = replace(plugin, members=tuple(map(str, own.values())))
    if faults:
        state: State = "conflict" if plugin.state == "active" else plugin.state
        plugin = replace(plugin, state=state, reason="; ".join(filter(None, [plugin.reason, *faults])))
    return plugin, tuple(own.values())


class _Door(pluggy.PluginManager):
    """Takes a function for a hook by its name; pluggy by itself wants each one decorated."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if name not in HOOKS:
            return None
        return {
            "wrapper": False,
            "hookwrapper": False,
            "optionalhook": False,
            "tryfirst": False,
            "trylast": False,
            "specname": None,
        }


def _hooks(module: Any) -> dict[str, Callable[[], Any]] | str:
    """The hooks of one plugin, their names and signatures checked; or why it was written for later hooks than ours.

    There is a manager for each plugin, because one that refuses a plugin keeps what it had registered of it by then.
    """
    api, ours = getattr(module, "deltacompose_api", hookspecs.API_VERSION), hookspecs.API_VERSION
    if type(api) is not int or api < 1:
        raise BadInput(f"deltacompose_api is {value_text(api)}, not a whole number from 1")
    if api > ours:
        return f"it needs version {api} of the plugin hooks and this deltacompose has version {ours}"
    own = {name: getattr(module, name) for name in dir(module) if name.startswith(PREFIX)}
    hooks = {name: value for name, value in own.items() if callable(value) and not isinstance(value, type)}
    for name in hooks:
        if name not in HOOKS:
            raise unknown("hook", name, HOOKS)
    for name in HOOKS.keys() & (own.keys() - hooks.keys()):
        raise BadInput(f"{name} is a {type(own[name]).__name__}, not a function that returns a mapping")
    if not hooks:
        raise BadInput(f"it has no hook; hooks: {', '.join(HOOKS)}")
    door = _Door(hookspecs.GROUP)
    door.add_hookspecs(hookspecs)
    try:
        door.register(types.SimpleNamespace(**hooks), getattr(module, "__name__", None))
    except pluggy.PluginValidationError as error:
        raise BadInput(str(error)) from None
    return hooks


def _mapping(returned: Any) -> dict[Any, Any]:
    if not isinstance(returned, Mapping):
        raise BadInput(f"it returned a {type(returned).__name__}, not a mapping of names to members")
    names = list(itertools.islice(returned, MOST_MEMBERS + 1))
    if len(names) > MOST_MEMBERS:
        raise BadInput(f"it returned more than {MOST_MEMBERS} members")
    return {name: returned[name] for name in names}
