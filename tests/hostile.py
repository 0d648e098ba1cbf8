"""Plugins that misbehave in every way we know, and the command that counts what they do to deltacompose.

`python tests/hostile.py` installs each plugin alone in a new folder and types every command of `COMMANDS`. It
prints one JSON object of counts; its exit status is 0 only if no command showed a traceback, ended otherwise than
without the plugin, printed anything but one document with `--json`, or left the plugin out of `plugins --json`.
"""

from __future__ import annotations

import os
import subprocess
import sys

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
    "closes_stdout": ("import sys\nsys.__stdout__.close()" + HOOK, "it closes sys.stdout"),
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
