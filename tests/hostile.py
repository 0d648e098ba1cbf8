"""Plugins that misbehave in every way we know, and the command that counts what they do to deltacompose.

`python tests/hostile.py` installs each plugin alone in a new folder and types every command of `COMMANDS`. It
prints one JSON object of counts; its exit status is 0 only if no command showed a traceback, ended otherwise than
without the plugin, printed anything but one document with `--json`, or left the plugin out of `plugins --json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HOOK = "\ndef deltacompose_expressions():\n    return {NAME: 'bitfit'}\n"
"""A sound hook, which ends most of them: what the plugin does besides must not hide it."""

IMPORT = {
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "exits": ("raise SystemExit(0)", "SystemExit: 0"),
    "raises_base": ("class Enough(BaseException): pass\nraise Enough('now')", "Enough: now"),
    "raises_generator_exit": ("raise GeneratorExit", "GeneratorExit"),
    "text_raises": (
        "class Mute(Exception):\n    def __str__(self): raise ZeroDivisionError\nraise Mute",
        "its text cannot be read",
    ),
    "text_exits": (
        "class Mute(Exception):\n    def __str__(self): raise SystemExit(0)\nraise Mute",
        "text cannot be read",
    ),
    "long_text": ("raise ValueError('x' * 10_000_000)", "xxx…"),
    "recurses": ("def again(): return again()\nagain()", "RecursionError"),
    "getattr_raises": ("def __getattr__(name): raise ZeroDivisionError(name)" + HOOK, "ZeroDivisionError"),
    "getattr_exits": ("def __getattr__(name): raise SystemExit(0)" + HOOK, "SystemExit"),
    "dir_raises": ("def __dir__(): raise ZeroDivisionError('no dir')" + HOOK, "ZeroDivisionError: no dir"),
    "dir_interrupts": ("def __dir__(): raise KeyboardInterrupt" + HOOK, "KeyboardInterrupt"),
    "dir_of_numbers": ("def __dir__(): return [1, None]" + HOOK, "TypeError"),
    "replaces_open": ("import builtins\nbuiltins.open = None" + HOOK, "it replaces builtins.open"),
    "replaces_everything": (
        "import builtins\nfor name in [n for n in vars(builtins) if n[0].islower()]:\n"
        "    builtins.__dict__[name] = None" + HOOK,
        "it replaces builtins.abs, all, any and",
    ),
    "deletes_builtins": (
        "import builtins\ndel builtins.len, builtins.BaseException" + HOOK,
        "it replaces builtins.len",
    ),
    "closes_stdout": ("import sys\nsys.__stdout__.close()" + HOOK, "it closes"),
    "closes_stderr": ("import sys\nsys.stderr.close()" + HOOK, "it closes sys.stderr"),
    "replaces_stdout": ("import sys, io\nsys.stdout = io.StringIO()" + HOOK, "it replaces sys.stdout"),
    "removes_stderr": ("import sys\nsys.stderr = None" + HOOK, "it replaces sys.stderr"),
    "closes_descriptors": ("import os\nos.close(1)\nos.close(2)" + HOOK, "it closes file descriptor 1"),
    "redirects_descriptor": (
        "import os\nos.dup2(os.open(os.devnull, os.O_WRONLY), 1)" + HOOK,
        "it redirects file descriptor 1",
    ),
    "handles_signals": (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: None)" + HOOK,
        "it handles the signal SIGINT",
    ),
    "sets_an_alarm": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 600)" + HOOK, "it sets an alarm"),
    "changes_folder": ("import os\nos.chdir('/')" + HOOK, "it changes the working directory"),
    "empties_path": ("import sys\nsys.path.clear()" + HOOK, "it changes sys.path"),
    "hides_modules": ("import sys\nsys.path.insert(0, '/nowhere')" + HOOK, "it changes sys.path"),
    "warnings_are_errors": ("import warnings\nwarnings.simplefilter('error')" + HOOK, "it turns warnings into errors"),
    "limits_recursion": ("import sys\nsys.setrecursionlimit(150)" + HOOK, "it changes the recursion limit"),
    "replaces_excepthook": ("import sys\nsys.excepthook = None" + HOOK, "it replaces sys.excepthook"),
    "hook_interrupts": ("def deltacompose_tasks(): raise KeyboardInterrupt", "deltacompose_tasks: KeyboardInterrupt"),
    "hook_exits": ("def deltacompose_tasks(): raise SystemExit(0)", "deltacompose_tasks: SystemExit: 0"),
    "hook_recurses": ("def deltacompose_tasks(): return deltacompose_tasks()", "RecursionError"),
    "hook_replaces_builtins": (
        "def deltacompose_tasks():\n    import builtins\n    builtins.open = builtins.str = None\n    return {}",
        "deltacompose_tasks: it replaces builtins.str, open",
    ),
    "endless_mapping": (
        "from collections.abc import Mapping\nclass Endless(Mapping):\n"
        "    def __iter__(self):\n        n = 0\n        while True:\n            n += 1\n            yield str(n)\n"
        "    def __len__(self): return 0\n    def __getitem__(self, name): return 'a:b'\n"
        "def deltacompose_tasks(): return Endless()",
        "more than 100000 members",
    ),
    "mapping_interrupts": (
        "from collections.abc import Mapping\nclass Bad(Mapping):\n"
        "    def __iter__(self): raise KeyboardInterrupt\n"
        "    def __len__(self): return 0\n    def __getitem__(self, name): return 'a:b'\n"
        "def deltacompose_tasks(): return Bad()",
        "deltacompose_tasks: KeyboardInterrupt",
    ),
    "class_lies": (
        "class Lies:\n    @property\n    def __class__(self): raise SystemExit(0)\n"
        "def deltacompose_tasks(): return {NAME: Lies()}",
        "deltacompose_tasks: SystemExit: 0",
    ),
    "name_exits": (
        "class Named:\n    @property\n    def name(self): raise SystemExit(0)\n"
        "def deltacompose_tasks(): return {NAME: Named()}",
        "deltacompose_tasks: SystemExit: 0",
    ),
    "repr_interrupts": (
        "class Mute:\n    def __repr__(self): raise KeyboardInterrupt\n"
        "def deltacompose_methods(): return {NAME: Mute()}",
        "deltacompose_methods: KeyboardInterrupt",
    ),
    "unprintable_names": (
        "def deltacompose_tasks(): return {'a\\n\\x1b[31m': 'a:b', 'x' * 100_000: 'a:b'}",
        "is not a valid name",
    ),
}
"""What a plugin does as it is loaded, and what its report must contain."""

QUIET = {
    "prints": "import os, sys\nprint('noise')\nsys.__stdout__.write('noise')\nsys.__stdout__.flush()\n"
    "os.write(1, b'noise')\nos.system('echo noise')" + HOOK,
    "prints_at_exit": "import atexit, os\natexit.register(lambda: (print('noise'), os.write(1, b'noise')))" + HOOK,
    "fails_at_exit": "import atexit\n@atexit.register\ndef last(): raise ZeroDivisionError('at the end')" + HOOK,
    "exits_at_exit": "import atexit, sys\natexit.register(sys.exit, 3)" + HOOK,
    "warns": "import warnings\nwarnings.warn('old', DeprecationWarning)\nwarnings.warn('look')" + HOOK,
    "appends_to_path": "import sys\nsys.path.append('/nowhere')" + HOOK,
    "member_interrupts": "def deltacompose_methods(): return {NAME: NAME + '_plugin:INTERRUPTS'}\n"
    "def __getattr__(name):\n    if name == 'INTERRUPTS': raise KeyboardInterrupt\n    raise AttributeError(name)",
    "member_exits": "from deltacompose.plugins import Lazy\nimport sys\n"
    "def deltacompose_tasks(): return {NAME: Lazy(sys.exit, 0)}",
    "member_prints": "from deltacompose.plugins import Lazy\n"
    "def deltacompose_tasks(): return {NAME: Lazy(print, 'noise')}\n"
    "def deltacompose_backbones(): return {NAME: Lazy(print, 'noise')}",
}
"""What does no harm, or only when a member is read: the plugin stays active."""

HANGS = "import time\ntime.sleep(3600)"


def install(folder, names):
    """Makes a folder with a distribution for each name, to stand on `PYTHONPATH`."""
    for name in names:
        source = IMPORT[name][0] if name in IMPORT else HANGS if name == "hangs" else QUIET[name]
        info = folder / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[deltacompose]\n{name} = {name}_plugin\n")
        (folder / f"{name}_plugin.py").write_text(f"NAME = {name!r}\n{source}\n")
    return folder


def environment(folder, **further):
    """The variables of a process that finds the plugins of a folder."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | further


