"""Damaged and hostile inputs: each must be one sentence, in seconds, in bounded memory.

    python tests/hostile_inputs.py            prints a table of counts, and what ended otherwise than expected
    python tests/hostile_inputs.py --list     prints every input
    python tests/hostile_inputs.py yaml npz   runs these kinds only
    python tests/hostile_inputs.py --quick    runs every twentieth input

The limits that these inputs run into are stated in `docs/limits.md`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import numpy as np
import picostudy
import torch
from forked import Action, Case, command
from safetensors.torch import save_file

import deltacompose as dc
from deltacompose import api
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta.exchange import import_peft
from deltacompose.library.library import Library
from deltacompose.store import open_store
from deltacompose.study import Study

STUDY: dict[str, Any] = {"name": "a", "tasks": ["sentiment"], "compositions": ["lora"]}
LIMIT = 600.0


Content = str | bytes | Callable[[], str | bytes]


def yaml_of(**changes: Any) -> str:
    return json.dumps({**STUDY, **changes})  # JSON is YAML


def written(name: str, content: Content, then: Callable[[Path], object]) -> Action:
    """Writes a file and hands it on; large contents are functions, so that the parent process does not hold them."""

    def action(folder: Path) -> object:
        made = content() if callable(content) else content
        data = made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made
        (folder / name).write_bytes(data)
        return then(folder / name)

    return action


def study(content: Content) -> Action:
    return written("study.yaml", content, Study.read)


# YAML


def laughs(levels: int, width: int = 9) -> str:
    """Aliases of aliases: `width ** levels` values in a few lines."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * width)}]" for k in range(1, levels)]
    return "\n".join(lines)


def yaml_cases() -> Iterator[Case]:
    texts = {
        "billion laughs in lists": laughs(9),
        "billion laughs in mappings": "\n".join(
            [
                "a0: &a0 {x: 1}",
                *(f"a{k}: &a{k} {{{', '.join(f'{n}: *a{k - 1}' for n in 'abcdefghi')}}}" for k in range(1, 12)),
            ]
        ),
        "laughs as keys": "? &a [x, x]\n: &b [*a, *a]\n? [*b, *b]\n: 1\n",
        "aliases nested 60 deep": "\n".join(["a0: &a0 [x]", *(f"a{k}: &a{k} [*a{k - 1}]" for k in range(1, 60))]),
        "recursive list": "name: &a [*a]",
        "recursive mapping": "name: &a {x: *a}",
        "recursive through two": "name: &a [&b [*a]]",
        "alias without an anchor": "name: *nobody",
        "merge keys": "base: &b {name: a}\n<<: *b\n",
        "merge bomb": laughs(6).replace("[", "{<<: [").replace("]", "]}"),
        "100 000 unknown fields": lambda: "".join(f"unknown_{k}: 1\n" for k in range(100_000)),
        "40 000 unknown fields": "".join(f"k{k}: 1\n" for k in range(40_000)),
        "40 000 keys twice": "".join(f"k{k}: 1\n" for k in range(20_000)) * 2,
        "10 MB of garbage": lambda: os.urandom(10 * 2**20),
        "10 MB of letters": lambda: "a" * 10 * 2**20,
        "1 MB of brackets": lambda: "[" * 2**20,
        "1 MB of open quotes": '"' + "x" * (2**20 - 10),
        "an integer of 10 000 digits": f"name: a\nseeds: [{'9' * 10_000}]",
        "a hexadecimal integer of 10 000 digits": f"seeds: [0x{'f' * 10_000}]",
        "an octal integer of 10 000 digits": f"seeds: [0{'7' * 10_000}]",
        "a number in base 60 of 5 000 places": f"seeds: [1{':59' * 5_000}]",
        "a float in base 60 of 5 000 places": f"seeds: [1{':59' * 5_000}.5]",
        "a date that is none": "name: 2024-99-99",
        "a date": yaml_of().replace('"a"', "2024-01-01"),
        "a Python tag": "name: !!python/object/apply:os.system [ls]",
        "a Python name": "name: !!python/name:os.system",
        "an unknown tag": "name: !mine a",
        "a tag that does not fit": "name: !!int a",
        "a set": "name: !!set {a, b}",
        "an ordered map": "name: !!omap [a: 1]",
        "binary": "name: !!binary x",
        "nested 100 000 deep": "[" * 100_000,
        "mappings nested 3 000 deep": "{a: " * 3000,
        "block lists nested 500 deep": "- " * 500 + "x",
        "a list as a key": "? [a]\n: b",
        "a key twice": "name: a\nname: b",
        "a NUL character": "name: a\0b",
        "UTF-16": yaml_of().encode("utf-16"),
        "Latin-1": b"name: \xe9",
        "half of a surrogate pair": 'name: "\\ud800"',
        "two documents": "name: a\n---\nname: b",
        "nothing": "",
        "a list": "[a, b]",
        "a text": "study",
        "a tab": "\tname: a",
        "an anchor of 100 000 characters": f"name: &{'a' * 100_000} x\ntasks: *{'b' * 100_000}",
        "a key of 100 000 characters": f"? {'x' * 100_000}\n: 1",
        "a key of 100 000 characters twice": f"? {'x' * 100_000}\n: 1\n" * 2,
        "infinity": yaml_of().replace('"a"', ".inf"),
        "a directive": "%YAML 9.9\n---\nname: a",
    }
    for name, text in texts.items():
        yield Case("yaml", name, study(text))
    yield Case("yaml", "a byte order mark", study(b"\xef\xbb\xbf" + yaml_of().encode()), "accepted")
    yield Case("yaml", "aliases that are harmless", study(yaml_of() + "\n"), "accepted")
    table = {"billion laughs": laughs(9), "an integer of 10 000 digits": f"serves: [{'9' * 10_000}]", "a list": "[a]"}
    table |= {
        "places with aliases": "serves: &a [x]\nkind: decoder\nstacks: *a\nplaces: *a",
        "a tag": "serves: !!set {a}",
    }
    for name, text in table.items():
        yield Case("yaml", f"a table: {name}", written("mine.yaml", text, read_table))


def read_table(path: Path) -> object:
    from deltacompose.places.table import read_table_file

    return read_table_file(path)


# Values of a study


