"""The seven hooks of the plugin door.

A plugin is a module (or any object) that an entry point of the group `deltacompose` names. It defines functions of the
names below, without arguments, and each returns a mapping of names to members. Nothing registers by being imported,
and no decorator is needed: a function is a hook by its name.

Listing must stay light, so a member may be given in any of three ways:

* as text, `"package.module:Attribute"`, imported when the member is first read: the way for nearly everything;
* as `deltacompose.plugins.Lazy("package.module:function", argument, ...)`, called when the member is first read:
  the way for many members that one function makes from data;
* as the object itself, where having it at hand costs nothing.

The module may say `deltacompose_api = 1`, the version of these hooks that it was written for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pluggy

GROUP = "deltacompose"
API_VERSION = 1

hookspec = pluggy.HookspecMarker(GROUP)


@hookspec
def deltacompose_methods() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Methods by name: subclasses of `deltacompose.method.Method`; the key is the class's own `name`."""


@hookspec
def deltacompose_expressions() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Named compositions as text, `{"mam": "prefix(length=30) + parallel_adapter"}` for one."""


@hookspec
def deltacompose_tasks() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Tasks by name."""


@hookspec
def deltacompose_backbones() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Tables from places to module paths by family, and loaders of backbones by name."""


@hookspec
def deltacompose_measures() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Similarity measures by name."""


@hookspec
def deltacompose_engines() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Engines that carry out a plan, by name."""


@hookspec
def deltacompose_loggers() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Loggers of runs by name: functions of a target and a `deltacompose.engine.loggers.Run`."""