COMMAND = [sys.executable, "-c", "from deltacompose.cli import main; main()"]


def typed(folder, *words, **options):
    """What a command prints and its exit status, with the plugins of a folder."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env=environment(folder), check=False, **options
    )


def forked(folder, words, limit=600.0):
    """Types a command in a fork of this process: its exit status, or None after `limit` seconds; stdout and stderr.

    A fork has torch and the library imported already; what plugins register with atexit is not called in it.
    """
    files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  closed below
    child = os.fork()
    if not child:
        os._exit(_in_child(folder, words, files))
    until, status = time.monotonic() + limit, None
    while status is None and time.monotonic() < until:
        ended, number = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(number) if ended else None
        time.sleep(0.01)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode(errors="replace"))
        file.close()
    return status, *texts


def _in_child(folder, words, files):
    from deltacompose.cli import main
    from deltacompose.plugins import loaded

    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us in the background
    sys.argv = ["deltacompose", *words]
    sys.path.insert(0, str(folder))
    loaded.cache_clear()
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 70
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return status


COMMANDS = [("plugins", "--json"), ("tasks", "--json"), ("backbones", "--json")]
"""Typed with every plugin; with those of `QUIET`, whose members fail when they are read, `methods` as well."""


def fault(words, status, out, error, expected):
    """What is wrong with how a command ended, or ""."""
    if status is None:
        return "hang"
    if "Traceback" in out + error:
        return "traceback"
    if status != expected:
        return f"exit status {status}"
    if "--json" in words:
        try:
            json.loads(out)
        except ValueError:
            return "not one document"
    return "" if "noise" not in out or "--json" not in words else "noise"


def main():
    """Types every command with every plugin installed alone, and prints the counts."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--seconds", type=float, default=60.0, help="after which a command is a hang")
    given = reader.parse_args()
    import deltacompose.method.catalogue  # noqa: F401  imported once, before the forks

    counts, wrong = {"plugins": 0, "commands": 0, "reported": 0, "named while it hangs": 0, "faults": 0}, []
    for name in [*IMPORT, *QUIET]:
        with tempfile.TemporaryDirectory() as place:
            folder = install(Path(place), [name])
            counts["plugins"] += 1
            for words in [*COMMANDS, *([("methods", "--json")] if name in QUIET else [])]:
                status, out, error = forked(folder, words, given.seconds)
                counts["commands"] += 1
                if told := fault(words, status, out, error, 0):
                    wrong.append((name, " ".join(words), told))
                elif words == ("plugins", "--json"):
                    row = next(row for row in json.loads(out) if row["name"] == name)
                    reported = name in QUIET or (row["state"] == "broken" and IMPORT[name][1] in row["reason"])
                    counts["reported"] += reported
                    if not reported:
                        wrong.append((name, row["state"], row["reason"]))
    with tempfile.TemporaryDirectory() as place:
        status, _, error = forked(install(Path(place), ["hangs"]), ("plugins",), 15.0)
        counts["named while it hangs"] = int(status is None and "the plugin 'hangs' of hangs 1.5 is still" in error)
    counts["faults"] = len(wrong)
    print(json.dumps(counts))
    for row in wrong:
        print("FAULT", *row, file=sys.stderr)
    return int(bool(wrong) or counts["reported"] < counts["plugins"] or not counts["named while it hangs"])


if __name__ == "__main__":
    sys.exit(main())
