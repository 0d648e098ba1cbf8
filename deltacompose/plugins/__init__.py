"""The plugin interface: hooks, loading, and the template of a new plugin."""

from deltacompose.plugins.loader import Lazy, Loaded, Plugin, check, describe, load, loaded

__all__ = ["Lazy", "Loaded", "Plugin", "check", "describe", "load", "loaded"]
