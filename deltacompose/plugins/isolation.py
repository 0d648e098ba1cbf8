"""Running plugin code so that a fault of the plugin stays with the plugin.

A plugin is ordinary Python: it may raise anything, print, close streams, replace builtins or hang. `isolated` calls a
piece of it, keeps its output off stdout, turns whatever it raises into a sentence, and undoes and lists what it changed
in the interpreter. This is not a sandbox: nothing stops code that ends the process (`os._exit`, a crash) or means harm.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput

SLOW = 10.0
"""Seconds after which a message names the plugin that is still running."""

QUOTED = 200
"""Most characters of a plugin's text that a message quotes."""

_ANY = BaseException  # a name of this module, because a plugin may replace the builtin
_BUILTINS = builtins.__dict__
_WATCHED = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGCHLD", "SIGUSR1", "SIGUSR2")
_SIGNALS = [getattr(signal, name) for name in _WATCHED if hasattr(signal, name)]
_FD = {"stdin": 0, "stdout": 1, "stderr": 2}
_STDOUT, _STDERR = 1, 2


@dataclass(frozen=True)
class Attempt:
    """The result of a call of plugin code.

    Attributes:
        value: what it returned; None where it raised.
        error: the exception as part of a sentence; empty where there was none.
        changes: what it changed in the interpreter, as `"it replaces builtins.open"`; all of that is undone.
        raised: the exception itself.
    """

    value: Any = None
    error: str = ""
    changes: tuple[str, ...] = ()
    raised: BaseException | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        """The exception, if any, and the changes."""
        return (*filter(None, [self.error]), *self.changes)


def isolated(label: str, function: Callable[[], Any], announce: bool = True) -> Attempt:
    """Calls plugin code. Only what a signal of the user or the system raises, as ctrl-C does, is raised here.

    In other threads than the main one the interpreter's state is not watched: streams, signals and the working
    directory belong to all threads.

    Args:
        label: names the plugin in messages, as `"the plugin 'extra' of extra-methods 2.0"`.
        function: called without arguments.
        announce: whether to say on stderr that it is still running after `SLOW` seconds.
    """
    value, error, changes = _called(label, function, announce)
    if error is None:
        return Attempt(value, changes=changes)
    # The text of an exception is plugin code as well.
    text, unreadable, _ = _called(label, lambda: error_text(error), announce)
    text = text if unreadable is None else "an exception whose text cannot be read"
    return Attempt(error=text, changes=changes, raised=error)


def attempted(label: str, function: Callable[[], Any]) -> Attempt:
    """Calls code of our own as `isolated` does a plugin's, without watching the interpreter."""
    try:
        return Attempt(function())
    except Exception as error:
        return Attempt(error=error_text(error), raised=error)


def error_text(error: BaseException) -> str:
    """An exception as part of a sentence, at most `QUOTED` characters; our own kind needs no class name."""
    try:
        text = " ".join(str(error).split())
    except Exception as second:
        text = f"its text cannot be read: {type(second).__name__}"
    if isinstance(error, BadInput):
        return _cut(text, 10 * QUOTED)  # a sentence of ours, which may list names
    return _cut(f"{type(error).__name__}: {text}".removesuffix(": "), QUOTED)


def value_text(value: Any) -> str:
    """The `repr` of a plugin's object, at most `QUOTED` characters."""
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return _cut(text, QUOTED)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _called(
    label: str, function: Callable[[], Any], announce: bool
) -> tuple[Any, BaseException | None, tuple[str, ...]]:
    """The value or the exception of a call, and what the call changed; that is undone."""
    timer = _announcing(f"{label} is still running after {SLOW:g} s" if announce else "")
    if threading.current_thread() is not threading.main_thread():
        try:
            return function(), None, ()
        except _ANY as raised:
            return None, raised, ()
        finally:
            timer.cancel()
    names, state = _BUILTINS.copy(), _State()
    state.enter(label)
    value: Any = None
    error: BaseException | None = None
    try:
        value = function()
    except _ANY as raised:
        error = raised
    finally:
        # Methods alone until the builtins are back, because a plugin may have replaced `getattr`.
        after = _BUILTINS.copy()
        _BUILTINS.update(names)
        timer.cancel()
        replaced = [name for name, own in names.items() if after.get(name) is not own]
        more = f" and {len(replaced) - 3} more" if len(replaced) > 3 else ""
        changes = [f"it replaces builtins.{', '.join(replaced[:3])}{more}"] if replaced else []
        changes += state.undone()
    if state.interrupts:  # raised here even if the plugin caught it: a signal is not meant for a plugin
        raise state.interrupts[0]
    return value, error, tuple(changes)


