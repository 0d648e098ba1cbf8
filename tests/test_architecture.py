"""The house: imports go down its floors, and what must never be is nowhere in it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest
from house_counts import tree

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "deltacompose"
MEMBERS = ROOT / "plugins" / "deltacompose_plugins"

FLOORS = """
0   errors moved notebook limits validation formats cache
1   composition study places task analysis
2   distributed plugins backbone store figures
3   method planning engine report scoring
4   attach
5   delta
6   training
7   registry checks
8   cells
9   api library
10  cli
"""
"""A package or module of `deltacompose` imports only from those that stand before it here."""

ROOMS = [room for room in FLOORS.split() if not room.isdigit()]
ROOF = {"figures", "report", "checks", "registry", "cells", "api", "library", "cli"}
"""What built-in members never import."""
NO_TORCH = {
    "errors",
    "notebook",
    "limits",
    "validation",
    "formats",
    "moved",
    "cache",
    "composition",
    "study",
    "places",
    "task",
    "analysis",
    "plugins",
    "store",
    "figures",
}
ASKS_OF_A_GPU = "deltacompose.study.machine"
"""Imports torch in functions, where the system shows a GPU or torch is imported already."""
NO_TORCH |= {"planning", "report", "limits", "validation", "formats"}
LIGHT = ("errors", "moved", "plugins.hookspecs", "plugins.members", "plugins.loader", "plugins.scaffold")
TORCH = {"torch", "transformers", "peft", "torchvision", "accelerate"}
HEAVY = TORCH | {"numpy", "scipy", "sklearn", "pandas", "matplotlib", "seaborn", "pydantic", "networkx", "jinja2"}
TALLEST = 400


def files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def named(path: Path) -> str:
    """The dotted name of a module of the house or of the built-in members."""
    parts = path.relative_to(HOUSE.parent if HOUSE in path.parents else MEMBERS.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def room(module: str) -> str:
    """The room that a module of the house belongs to; "" is the public face."""
    return module.partition(".")[2].partition(".")[0]


SOURCES = {named(path): tree(path) for path in files(HOUSE, MEMBERS)}
PATHS = {named(path): path for path in files(HOUSE, MEMBERS)}
OWN = [path for path in files(HOUSE, ROOT / "plugins") if "tests" not in path.parts]


def imports(tree: ast.AST, known: frozenset[str] = frozenset(SOURCES)) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `from package import module` is the module."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for alias in names:
                    yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module
            case ast.ImportFrom(level=level) if level:
                yield "." * level


def test_every_room_stands_on_a_floor():
    strangers = {room(module) for module in SOURCES if module.startswith("deltacompose.")} - set(ROOMS)
    assert not strangers, f"on no floor: {sorted(strangers)}; put them into FLOORS here and into docs/architecture.md"


@pytest.mark.parametrize("module", [module for module in SOURCES if module.startswith("deltacompose.")])
def test_imports_go_down_the_floors(module):
    own = ROOMS.index(room(module))
    for imported in imports(SOURCES[module]):
        assert not imported.startswith("."), f"{module} imports relatively; write the whole name"
        assert not imported.startswith("deltacompose_plugins"), f"{module} imports a member, which enters by plugins.py"
        if imported.split(".")[0] == "deltacompose":
            assert room(imported), f"{module} imports the public face, which stands above every room"
            assert ROOMS.index(room(imported)) <= own, f"{module} imports {imported}, which stands above it"


@pytest.mark.parametrize("module", [module for module in SOURCES if module.startswith("deltacompose_plugins")])
def test_members_import_from_the_house_and_never_its_roof(module):
    for imported in imports(SOURCES[module]):
        if imported.split(".")[0] == "deltacompose":
            assert room(imported) not in ROOF, f"{module} imports {imported}"


def test_no_module_imports_itself_in_a_round():
    graph = nx.DiGraph((module, to) for module in SOURCES for to in imports(SOURCES[module]) if to in SOURCES)
    assert list(nx.simple_cycles(graph, length_bound=8)) == []
    assert nx.is_directed_acyclic_graph(graph)


@pytest.mark.parametrize("module", [module for module in SOURCES if room(module) in NO_TORCH])
def test_rooms_without_torch_import_none(module):
    imported = {name.split(".")[0] for name in imports(SOURCES[module])} & TORCH
    assert imported == ({"torch"} if module == ASKS_OF_A_GPU else set())


def modules_after_importing(*names: str) -> set[str]:
    program = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_rooms_without_torch_leaves_torch_out():
    rooms = [module for module in SOURCES if room(module) in NO_TORCH]
    assert modules_after_importing(*rooms) & TORCH == set()


def test_importing_the_package_and_the_plugin_door_costs_nothing():
    assert modules_after_importing("deltacompose", *(f"deltacompose.{name}" for name in LIGHT)) & HEAVY == set()


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The imports that importing a file makes: none in functions, none for type checkers."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from at_import([part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)])


def imported_with(module: str) -> set[str]:
    """Every module that importing one of the house imports, directly or by others of the house."""
    reached, waiting = set(), [module]
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            body = SOURCES[name].body if name in SOURCES else []
            waiting += [name.rpartition(".")[0] or name, *(to for node in at_import(body) for to in imports(node))]
    return reached


def test_a_worker_imports_no_package_of_tables_figures_or_estimators():
    """Each costs a second in every process of a pool, and few cells need one."""
    reached = imported_with("deltacompose.cells.carry_out")
    assert {"torch", "numpy", "deltacompose.analysis.similarity.clusters"} <= reached
    assert {name.partition(".")[0] for name in reached} & {"pandas", "sklearn", "matplotlib", "seaborn"} == set()


@pytest.mark.parametrize("module", [m for m in SOURCES if room(m) not in ("", "registry", "cli", "plugins")])
def test_only_the_public_face_and_the_command_take_what_is_loaded(module):
    """Every other room is given the members that it needs, so a test can give it others."""
    if module.startswith("deltacompose."):
        calls = [node.func for node in ast.walk(SOURCES[module]) if isinstance(node, ast.Call)]
        assert "loaded" not in {ast.unparse(call).rpartition(".")[2] for call in calls}


PACKAGES = [path for path in files(HOUSE) if path.name == "__init__.py" and path.parent != HOUSE]


def unnamed(package: Path) -> list[str]:
    """Modules and packages of a package that its docstring does not name in backquotes."""
    docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
    modules = {path.stem for path in package.parent.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in package.parent.glob("*/__init__.py")}
    return sorted(modules - set(re.findall(r"`(\w+)`", docstring)))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: named(path))
def test_the_docstring_of_a_package_names_each_of_its_files(package):
    """A newcomer opens a package first, and goes from there to the file."""
    assert unnamed(package) == []


def test_a_file_that_the_docstring_of_its_package_leaves_out_is_named(tmp_path):
    (tmp_path / "__init__.py").write_text('"""`loop` trains; reading reads."""')
    for name in ("loop.py", "reading.py"):
        (tmp_path / name).touch()
    assert unnamed(tmp_path / "__init__.py") == ["reading"]


# What must never be


def faults(tree: ast.AST) -> list[str]:
    """What a file does that must never be, with the line."""
    safe = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _inherits(node, "SafeLoader")}
    found = [(node, fault) for node in ast.walk(tree) for fault in _faults(node, safe)]
    return [f"line {node.lineno}: {fault}" for node, fault in found]


def _faults(node: ast.AST, safe_loaders: set[str]) -> Iterator[str]:
    match node:
        case ast.Assert():
            yield "assert outside tests"
        case ast.ExceptHandler(type=None):
            yield "bare except"
        case ast.Import() | ast.ImportFrom():
            pickles = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
            yield from (f"imports {name}" for name in imports(node) if name.split(".")[0] in pickles)
        case ast.Assign(targets) if {"forward", "__class__"} & {getattr(target, "attr", "") for target in targets}:
            yield "assigns forward or __class__"
        case ast.Compare() if _compares_model_type(node):
            yield "compares a model_type; what depends on an architecture is a table"
        case ast.Call():
            yield from _call_faults(node, safe_loaders)


def _call_faults(call: ast.Call, safe_loaders: set[str]) -> Iterator[str]:
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("eval", "exec", "compile", "__import__", "os.system"):
        yield name
    if name.endswith(".eval") and (call.args or options):
        yield "evaluates text"
    if name.endswith(".query"):
        yield "pandas' query, an eval"
    if name.endswith("torch.load") and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if (
        options.get("allow_pickle") == "True"
        or options.get("shell") == "True"
        or options.get("trust_remote_code") == "True"
    ):
        yield "trusts what it reads: " + ", ".join(option for option, value in options.items() if value == "True")
    if name in ("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"):
        loader = options.get("Loader", ast.unparse(call.args[1]) if len(call.args) > 1 else "")
        if loader not in safe_loaders and "SafeLoader" not in loader:
            yield "reads YAML without a safe loader"


def _inherits(node: ast.ClassDef, parent: str) -> bool:
    return any(ast.unparse(base).endswith(parent) for base in node.bases)


def _compares_model_type(node: ast.Compare) -> bool:
    sides = [node.left, *node.comparators]
    texts = [
        side
        for side in sides
        if any(isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) for leaf in _leaves(side))
    ]
    return bool(texts) and any("model_type" in ast.unparse(side) for side in sides if side not in texts)


def _leaves(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_must_never_be_is_in_no_file(path):
    assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_a_telling_name_and_can_be_held_in_the_head(path):
    assert path.stem not in ("utils", "util", "base", "common", "helpers", "misc")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= TALLEST


BAD = [
    "assert x",
    "try:\n    x\nexcept:\n    pass",
    "import pickle",
    "from joblib import load",
    "import torch.nn, marshal",
    "eval('1')",
    "frame.eval('a + b')",
    "frame.query('a > 1')",
    "exec(text)",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "np.load(path, allow_pickle=True)",
    "AutoModel.from_pretrained(name, trust_remote_code=True)",
    "subprocess.run(text, shell=True)",
    "yaml.load(text)",
    "yaml.load(text, yaml.FullLoader)",
    "yaml.load(text, Loader=yaml.UnsafeLoader)",
    "class Loose(yaml.Loader): ...\nyaml.load(text, Loose)",
    "yaml.unsafe_load(text)",
    "module.forward = mine",
    "module.__class__ = Mine",
    "if config.model_type == 't5': x",
    "if config.model_type in ('t5', 'bart'): x",
    "if 't5' == getattr(config, model_type): x",
]
GOOD = [
    "model.eval()",
    "torch.load(path, weights_only=True)",
    "json.load(file)",
    "yaml.safe_load(text)",
    "class Strict(yaml.SafeLoader): ...\nyaml.load(text, Strict)",
    "yaml.load(text, Loader=yaml.CSafeLoader)",
    "yaml.load(text, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))",
    "table = tables[config.model_type]",
    "if config.model_type in table.serves: x",
    "forward = mine",
    "try:\n    x\nexcept ValueError:\n    pass",
]


@pytest.mark.parametrize("source", BAD)
def test_each_thing_that_must_never_be_would_be_found(source):
    assert len(faults(ast.parse(source))) == 1


@pytest.mark.parametrize("source", GOOD)
def test_its_harmless_likeness_is_let_pass(source):
    assert faults(ast.parse(source)) == []


def test_imports_are_read_wherever_they_stand():
    tree = ast.parse("import a.b\ndef f():\n    from deltacompose import errors, Study\n    from . import c")
    assert list(imports(tree)) == ["a.b", "deltacompose.errors", "deltacompose", "."]