def study_cases() -> Iterator[Case]:
    long = "x" * 90_000
    values: dict[str, dict[str, Any]] = {
        "steps of 10**30": {"training": {"steps": 10**30}},
        "steps below 0": {"training": {"steps": -1}},
        "steps as text": {"training": {"steps": "10"}},
        "steps as a float": {"training": {"steps": 10.0}},
        "steps as a truth value": {"training": {"steps": True}},
        "a batch of 10**18": {"training": {"batch": 10**18}},
        "evaluate_every of 10**18": {"training": {"evaluate_every": 10**18}},
        "a limit of 10**18 tokens": {"training": {"limit": 10**18}},
        "a learning rate of -1": {"training": {"learning_rates": {"lora": -1.0}}},
        "a seed of 2**63": {"seeds": [2**63]},
        "a seed of 2**64": {"seeds": [2**64]},
        "a seed of 10**39": {"seeds": [10**39]},
        "a seed below 0": {"seeds": [-1]},
        "100 000 seeds": {"seeds": list(range(90_000))},
        "no seeds": {"seeds": []},
        "processes of 10**9": {"processes": 10**9},
        "shots of 10**30": {"shots": 10**30},
        "rows of 10**30": {"rows": {"train": 10**30}},
        "a task named untouched": {"tasks": ["untouched"]},
        "a task named random": {"tasks": ["random"]},
        "a task named chance": {"tasks": ["chance"]},
        "an own task named random": {"own_tasks": {"random": {}}},
        "a start from a task named untouched": {"start_from": ["untouched"]},
        "a task with an empty name": {"tasks": [""]},
        "a task name of 90 000 characters": {"tasks": [long]},
        "a study name of 90 000 characters": {"name": long},
        "a composition of 90 000 characters": {"compositions": [long]},
        "a field of 90 000 characters": {long: 1},
        "a split of 90 000 characters": {"split": long},
        "a nested value of 90 000 characters": {"backbone": {"dtype": [[long]]}},
        "a number for a name": {"name": 1},
        "a mapping for the tasks": {"tasks": {"a": 1}},
        "nested lists for the tasks": {"tasks": [[["a"]]]},
        "a task twice": {"tasks": ["a", "a"]},
        "a grid of 0": {"grid": [0.0]},
        "a grid of 1e400": {"grid": [float("inf")]},
        "stages as text": {"stages": "lora"},
        "an own task as text": {"own_tasks": {"mine": "x"}},
        "5 000 unknown fields of the training": {"training": {f"k{k}": 1 for k in range(5000)}},
        "the folder": {"folder": "/"},
        "a subspace of 10**30 dimensions": {"subspace": {"composition": "lora", "dimensions": 10**30}},
        "a dimension of 10**30": {"dimension": {"most": 10**30}},
    }
    for name, changes in values.items():
        yield Case("study values", name, study(yaml_of(**changes)))
    planned = {
        "stages with an unknown setting": {"stages": [{"stepz": 1}]},
        "stages with steps of 10**30": {"stages": [{"steps": 10**30}]},
        "a learning rate of an unknown method": {"training": {"learning_rates": {"x" * 90_000: 1.0}}},
        "a model whose name has a NUL": {"backbone": {"model": "a\0b"}},
        "a model of 90 000 characters": {"backbone": {"model": long}},
        "a model of ../../..": {"backbone": {"model": "../../../nothing/of/that/name"}},
        "a device of 90 000 characters": {"backbone": {"device": long}},
        "a table that is a list of lists": {"backbone": {"table": {"serves": [[[]]]}}},
        "a table whose places are recursive text": {"backbone": {"table": {"serves": ["x"], "kind": "decoder"}}},
        "an unknown measure": {"measures": [long]},
        "an unknown task": {"tasks": ["x" * 150]},
    }
    for name, changes in planned.items():
        yield Case("study values", name, study_plan(yaml_of(**changes)))
    own = own_task()
    described: dict[str, dict[str, Any]] = {
        "an unclosed brace": {"template": "{input"},
        "a closing brace alone": {"template": "input}"},
        "an attribute": {"template": "{input.__class__}"},
        "an index": {"template": "{input[0]}"},
        "a format": {"template": "{input:>1000000000}"},
        "a conversion": {"template": "{input!r}"},
        "nested braces": {"template": "{input:{input}}"},
        "90 000 braces": {"template": "{" * 90_000},
        "an unknown column": {"template": "{x}"},
        "a path with a NUL": {"path": "a\0b.csv"},
        "a path that is a folder": {"path": "."},
        "a path of 5 000 characters": {"path": "x" * 5000 + ".csv"},
        "a path that is /dev/zero": {"path": {"train": "/dev/zero"}},
        "columns as a list": {"columns": ["a"]},
        "a verbalizer of lists": {"verbalizer": {"bad": ["x"], "good": ["y"]}},
        "a verbalizer with a truth value": {"verbalizer": {"bad": True, "good": False}},
        "an unknown entry of 90 000 characters": {"x" * 90_000: 1},
        "options of 10**30": {"options": 10**30},
        "a limit of 10**30": {"data": {"limit": {"train": -(10**30)}}},
        "a metric of 90 000 characters": {"metric": long},
        "decimals of 10**30": {"columns": {"input": "input", "target": "target", "decimals": 10**30}},
    }
    for name, changes in described.items():
        yield Case("task descriptions", name, task({**own, **changes}))


def study_plan(content: str) -> Action:
    return written("study.yaml", content, lambda path: dc.plan(Study.read(path)))


def own_task() -> dict[str, Any]:
    return picostudy.own("mood")


def task(described: dict[str, Any]) -> Action:
    """Reads the training examples of a task by its description."""

    def action(folder: Path) -> object:
        from deltacompose.task.build import task_from_mapping

        picostudy.write_rows(folder / "mood.jsonl", "mood", 0)
        return task_from_mapping("mood", described, folder).examples("train")

    return action


# Expressions


def expression_cases() -> Iterator[Case]:
    texts = {
        "a rank of 400 digits": f"lora(rank={'9' * 400})",
        "a rank of 5 000 digits": f"lora(rank={'9' * 5000})",
        "a rank of 2**63": f"lora(rank={2**63})",
        "a rank below 0": "lora(rank=-1)",
        "a rank in scientific notation": "lora(rank=1e9)",
        "an alpha of 1e999": "lora(alpha=1e999)",
        "a complex number": "lora(rank=1j)",
        "a name of 90 000 characters": "x" * 90_000,
        "100 000 parentheses": "(" * 100_000 + "lora" + ")" * 100_000,
        "200 parentheses": "(" * 300 + "lora" + ")" * 300,
        "a sum of 5 000 parts": "+".join(["bitfit"] * 5000),
        "a sequence of 3 000 stages": ">>".join(["bitfit"] * 3000),
        "tuples nested 100 deep": f"lora(places={'(' * 90}'a',{'),' * 90})",
        "a text of 90 000 characters": f"lora(places=({'x' * 90_000!r},))",
        "a setting of 90 000 characters": f"lora({'x' * 90_000}=1)",
        "a NUL character": "lora\0",
        "an f-string": "lora(places=f'{1}')",
        "a call of a call": "lora()()",
        "an import": "__import__('os').system('ls')",
        "a lambda": "lambda: lora",
        "a walrus": "(x := lora)",
        "a comprehension": "[lora for _ in range(10**9)]",
        "a power": "lora ** 2",
        "a shift of numbers": "1 >> 2",
        "unary signs": "lora(rank=" + "-" * 5000 + "1)",
        "nothing": "",
        "a half surrogate": "lora(places=('\\ud800',))",
    }
    for name, text in texts.items():
        yield Case("expressions", name, lambda folder, text=text: dc.parse(text))
    large = {
        "intrinsic(d=1000000000)": "intrinsic(d=1000000000)",
        "intrinsic of 2**62": f"intrinsic(d={2**62})",
        "a dense projection of 10**8": "intrinsic(d=100000000, projection='dense')",
        "a fastfood projection of 10**9": "intrinsic(d=1000000000, projection='fastfood')",
        "a rank of 2**40": f"lora(rank={2**40})",
        "a rank of 2**62": f"lora(rank={2**62})",
        "a prompt of 10**12": "prompt(length=1000000000000)",
        "a prefix of 10**10": "prefix(length=10000000000)",
        "an adapter of 10**10": "adapter(bottleneck=10000000000)",
        "a vera of 10**9": "vera(rank=1000000000)",
        "a compacter of 10**9": "compacter(n=1000000000)",
        "p_tuning of 10**9": "p_tuning(length=1000000000)",
        "intrinsic_prompt without a file": "intrinsic_prompt(file='/dev/zero', sha256='x')",
    }
    for name, text in large.items():
        yield Case("expressions", name, lambda folder, text=text: dc.init_weights(BACKBONES["bert"], text))


# Libraries


CARD = {"format": 1, "task": "mood", "composition": "bitfit", "sha256": "0" * 64, "fingerprint": "f"}


def library_with(card: str, index: str = '{"format": 1, "backbone": {"name": "b", "fingerprint": "f"}}') -> Action:
    """Makes a library with one card and reads the card."""

    def action(folder: Path) -> object:
        place = folder / "deltas" / "mood.bitfit.00000000"
        place.mkdir(parents=True)
        (folder / "library.json").write_text(index)
        (place / "card.json").write_text(card)
        return Library(str(folder)).card(place.name)

    return action