class _State:
    """State of the process that plugin code must not change, saved on entry and restored on exit."""

    def __init__(self) -> None:
        self.streams = {name: getattr(sys, name) for name in _FD}
        self.handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self.alarm = signal.getitimer(signal.ITIMER_REAL)[0]
        self.folder = _working_directory()
        self.path = list(sys.path)
        self.filters = list(warnings.filters)
        self.warnings = warnings.catch_warnings()
        self.depth = sys.getrecursionlimit()
        self.hook = sys.excepthook
        self.register = atexit.register
        self.interrupts: list[BaseException] = []
        self.kept: dict[int, int] = {}
        self.aside = _Aside()
        self.relays: dict[int, Any] = {}

    def enter(self, label: str) -> None:
        """Turns stdout to stderr, and notes every exception that a signal's handler raises."""
        for stream in (self.streams["stdout"], self.streams["stderr"]):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        with contextlib.suppress(OSError):
            self.kept = {number: os.dup(number) for number in (_STDOUT, _STDERR)}
            os.dup2(_STDERR, _STDOUT)
        sys.stdout = self.aside
        self.warnings.__enter__()
        for number, handler in self.handlers.items():
            if callable(handler):
                self.relays[number] = self._relay(handler)
                signal.signal(number, self.relays[number])
        atexit.register = _registering(label)

    def _relay(self, handler: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
        def relay(number: int, frame: Any) -> None:
            try:
                handler(number, frame)
            except _ANY as error:
                self.interrupts.append(error)
                raise

        return relay

    def undone(self) -> list[str]:
        """Puts everything back, and gives what was changed."""
        changes = [*self._signals(), *self._descriptors(), *self._streams(), *self._paths()]
        atexit.register = self.register
        added = [entry for entry in warnings.filters if entry not in self.filters]
        if any(entry[0] == "error" for entry in added):
            self.warnings.__exit__(None, None, None)
            changes.append("it turns warnings into errors")
        if sys.getrecursionlimit() != self.depth:
            sys.setrecursionlimit(self.depth)
            changes.append("it changes the recursion limit")
        if sys.excepthook is not self.hook:
            sys.excepthook = self.hook
            changes.append("it replaces sys.excepthook")
        return changes

    def _signals(self) -> list[str]:
        changes = []
        for number, handler in self.handlers.items():
            if signal.getsignal(number) is not self.relays.get(number, handler):
                changes.append(f"it handles the signal {signal.Signals(number).name}")
            if handler is not None:  # None: installed by C code, which Python cannot put back
                signal.signal(number, handler)
        if not self.alarm and signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)
            changes.append("it sets an alarm")
        return changes

    def _descriptors(self) -> list[str]:
        changes = []
        for number in self.kept:
            try:
                if not os.path.samestat(os.fstat(number), os.fstat(self.kept[_STDERR])):
                    changes.append(f"it redirects file descriptor {number}")
            except OSError:
                changes.append(f"it closes file descriptor {number}")
        for number, kept in self.kept.items():
            try:
                os.dup2(kept, number)
                os.close(kept)
            except OSError:
                changes.append(f"it closes file descriptor {kept}, which it did not open")
        return changes

    def _streams(self) -> list[str]:
        changes = []
        for name, stream in self.streams.items():
            if getattr(sys, name) is not (self.aside if name == "stdout" else stream):
                changes.append(f"it replaces sys.{name}")
            if getattr(stream, "closed", False):
                changes.append(f"it closes sys.{name}")
                mode = "r" if name == "stdin" else "w"
                stream = open(_FD[name], mode, encoding="utf-8", closefd=False)  # noqa: SIM115  lives as long as sys
                setattr(sys, f"__{name}__", stream)
            setattr(sys, name, stream)
        return changes

    def _paths(self) -> list[str]:
        changes = []
        if self.folder is not None and _working_directory() != self.folder:
            os.chdir(self.folder)
            changes.append("it changes the working directory")
        if sys.path[: len(self.path)] != self.path:  # what is appended hides no module, and stays
            sys.path[:] = self.path
            changes.append("it changes sys.path")
        return changes


class _Aside(io.TextIOBase):
    """Stands for stdout while plugin code runs: passes text to stderr; closing it closes nothing.

    A library may keep it, as a logging handler does, so it asks for stderr each time.
    """

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(AttributeError, ValueError, OSError):
            sys.stderr.flush()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        return sys.stderr.isatty()

    @property
    def buffer(self) -> Any:
        return sys.stderr.buffer

    def reconfigure(self, **options: Any) -> None:
        """Does nothing: the stream is not the plugin's own."""

    def close(self) -> None:
        """Does nothing, for the same reason."""


@dataclass(frozen=True, eq=False)
class _AtExit:
    """A function that a plugin registered to be called as the process ends, and whose faults must not spoil the end."""

    label: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any, **named: Any) -> None:
        timer = _announcing(f"what {self.label} registered with atexit is still running after {SLOW:g} s")
        try:
            self.function(*arguments, **named)
        except _ANY as error:
            _say(f"what {self.label} registered with atexit failed: {error_text(error)}")
        finally:
            timer.cancel()

    def __eq__(self, other: object) -> bool:
        """As the function itself, so that `atexit.unregister` finds it."""
        return other is self or other == self.function

    def __hash__(self) -> int:
        return hash(self.function)


def _registering(label: str) -> Callable[..., Any]:
    original = atexit.register

    def register(function: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[..., Any]:
        original(_AtExit(label, function), *arguments, **named)
        return function

    return register


def _announcing(sentence: str) -> threading.Timer:
    """A timer that says the sentence on stderr unless it is cancelled."""
    advice = "ctrl-C stops the command; --no-plugins or DELTACOMPOSE_PLUGINS leaves the plugin out"
    timer = threading.Timer(SLOW, _say, (f"{sentence}; {advice}",))
    timer.daemon = True
    if sentence:
        timer.start()
    return timer


def _say(sentence: str) -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        print(sentence, file=sys.stderr, flush=True)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
