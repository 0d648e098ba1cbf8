"""The plugin interface: hooks, loading, and the template of a new plugin.

`hookspecs` lists the hooks; `loader` finds plugins, `isolation` runs their code, `members` checks what they give;
`packages` and `implementation` identify the code behind a member; `checkpoint` is what a backbone's loader returns;
`scaffold` writes a new plugin.
"""

from deltacompose.plugins.loader import Lazy, Loaded, Plugin, check, describe, load, loaded

__all__ = ["Lazy", "Loaded", "Plugin", "check", "describe", "load", "loaded"]