def library_cases() -> Iterator[Case]:
    result = {"target": "t", "split": "test", "metric": "m", "score": 0.5}
    cards: dict[str, Any] = {
        "a newer format": {"format": 2},
        "a format of text": {"format": "1"},
        "no task": {"task": ""},
        "a task of a megabyte": {"task": "x" * 2**20},
        "a task that is a list": {"task": ["x"]},
        "a digest that is a path": {"sha256": "../../etc/passwd"},
        "an unknown field": {"__class__": "os.system"},
        "a score of text": {"dev": "high"},
        "a seed of 2**70": {"seed": 2**70},
        "a result without a score": {"results": [{"target": "t"}]},
        "a result of another split": {"results": [{**result, "split": "secret"}]},
        "100 000 results": {"results": [result] * 100_000},
        "a licence of a megabyte": {"licence": "x" * 2**20},
    }
    for name, change in cards.items():
        yield Case("libraries", name, library_with(json.dumps({**CARD, **change})))
    texts = {
        "half a card": '{"format": 1, "ta',
        "a card that is a list": "[1]",
        "no card at all": "",
        "nested a thousand deep": "[" * 1000 + "]" * 1000,
        "NaN for a score": json.dumps({**CARD, "dev": float("nan")}),
        "a key twice": '{"format": 1, "format": 1}',
    }
    for name, text in texts.items():
        yield Case("libraries", name, library_with(text))
    yield Case("libraries", "a whole card", library_with(json.dumps(CARD)), "accepted")
    urls = ("nonsense://x", "simplecache::memory://x", "memory://nothing", "file:///dev/zero", "file:///proc/self/mem")
    for url in urls:
        yield Case("libraries", f"the URL {url}", lambda folder, url=url: Library(url).names())
        yield Case("libraries", f"a delta at {url}", lambda folder, url=url: dc.load_delta(url))


# Paths


def special(make: Callable[[Path], object], then: Callable[[Path], object], name: str = "special") -> Action:
    """Makes something at a path that is not a regular file, and hands the path on."""

    def action(folder: Path) -> object:
        make(folder / name)
        return then(folder / name)

    return action


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


MAKERS: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a link to itself": link_to_itself,
    "a link to /dev/zero": link_to_zero,
    "nothing": lambda path: None,
}


def path_cases() -> Iterator[Case]:
    from deltacompose.analysis.similarity.compare import read_prompts
    from deltacompose.analysis.transfer.tidy_tables import read, read_categories, read_scores

    readers: dict[str, tuple[str, Callable[[Path], object]]] = {
        "a study": ("s.yaml", Study.read),
        "a table": ("t.yaml", read_table),
        "prompts": ("p.npz", read_prompts),
        "categories": ("c.json", read_categories),
        "scores": ("s.csv", read_scores),
        "a transfer table": ("t.csv", read),
        "a transfer table in parquet": ("t.parquet", read),
        "runs": ("r.csv", read_runs),
        "rows": ("rows.jsonl", lambda path: read_rows(path)),
    }
    for what, (name, reader) in readers.items():
        for made, make in MAKERS.items():
            yield Case("paths", f"{what}: {made}", special(make, reader, name))
        for made, bad in {"a NUL": "a\0b", "5 000 characters": "x" * 5000, "a half surrogate": "\ud800"}.items():
            path = Path(bad + Path(name).suffix)
            yield Case("paths", f"{what}: {made}", lambda folder, path=path, reader=reader: reader(path))
    for what in ("delta.json", "delta.safetensors"):
        for made, make in MAKERS.items():
            yield Case("paths", f"{what}: {made}", delta_with(lambda path, make=make: replaced(path, make), what))
    for what in ("adapter_config.json", "adapter_model.safetensors", "deltacompose.json"):
        for made, make in MAKERS.items():
            if (what, made) != ("deltacompose.json", "nothing"):
                yield Case("paths", f"{what}: {made}", peft_with(lambda path, make=make: replaced(path, make), what))
    for word in ("status", "report", "export", "verify", "plan", "lift", "run"):
        more = ("out.csv",) if word == "export" else ()
        yield Case("paths", f"{word}: a named pipe", special(os.mkfifo, lambda p, w=word, m=more: command(w, p, *m)))
    yield Case(
        "paths", "status: store.json a named pipe", store_with("store.json", lambda path: replaced(path, os.mkfifo))
    )


def read_runs(path: Path) -> object:
    from deltacompose.analysis.interaction.runs import read_csv

    return read_csv(path)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def read_rows(path: Path) -> object:
    from deltacompose.task.build import task_from_mapping

    return task_from_mapping("mood", {**own_task(), "path": str(path)}, path.parent).examples("train")


# Rows


def row_cases() -> Iterator[Case]:
    row = {"split": "train", "input": "a", "target": "good"}
    texts: dict[str, Content] = {
        "a row of 50 MB": lambda: json.dumps({**row, "input": "x" * 50 * 2**20}),
        "a line without an end of 50 MB": lambda: "x" * 50 * 2**20,
        "nested 100 000 deep": "[" * 100_000,
        "nested 500 deep": '{"input": ' * 500 + "1" + "}" * 500,
        "NaN": '{"input": NaN, "target": "good", "split": "train"}',
        "Infinity": '{"input": Infinity}',
        "1e999": '{"input": 1e999}',
        "an integer of 10 000 digits": f'{{"input": {"9" * 10_000}}}',
        "a key twice": '{"input": "a", "input": "b"}',
        "half of a surrogate pair": '{"input": "\\ud800"}',
        "a list": "[1, 2]",
        "a text": '"a"',
        "null": "null",
        "an empty line": json.dumps(row) + "\n\n",
        "UTF-16": json.dumps(row).encode("utf-16"),
        "Latin-1": b'{"input": "\xe9"}',
        "nothing": "",
        "a million columns": json.dumps({f"c{k}": 1 for k in range(60_000)}),
        "another column": '{"x": 1}',
        "a label that is none": json.dumps({**row, "target": "x" * 90_000}),
        "a damaged last row": lambda: (json.dumps(row) + "\n") * 100_000 + "{",
    }
    for name, text in texts.items():
        yield Case("rows", f"JSON lines: {name}", written("rows.jsonl", text, read_rows))
    tables: dict[str, Content] = {
        "a row of 50 MB": lambda: "split,input,target\ntrain," + "x" * 50 * 2**20 + ",good\n",
        "a quoted cell of 50 MB over lines": lambda: 'split,input,target\ntrain,"' + "x\n" * 25 * 2**20 + '",good\n',
        "a million columns": lambda: ",".join(f"c{k}" for k in range(1_000_000)) + "\n",
        "100 000 columns": lambda: ",".join(f"c{k}" for k in range(100_000)) + "\n",
        "an open quote": 'split,input,target\ntrain,"a,good\n',
        "a quote within a cell": 'split,input,target\ntrain,"a"b,good\n',
        "too many cells": "split,input,target\ntrain,a,good,x\n",
        "too few cells": "split,input,target\ntrain,a\n",
        "a NUL character": "split,input,target\ntrain,\0,bad\n",
        "a column twice": "split,input,input,target\ntrain,a,b,good\n",
        "UTF-16": "split,input,target\ntrain,a,good\n".encode("utf-16"),
        "nothing": "",
        "a header alone": "split,input,target\n",
        "a damaged last row": lambda: "split,input,target\n" + "train,a,good\n" * 300_000 + "train,a\n",
    }
    for name, text in tables.items():
        yield Case("rows", f"CSV: {name}", written("rows.csv", text, read_rows))
    good = "split,input,target\n" + "".join(
        f"{s},{s} {k},{'good' if k % 2 else 'bad'}\n" for s in ("train", "val", "test") for k in range(4)
    )
    yield Case(
        "rows",
        "CSV: a byte order mark and quotes",
        written("rows.csv", b"\xef\xbb\xbf" + good.replace("split,", '"split",', 1).encode(), read_rows),
        "accepted",
    )
    yield Case("rows", "CSV: carriage returns", written("rows.csv", good.replace("\n", "\r\n"), read_rows), "accepted")
    yield Case("rows", "CSV: empty lines", written("rows.csv", good.replace("\n", "\n\n"), read_rows), "accepted")


# Deltas


def delta_with(change: Callable[[Path], object], name: str) -> Action:
    """Copies a good delta, changes one of its files, loads it and attaches it."""

    def action(folder: Path) -> object:
        copied(MADE / "delta", folder / "delta")
        change(folder / "delta" / name)
        return attached(folder / "delta")

    return action


def attached(folder: Path) -> object:
    delta = api.load_delta(folder)
    with delta.attached(BACKBONES["bert"]):
        return None


def copied(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def edited(**changes: Any) -> Callable[[Path], object]:
    """Replaces entries of a JSON object."""

    def change(path: Path) -> None:
        data = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in {**data, **changes}.items() if v is not ABSENT}))

    return change


ABSENT = object()


def content(data: Content) -> Callable[[Path], object]:
    """Replaces what a file holds."""

    def change(path: Path) -> None:
        made = data() if callable(data) else data
        path.write_bytes(made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made)

    return change


def delta_cases() -> Iterator[Case]:
    long = "x" * 90_000
    changes: dict[str, Callable[[Path], object]] = {
        f"{field}: {value!r:.40}": edited(**{field: value})
        for field, values in {
            "format": ["1", None, [1], 10**30, 2, True],
            "expression": [1, None, ["lora"], long, "", "lora(rank=" + "9" * 400 + ")", "nothing"],
            "settings": [1, "x", [], {}, [[1]], [[{"method": 1}]], long],
            "backbone": [1, "x", [1], {"fingerprint": 1}, {"name": 1, "fingerprint": "x"}, {"x": "y"}, None],
            "plugins": [1, "x", ["lora"], {"lora": 1}, {"lora": None}],
            "record": [1, "x", [1], None],
            "sha256": [1, "x", ["x"], long, ""],
        }.items()
        for value in values
    }
    changes |= {
        f"{field} missing": edited(**{field: ABSENT}) for field in ("format", "expression", "backbone", "record")
    }
    changes |= {
        "a list": content("[]"),
        "a number": content("1"),
        "nothing": content(""),
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:50]),
        "a key twice": lambda path: path.write_text('{"format": 1,' + path.read_text()[1:]),
        "NaN in the record": edited(record={"dev": float("nan")}),
        "nested 100 000 deep": content("[" * 100_000),
        "nested 500 deep": content('{"record": ' * 500 + "1" + "}" * 500),
        "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
        "20 MB": content(lambda: json.dumps({"record": "y" * 20 * 2**20})),
        "8 million empty lists": content("[" + "[]," * 5_000_000 + "[]]"),
        "half of a surrogate pair": lambda path: path.write_text(path.read_text().replace("bitfit", "\\ud800")),
    }
    for name, change in changes.items():
        yield Case("delta.json", name, delta_with(change, "delta.json"))
    yield Case("delta.json", "a further entry", delta_with(edited(further=1), "delta.json"), "accepted")
    for name, change in tensor_changes().items():
        yield Case("delta.safetensors", name, delta_with(change, "delta.safetensors"))


def tensor_changes() -> dict[str, Callable[[Path], object]]:
    def retold(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        """Loads the tensors, changes the mapping, and writes them; the record no longer names a hash."""

        def write(path: Path) -> None:
            from safetensors.torch import load_file

            tensors = load_file(path)
            change(tensors)
            save_file(tensors, path)
            edited(sha256=ABSENT)(path.with_name("delta.json"))

        return write

    def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        """Changes the header alone."""

        def write(path: Path) -> None:
            data = path.read_bytes()
            length = int.from_bytes(data[:8], "little")
            described = json.loads(data[8 : 8 + length])
            change(described)
            text = json.dumps(described).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
            edited(sha256=ABSENT)(path.with_name("delta.json"))

        return write

    def first(described: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = next(v for k, v in described.items() if k != "__metadata__")
        return entry

    def renamed(to: str) -> Callable[[dict[str, Any]], object]:
        def change(tensors: dict[str, Any]) -> None:
            name = next(iter(tensors))
            tensors[to] = tensors.pop(name)

        return change

    def of_all(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], object]:
        return lambda tensors: tensors.update({name: make(x) for name, x in tensors.items()})

    return {
        "a tensor missing": retold(lambda t: t.pop(next(iter(t)))),
        "all tensors missing": retold(lambda t: t.clear()),
        "a tensor more": retold(lambda t: t.update({"weights/0.0.more": torch.ones(3)})),
        "a tensor outside weights and constants": retold(lambda t: t.update({"more": torch.ones(3)})),
        "a constant more": retold(lambda t: t.update({"constants/0.0.more": torch.ones(3)})),
        "a tensor of another stage": retold(renamed("weights/1.0.encoder.0.ffn.up.bias")),
        "other shapes": retold(of_all(lambda x: torch.ones(7))),
        "an axis more": retold(of_all(lambda x: x[None].clone())),
        "no axis": retold(of_all(lambda x: torch.ones(()))),
        "empty tensors": retold(of_all(lambda x: torch.ones(0))),
        "integers": retold(of_all(lambda x: x.long())),
        "truth values": retold(of_all(lambda x: x.bool())),
        "complex numbers": retold(of_all(lambda x: x.to(torch.complex64))),
        "NaN": retold(of_all(lambda x: x * float("nan"))),
        "infinity": retold(of_all(lambda x: x + float("inf"))),
        "a name with ../": retold(renamed("weights/../../../etc/passwd")),
        "a name that is absolute": retold(renamed("/etc/passwd")),
        "a name with a NUL": header(
            lambda h: h.update({"weights/a\0b": h.pop(next(k for k in h if k != "__metadata__"))})
        ),
        "a name of 90 000 characters": retold(renamed("weights/" + "x" * 90_000)),
        "an empty name": retold(renamed("")),
        "a negative shape": header(lambda h: first(h).update(shape=[-1])),
        "a shape of 10**30": header(lambda h: first(h).update(shape=[10**30])),
        "a shape of 2**40": header(lambda h: first(h).update(shape=[2**40])),
        "a shape of floats": header(lambda h: first(h).update(shape=[1.5])),
        "a shape that is text": header(lambda h: first(h).update(shape="16")),
        "a shape of 10 000 axes": header(lambda h: first(h).update(shape=[1] * 10_000)),
        "offsets beyond the file": header(lambda h: first(h).update(data_offsets=[0, 2**60])),
        "offsets that overlap": header(
            lambda h: [v.update(data_offsets=[0, 64]) for k, v in h.items() if k != "__metadata__"]
        ),
        "offsets turned round": header(lambda h: first(h).update(data_offsets=[64, 0])),
        "offsets below 0": header(lambda h: first(h).update(data_offsets=[-64, 0])),
        "one offset": header(lambda h: first(h).update(data_offsets=[0])),
        "an unknown dtype": header(lambda h: first(h).update(dtype="F1")),
        "a dtype that is a number": header(lambda h: first(h).update(dtype=1)),
        "an entry that is a list": header(lambda h: h.update({"x": [1]})),
        "metadata of numbers": header(lambda h: h.update({"__metadata__": {"x": 1}})),
        "metadata that is text": header(lambda h: h.update({"__metadata__": "x"})),
        "a header that is a list": content(struct.pack("<Q", 2) + b"[]"),
        "a header of 2**60 bytes": content(struct.pack("<Q", 2**60) + b"{}"),
        "a header of 2**64 - 1 bytes": content(b"\xff" * 16),
        "a header of 20 MB": content(lambda: struct.pack("<Q", 20 * 2**20) + b" " * 20 * 2**20),
        "a header nested 100 000 deep": content(struct.pack("<Q", 100_000) + b"[" * 100_000),
        "a header with a key twice": content(
            struct.pack("<Q", 4 + 2 * 60)
            + (
                b"{"
                + b'"x": {"dtype": "F32", "shape": [1], "data_offsets": [0,4]}  ,'
                + b'"x": {"dtype": "F32", "shape": [1], "data_offsets": [0,4]}   '
                + b"}"
            )[:124].ljust(124)
            + b"0000"
        ),
        "zeros": content(bytes(100)),
        "five bytes": content(b"12345"),
        "no bytes": content(b""),
        "truncated data": lambda path: path.write_bytes(path.read_bytes()[:-5]),
        "data appended": lambda path: path.write_bytes(path.read_bytes() + b"12345"),
        "a pickle": content(b"\x80\x04\x95" + bytes(50)),
        "another delta's file": lambda path: save_file({"weights/0.0.x": torch.ones(2)}, path),
    }


# Folders of peft


def peft_with(change: Callable[[Path], object], name: str, kind: str = "lora") -> Action:
    """Copies a good folder of peft, changes one of its files, and imports it."""

    def action(folder: Path) -> object:
        copied(MADE / f"peft-{kind}", folder / "adapter")
        change(folder / "adapter" / name)
        return import_peft(folder / "adapter", BACKBONES["llama"], api.methods())

    return action


def peft_cases() -> Iterator[Case]:
    nan = float("nan")
    catastrophic = "(a|.|..)+X"
    harmless = [  # what no tensor depends on, and what is valid and without effect
        ("rank_pattern", {catastrophic: 1}),
        ("alpha_pattern", {catastrophic: 1.0}),  # exponential in Python's engine, and not in ours
        ("bias", "all"),
        ("modules_to_save", ["head"]),
        ("base_model_name_or_path", "x" * 90_000),
    ]
    configs: dict[str, dict[str, list[Any]]] = {
        "lora": {
            "lora_alpha": [ABSENT, "16", None, nan, float("inf"), [16], True, {}],
            "r": ["8", None, 1.5, [8], 0, -1],
            "peft_type": [ABSENT, 1, None, "NOTHING", "x" * 90_000, ["LORA"]],
            "alpha_pattern": [
                {"(": 1.0},
                {"*": 1.0},
                {catastrophic: 1.0},
                {"q_proj": nan},
                {"q_proj": "x"},
                [1],
                "x",
                {"(" * 2000: 1.0},
                {"[": 2},
                {"(?P<a": 2},
                {"q_proj": None},
            ],
            "rank_pattern": [{"(": 1}, {catastrophic: 1}, {"q_proj": "x"}, [1], {"q_proj": 0}],
            "use_rslora": ["yes", 1, []],
            "use_dora": ["yes", 1, {}],
            "bias": [1, "all", []],
            "base_model_name_or_path": [1, [], {}, "x" * 90_000],
            "modules_to_save": [["head"]],
            "target_modules": [1, {"a": 1}, [1, 2]],
        },
        "ia3": {"feedforward_modules": ["(", catastrophic, 1, [1], {"a": 1}], "target_modules": [1]},
        "prompt": {"num_virtual_tokens": [ABSENT, "3", None, -1, 0, 10**30, 1.5]},
    }
    for kind, fields in configs.items():
        for field, values in fields.items():
            for value in values:
                name = f"{kind}: {field} {'missing' if value is ABSENT else repr(value)[:40]}"
                expected = "accepted" if (field, value) in harmless else "refused"
                yield Case(
                    "peft folders", name, peft_with(edited(**{field: value}), "adapter_config.json", kind), expected
                )
    texts = {
        "a list": "[]",
        "nothing": "",
        "truncated": '{"peft_type": "LO',
        "nested 100 000 deep": "[" * 100_000,
        "a key twice": '{"peft_type": "LORA", "peft_type": "IA3"}',
        "20 MB": lambda: json.dumps({"peft_type": "LORA", "x": "y" * 20 * 2**20}),
        "a pickle": b"\x80\x04",
    }
    for name, text in texts.items():
        yield Case("peft folders", f"configuration: {name}", peft_with(content(text), "adapter_config.json"))
    notes: dict[str, str] = {
        "a list": "[]",
        "a number as fingerprint": '{"fingerprint": 1}',
        "a null": "null",
        "another fingerprint": json.dumps({"fingerprint": "x" * 90_000}),
        "nothing": "",
        "no fingerprint": "{}",
    }
    for name, text in notes.items():
        yield Case("peft folders", f"note: {name}", peft_with(content(text), "deltacompose.json"))
    yield from peft_tensors()


def peft_tensors() -> Iterator[Case]:
    def retold(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            from safetensors.torch import load_file

            tensors = load_file(path)
            change(tensors)
            save_file({name: x.contiguous() for name, x in tensors.items()}, path)

        return write

    def of(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], object]:
        return lambda t: t.update({name: make(x).clone() for name, x in t.items() if part in name})

    def without(part: str) -> Callable[[dict[str, torch.Tensor]], object]:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for name in [name for name in tensors if part in name][:1]:
                del tensors[name]

        return change

    changes = {
        ("lora", "lora_A without lora_B"): without("lora_B"),
        ("lora", "lora_B without lora_A"): without("lora_A"),
        ("lora", "a 1-d lora_A"): of("lora_A", lambda x: x[0]),
        ("lora", "a 1-d lora_B"): of("lora_B", lambda x: x[:, 0]),
        ("lora", "a 3-d lora_A"): of("lora_A", lambda x: x[None]),
        ("lora", "a lora_A without axes"): of("lora_A", lambda x: x.sum()),
        ("lora", "rank 0"): lambda t: (of("lora_A", lambda x: x[:0])(t), of("lora_B", lambda x: x[:, :0])(t)),
        ("lora", "ranks that differ"): of("lora_B", lambda x: x[:, :1]),
        ("lora", "integers"): of("lora", lambda x: x.int()),
        ("lora", "truth values"): of("lora", lambda x: x.bool()),
        ("lora", "NaN"): of("lora_B", lambda x: x * float("nan")),
        ("lora", "infinity"): of("lora_A", lambda x: x + float("inf")),
        ("lora", "no tensors"): lambda t: t.clear(),
        ("lora", "a name of no module"): lambda t: t.update(
            {"base_model.model.nothing.lora_A.weight": torch.ones(2, 2)}
        ),
        ("lora", "a name with ../"): lambda t: t.update({"base_model.model.../../x.lora_A.weight": torch.ones(2, 2)}),
        ("lora", "a name of another form"): lambda t: t.update({"x": torch.ones(2)}),
        ("lora", "a name of 90 000 characters"): lambda t: t.update(
            {"base_model.model." + "a." * 45_000 + "lora_A.weight": torch.ones(2, 2)}
        ),
        ("lora", "other widths"): of("lora_A", lambda x: x[:, :3]),
        ("lora", "a magnitude of another length"): lambda t: t.update(
            {k.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(3) for k in list(t) if "lora_A" in k}
        ),
        ("ia3", "an ia3_l of other length"): of("ia3_l", lambda x: x.flatten()[:3]),
        ("ia3", "an ia3_l without axes"): of("ia3_l", lambda x: x.sum()),
        ("ia3", "lora tensors"): lambda t: t.update(
            {k.replace("ia3_l", "lora_A.weight"): x.clone() for k, x in list(t.items())}
        ),
        ("prompt", "a 1-d prompt"): of("prompt", lambda x: x[0]),
        ("prompt", "a prompt of other width"): of("prompt", lambda x: x[:, :3]),
        ("prompt", "no prompt"): lambda t: t.clear() or t.update({"x": torch.ones(2)}),
        ("prompt", "an empty prompt"): of("prompt", lambda x: x[:0]),
        ("prompt", "a prompt without axes"): of("prompt", lambda x: x.sum()),
    }
    for (kind, name), change in changes.items():
        yield Case("peft folders", f"{kind}: {name}", peft_with(retold(change), "adapter_model.safetensors", kind))
    yield Case("peft folders", "lora: as it was", peft_with(lambda path: None, "adapter_model.safetensors"), "accepted")
    yield Case(
        "peft folders",
        "lora: pickled weights",
        peft_with(lambda path: path.rename(path.with_suffix(".bin")), "adapter_model.safetensors"),
    )


# Arrays


def npz_cases() -> Iterator[Case]:
    from deltacompose.analysis.similarity.compare import read_prompts

    def npy(shape: str, dtype: str = "'<f4'", data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
        header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        header += b" " * (-(len(header) + 11) % 64) + b"\n"
        return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data

    def packed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as file:
            for name, data in members.items():
                file.writestr(name, data)
        return out.getvalue()

    def twice() -> bytes:
        import warnings

        out, one = io.BytesIO(), npy("(1, 2)", data=bytes(8))
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w") as file:
            file.writestr("a.npy", one)
            file.writestr("a.npy", one)
        return out.getvalue()

    good = npy("(2, 3)", data=np.ones((2, 3), "<f4").tobytes())
    files = {
        "a header that claims 40 GB": packed({"a.npy": npy("(100000, 100000)", data=bytes(100))}),
        "a header that claims 2**62 numbers": packed({"a.npy": npy(f"({2**62},)")}),
        "a negative shape": packed({"a.npy": npy("(-1, 2)")}),
        "a shape of text": packed({"a.npy": npy("'x'")}),
        "a shape of 60 axes": packed({"a.npy": npy(str((1,) * 60), data=bytes(4))}),
        "a shape that is a call": packed({"a.npy": npy("__import__('os').system('ls')")}),
        "a header nested 5 000 deep": packed({"a.npy": npy("(" * 5000 + ")" * 5000)}),
        "a zip bomb of 600 MB": packed({"a.npy": npy("(1000, 1000)"), "b.npy": bytes(600 * 2**20)}),
        "members that are not arrays": packed({"a.txt": b"hello"}),
        "a member that is text with the name of an array": packed({"a.npy": b"hello"}),
        "an empty member": packed({"a.npy": b""}),
        "an absolute name": packed({"/etc/passwd": b"hello"}),
        "a name with ../": packed({"../../x": b"hello"}),
        "Python objects": packed({"a.npy": npy("(1,)", "'|O'", b"\x80\x04N.")}),
        "integers": packed({"a.npy": npy("(1, 2)", "'<i4'", bytes(8))}),
        "texts": packed({"a.npy": npy("(1, 2)", "'<U4'", bytes(32))}),
        "records": packed({"a.npy": npy("(1,)", "[('x', '<f4'), ('y', '<f4')]", bytes(8))}),
        "a dtype that is none": packed({"a.npy": npy("(1, 2)", "'nothing'")}),
        "one axis": packed({"a.npy": npy("(2,)", data=bytes(8))}),
        "NaN": packed({"a.npy": npy("(1, 2)", data=np.full(2, np.nan, "<f4").tobytes())}),
        "unequal shapes": packed({"a.npy": good, "b.npy": npy("(1, 3)", data=bytes(12))}),
        "no members": packed({}),
        "a name twice": twice(),
        "20 000 members": packed({f"{k}.npy": b"" for k in range(20_000)}, zipfile.ZIP_STORED),
        "version 9 of the format": packed({"a.npy": npy("(1, 2)", data=bytes(8), version=b"\x09\x00")}),
        "truncated": packed({"a.npy": good})[:-40],
        "damaged in the middle": (lambda d: d[:60] + b"\xff" * 20 + d[80:])(packed({"a.npy": good})),
        "a plain npy": good,
        "a pickle": b"\x80\x04\x95" + bytes(50),
        "nothing": b"",
        "text": b"hello",
        "no rows": packed({"a.npy": npy("(0, 3)")}),
    }
    for name, data in files.items():
        yield Case("npz", name, written("p.npz", data, read_prompts))
    yield Case(
        "npz", "as it should be", written("p.npz", packed({"a.npy": good, "b.npy": good}), read_prompts), "accepted"
    )


# Categories and scores


def score_cases() -> Iterator[Case]:
    from deltacompose.analysis.transfer.tidy_tables import COLUMNS, read, read_categories, read_scores

    texts: dict[str, Content] = {
        "a list": "[]",
        "a list of lists": '[["a", "b"]]',
        "lists as categories": '{"a": ["b"]}',
        "objects as categories": '{"a": {"b": "c"}}',
        "numbers": '{"a": 1}',
        "null": "null",
        "a text": '"a"',
        "nested 100 000 deep": '{"a": ' * 100_000,
        "nested 500 deep": '{"a": ' * 500 + '"b"' + "}" * 500,
        "a task twice": '{"a": "x", "a": "y"}',
        "NaN": '{"a": NaN}',
        "an integer of 10 000 digits": f'{{"a": {"9" * 10_000}}}',
        "20 MB": lambda: json.dumps({"a": "x" * 20 * 2**20}),
        "UTF-16": '{"a": "b"}'.encode("utf-16"),
        "nothing": "",
        "half of a surrogate pair": '{"a": "\\ud800"}',
    }
    for name, text in texts.items():
        yield Case("categories", name, written("c.json", text, read_categories))
    yield Case(
        "categories", "a byte order mark", written("c.json", b'\xef\xbb\xbf{"a": "b"}', read_categories), "accepted"
    )

    def square(n: int, cell: str = "0.5") -> str:
        names = [f"t{k}" for k in range(n)]
        return "\n".join([",".join(["source", *names]), *(",".join([name, *[cell] * n]) for name in names)])

    tables: dict[str, Content] = {
        "2 000 x 2 000": lambda: square(2000),
        "100 000 columns": square(1) + "\n" + "," * 100_000,
        "NaN as text": square(2, "x"),
        "infinity": square(2, "inf"),
        "percentages": square(2, "50"),
        "a number of 10 000 digits": square(2, "9" * 10_000),
        "1e999": square(2, "1e999"),
        "a column twice": "source,a,a\na,0.1,0.2\n",
        "a row twice": "source,a,b\na,0.1,0.2\na,0.1,0.2\n",
        "a column named random": "source,random,b\nb,0.1,0.2\n",
        "a row of another length": "source,a,b\na,0.1\n",
        "a header alone": "source,a,b\n",
        "an open quote of 10 MB": lambda: 'source,a\n"' + "x" * 10 * 2**20,
        "a NUL": "source,a\na,\0\n",
        "UTF-16": square(2).encode("utf-16"),
        "nothing": "",
        "10 MB of garbage": lambda: os.urandom(10 * 2**20),
    }
    for name, text in tables.items():
        yield Case("scores", name, written("s.csv", text, read_scores))
    yield Case(
        "scores",
        "2 000 x 2 000 by the command",
        written("s.csv", lambda: square(2000), lambda p: command("transfer", "--scores", p)),
    )
    yield Case(
        "scores",
        "80 x 80 by the command",
        written("s.csv", square(80), lambda p: command("transfer", "--scores", p)),
        "accepted",
    )
    head = ",".join((*COLUMNS, "example_scores")) + "\n"
    rows = {
        "example_scores that are an object": '"{""a"": 1}"',
        "example_scores that are a number": "1",
        "example_scores that are null": "null",
        "example_scores that are true": "true",
        "example_scores that are lists": '"[[1, 0]]"',
        "example_scores of texts": '"[""a""]"',
        "example_scores of NaN": '"[NaN, 1]"',
        "example_scores of null": '"[null, 1]"',
        "example_scores of 1e999": '"[1e999, 1]"',
        "example_scores nested": '"' + "[" * 50_000 + '"',
        "example_scores that are no JSON": "x",
        "example_scores of truth values": '"[true, false]"',
    }
    for name, cell in rows.items():
        yield Case(
            "scores",
            name,
            written("t.csv", head + f"lora,b,0,a,a,,,accuracy,0.5,done,False,0.5,0.5,0.5,{cell}\n", read),
            "accepted" if "NaN" in name else "refused",  # a score that is not known
        )
    fields = {
        "a seed that is text": "lora,b,x,a,a,,,accuracy,0.5,done,False,0.5,0.5,0.5,\n",
        "a seed of 10 000 digits": f"lora,b,{'9' * 10_000},a,a,,,accuracy,0.5,done,False,0.5,0.5,0.5,\n",
        "a score that is text": "lora,b,0,a,a,,,accuracy,x,done,False,0.5,0.5,0.5,\n",
        "an unknown state": f"lora,b,0,a,a,,,accuracy,0.5,{'x' * 90_000},False,0.5,0.5,0.5,\n",
        "a cell twice": "lora,b,0,a,a,,,accuracy,0.5,done,False,0.5,0.5,0.5,\n" * 2,
        "infinity": "lora,b,0,a,a,,,accuracy,inf,done,False,0.5,0.5,0.5,\n",
        "no rows": "",
        "2 000 targets": "".join(f"lora,b,0,a,t{k},,,accuracy,0.5,done,False,0.5,0.5,0.5,\n" for k in range(2000)),
        "a reference of no target": "lora,b,0,a,a,,,accuracy,0.5,done,False,0.5,0.5,0.5,\n"
        "lora,b,0,untouched,x,,,accuracy,0.5,reference,False,0.5,0.5,0.5,\n",
    }
    for name, line in fields.items():
        yield Case(
            "scores",
            f"a tidy table with {name}",
            written("t.csv", head + line, read),
            "accepted" if "reference" in name else "refused",
        )
    yield Case("scores", "a parquet file that is none", written("t.parquet", b"PAR1" + bytes(100), read))
    runs = {
        "a million columns": lambda: ",".join(map(str, range(1_000_000))) + "\n1\n",
        "an open quote": 'a,score\n"1,2\n',
        "a row of 50 MB": lambda: "a,score\n1," + "x" * 50 * 2**20 + "\n",
        "UTF-16": "a,score\n1,2\n".encode("utf-16"),
        "nothing": "",
    }
    for name, text in runs.items():
        yield Case("scores", f"runs: {name}", written("r.csv", text, lambda p: command("interaction", p)))


# Stores


def store_with(name: str, change: Callable[[Path], object], words: tuple[str, ...] = ("status",)) -> Action:
    """Copies a store, changes one of its files, and runs a command on it."""

    def action(folder: Path) -> object:
        copied(MADE / "store", folder / "store")
        path = next(folder.glob(f"store/{name}"))
        change(path)
        more = ["out.csv"] if words[0] == "export" else []
        return command(words[0], folder / "store", *words[1:], *more)

    return action


def store_cases() -> Iterator[Case]:
    shapes: dict[str, Content] = {
        "a list": "[]",
        "a number": "1",
        "null": "null",
        "a text": '"x"',
        "an empty object": "{}",
        "nothing": "",
        "truncated": '{"format": 1, "key"',
        "nested 100 000 deep": "[" * 100_000,
        "UTF-16": '{"a": 1}'.encode("utf-16"),
        "garbage": b"\xff\xfe\x00\x01",
    }
    commands = ("status", "transfer", "export", "verify")
    for name, text in shapes.items():
        for word in commands:
            expected = "status 1" if word == "verify" else "listed"
            for what, where in {"a failure": "failed/*.json", "a record": "cells/*/*/record.json"}.items():
                yield Case("stores", f"{word}: {what}: {name}", store_with(where, content(text), (word,)), expected)
        yield Case("stores", f"status: store.json: {name}", store_with("store.json", content(text)))
    fields: dict[str, list[Any]] = {
        "error": [1, None, ["x"]],
        "message": [1, None, {"a": 1}],
        "attempts": ["x", None, 1.5],
        "spec": [1, None, [], "x"],
        "kind": [1, None],
        "parents": [1, "x", [1]],
        "key": ["x", None, 1],
    }
    for field, values in fields.items():
        for value in values:
            for word in ("status", "transfer", "export"):
                name = f"{word}: a failure: {field} {value!r}"
                yield Case("stores", name, store_with("failed/*.json", edited(**{field: value}), (word,)), "listed")
    lines = {
        **{name: text for name, text in shapes.items() if name not in ("nothing", "garbage")},
        "a run that is a list": json.dumps({"event": "run", "run": ["x"], "machine": "m", "pid": 1}),
        "a run without a machine": json.dumps({"event": "run", "run": "x"}),
        "a pid that is text": json.dumps({"event": "run", "run": "x", "machine": "m", "pid": "1"}),
        "a pid of 10**30": json.dumps({"event": "run", "run": "x", "machine": "m", "pid": 10**30}),
        "a start without a run": json.dumps({"event": "start", "run": "nothing", "keys": ["a"]}),
        "keys that are a number": json.dumps({"event": "start", "run": "x", "keys": 1}),
        "a done whose key is a list": json.dumps({"event": "done", "run": "x", "key": ["a"]}),
        "counts that are text": json.dumps({"event": "plan", "run": "x", "counts": "many", "eta": None}),
        "an eta that is text": json.dumps({"event": "plan", "run": "x", "counts": {"cells": 1}, "eta": "soon"}),
        "an eta that is missing": json.dumps({"event": "plan", "run": "x"}),
        "an evaluation without a score": json.dumps({"event": "evaluated", "run": "x", "key": "a"}),
        "a failure without what it blocks": json.dumps({"event": "failed", "run": "x", "key": "a"}),
        "blocked that is a number": json.dumps(
            {"event": "failed", "run": "x", "key": "a", "label": "l", "reason": "r", "blocked": 1}
        ),
        "an event that is a number": json.dumps({"event": 1, "run": "x"}),
        "a line of 20 MB": '"' + "x" * 20 * 2**20 + '"',
    }
    for name, line in lines.items():
        data = line if isinstance(line, bytes) else line.encode()
        for word in ("status", "transfer"):
            expected = "listed" if word == "status" else "accepted"
            yield Case(
                "stores",
                f"{word}: an event: {name}",
                store_with("events.jsonl", lambda p, d=data: p.write_bytes(p.read_bytes() + d + b"\n"), (word,)),
                expected,
            )
    yield Case(
        "stores",
        "status: events.jsonl is a named pipe",
        store_with("events.jsonl", lambda p: replaced(p, os.mkfifo)),
        "listed",
    )
    yield Case(
        "stores",
        "verify: a record that names ../../x",
        store_with("cells/*/*/record.json", resealed(files={"../../../../x": "y"}), ("verify",)),
        "status 1",
    )
    yield Case(
        "stores",
        "verify: a cell's file is a named pipe",
        store_with("cells/*/*/delta.safetensors", lambda p: replaced(p, os.mkfifo), ("verify",)),
        "status 1",
    )
    for field, value in {"spec": [], "parents": 1, "files": [], "kind": 1, "result": "x", "seconds": "x"}.items():
        for word in ("status", "transfer", "export"):
            yield Case(
                "stores",
                f"{word}: a record whose {field} is {value!r}, sealed",
                store_with("cells/*/*/record.json", resealed(**{field: value}), (word,)),
                "listed",
            )
    for name, text in {
        "a list of numbers": "[1]",
        "a list": "[]",
        "nested": "[[]]",
        "no predictions": "",
        "text": "x",
    }.items():
        for word in ("transfer", "export"):
            yield Case(
                "stores",
                f"{word}: predictions: {name}",
                store_with("cells/*/*/predictions.jsonl", content(text), (word,)),
                "accepted" if word == "export" else "listed",  # an export does not read predictions
            )
    for name, text in shapes.items():
        if name not in ("an empty object",):
            yield Case("stores", f"run: a checkpoint's note: {name}", run_with("together.json", text), "accepted")
            yield Case("stores", f"run: a checkpoint's state: {name}", run_with("state.json", text), "accepted")
    yield Case(
        "stores",
        "status: keys that are not keys",
        store_with("store.json", lambda p: (p.parent / "cells" / "xx").mkdir()),
        "accepted",
    )


def resealed(**changes: Any) -> Callable[[Path], object]:
    """Changes entries of a record and seals it again with its own digest."""

    def change(path: Path) -> None:
        import hashlib

        record = {**json.loads(path.read_text()), **changes}
        record.pop("digest")
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**record, "digest": digest}))

    return change


def run_with(name: str, text: str | bytes) -> Action:
    """Runs a study of which one cell has a checkpoint, a file of which is damaged."""

    def action(folder: Path) -> object:
        copied(MADE / "study", folder / "study")
        chosen = Study.read(folder / "study" / "study.yaml")
        store = open_store(folder / "store")
        key = next(key for key, cell in dc.plan(chosen).nodes(data="cell") if cell.kind == "train")

        def write(into: Path) -> None:
            (into / name).write_bytes(text.encode() if isinstance(text, str) else text)

        store.save_checkpoint(key, write if name == "state.json" else lambda into: None)
        if name == "together.json":
            [note] = (folder / "store").glob(f"checkpoints/{key}/*/{name}")
            write(note.parent)
        outcome = dc.run(chosen, folder / "store")
        assert not outcome.failed, outcome.failed
        return None

    return action


# Backbones


def backbone_cases() -> Iterator[Case]:
    def with_file(name: str, change: Callable[[Path], object]) -> Action:
        def action(folder: Path) -> object:
            copied(MADE / "bert", folder / "bert")
            change(folder / "bert" / name)
            return dc.load_backbone(folder / "bert", device="cpu")

        return action

    configs: dict[str, Callable[[Path], object]] = {
        "a list": content("[]"),
        "nothing": content(""),
        "nested 100 000 deep": content("[" * 100_000),
        "no model type": edited(model_type=ABSENT),
        "an unknown model type": edited(model_type="x" * 90_000),
        "layers as text": edited(num_hidden_layers="x"),
        "layers of -1": edited(num_hidden_layers=-1),
        "other layers": edited(num_hidden_layers=3),
        "another width": edited(hidden_size=32),
        "heads that do not divide": edited(num_attention_heads=3),
        "a model type that is a number": edited(model_type=1),
        "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    }
    for name, change in configs.items():
        yield Case("backbones", f"config.json: {name}", with_file("config.json", change))
    weights: dict[str, Callable[[Path], object]] = {
        "nothing": content(b""),
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "garbage": content(os.urandom(1000)),
        "a header of 2**60 bytes": content(struct.pack("<Q", 2**60) + b"{}"),
        "a named pipe": lambda path: replaced(path, os.mkfifo),
    }
    for name, change in weights.items():
        yield Case("backbones", f"model.safetensors: {name}", with_file("model.safetensors", change))
    for name, change in {
        "nothing": content(""),
        "a list": content("[]"),
        "a named pipe": lambda p: replaced(p, os.mkfifo),
    }.items():
        yield Case("backbones", f"tokenizer.json: {name}", with_file("tokenizer.json", change))


# Words of the command


def command_cases() -> Iterator[Case]:
    long = "x" * 90_000
    words: dict[str, tuple[object, ...]] = {
        "an unknown command": (long,),
        "an unknown option": ("plan", f"--{long}"),
        "a number that is text": ("train", "lora", "sentiment", "out", "--seed", long),
        "a number of 10 000 digits": ("train", "lora", "sentiment", "out", "--steps", "9" * 10_000),
        "a seed of 10**30": ("train", "lora", "sentiment", "out", "--seed", 10**30),
        "steps of 10**30": ("train", "lora", "sentiment", "out", "--steps", 10**30),
        "a learning rate of nan": ("train", "lora", "sentiment", "out", "--learning-rate", "lora=nan"),
        "a learning rate that is text": ("train", "lora", "sentiment", "out", "--learning-rate", long),
        "an unknown task": ("train", "lora", long, "out"),
        "an unknown composition": ("train", long, "sentiment", "out"),
        "an unknown backbone": ("evaluate", "delta", "sentiment", "--backbone", long),
        "a delta of 90 000 characters": ("evaluate", long, "sentiment"),
        "a study of 90 000 characters": ("plan", long),
        "a study that is missing": ("plan", "missing.yaml"),
        "a condition of 90 000 characters": ("interaction", "runs.csv", "--where", long),
        "categories of 90 000 characters": ("transfer", "--scores", "s.csv", "--categories", long),
    }
    for name, given in words.items():
        yield Case("command line", name, lambda folder, given=given: command(*given))


KINDS = (
    yaml_cases, study_cases, expression_cases, path_cases, row_cases, delta_cases, peft_cases, npz_cases, score_cases,
    store_cases, backbone_cases, command_cases, library_cases,
)  # fmt: skip
MADE = Path()
BACKBONES: dict[str, Any] = {}


def cases() -> list[Case]:
    """Every input."""
    return [case for make in KINDS for case in make()]


def prepare(folder: Path) -> None:
    """Makes the good backbones, delta, adapters, study and store that inputs are damaged copies of."""
    global MADE
    from deltacompose.delta.exchange import export_peft

    MADE = folder
    torch.set_num_threads(1)  # threads of this process would be missing in its forks, which would wait for them
    BACKBONES.update({family: pico_backbone(family) for family in ("bert", "llama")})
    api.train(BACKBONES["bert"], "bitfit", made_task(folder), steps=1, batch=2).save(folder / "delta")
    for kind, expression in {"lora": "lora(rank=2)", "ia3": "ia3", "prompt": "prompt(length=3)"}.items():
        delta = api.train(BACKBONES["llama"], expression, made_task(folder), steps=1, batch=2)
        export_peft(delta, BACKBONES["llama"], folder / f"peft-{kind}")
    (folder / "study").mkdir()
    chosen = picostudy.make(folder / "study", seeds=(0,), tasks=("mood", "tone"))
    chosen = replace(chosen, training=replace(chosen.training, steps=2, evaluate_every=1))
    chosen.write(folder / "study" / "study.yaml")
    dc.run(chosen, folder / "store")
    copied(folder / "study" / "bert", folder / "bert")
    store = open_store(folder / "store")
    cell = next(cell for _, cell in dc.plan(chosen).nodes(data="cell") if cell.kind == "evaluate")
    shutil.rmtree(store.folder(cell.key))
    store.fail(cell, ValueError("x"))


def made_task(folder: Path) -> Any:
    from deltacompose.task.build import task_from_mapping

    picostudy.write_rows(folder / "mood.jsonl", "mood", 0)
    return task_from_mapping("mood", own_task(), folder)


def run_all(
    wanted: list[Case], tell: Callable[[Case, forked.Ending], object] = lambda case, ending: None
) -> list[forked.Ending]:
    endings = []
    with tempfile.TemporaryDirectory(prefix="hostile-made-") as folder:
        prepare(Path(folder))
        for case in wanted:
            endings.append(forked.run(case))
            tell(case, endings[-1])
    return endings


def progress(case: Case, ending: forked.Ending) -> None:
    """On stderr, what takes long and what ends otherwise than expected."""
    if ending.outcome != case.expected or ending.seconds > 1 or ending.memory > forked.MEMORY:
        print(
            f"{case.kind}: {case.name}: {ending.outcome} {ending.seconds:.1f} s {ending.memory:.0f} MB",
            ending.message[-300:],
            file=sys.stderr,
            flush=True,
        )


def main(words: list[str]) -> int:
    kinds = [word for word in words if not word.startswith("--")]
    wanted = [case for case in cases() if not kinds or any(kind in case.kind for kind in kinds)]
    wanted = wanted[::20] if "--quick" in words else wanted
    if "--list" in words:
        print("\n".join(f"{case.kind}: {case.name}: {case.expected}" for case in wanted))
        return 0
    endings = run_all(wanted, progress)
    problems = forked.wrong(wanted, endings)
    if "--json" in words:
        print(json.dumps({"rows": forked.table(wanted, endings), "wrong": problems}))
        return bool(problems)
    rows = forked.table(wanted, endings)
    print("  ".join(f"{name:>10}" if name != "kind" else f"{name:<18}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>10}" if name != "kind" else f"{value:<18}" for name, value in row.items()))
    print("\n".join(problems))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
