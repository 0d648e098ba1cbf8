"""What is planned again after each kind of edit of a study's inputs, as a table; all edits within one living process.

`python tests/stale_edits.py` prints a row for every edit: how many of the study's cells have another key after it, and
what is expected: all of them, those of one task or method, or none. With `--fields` it perturbs every field of the
configuration of every pico model, and lists those that change the model's outputs and not its content: there must be
none. Its exit status is 0 if everything is as expected.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import picostudy
import torch
import transformers
from safetensors.numpy import load_file, save_file

import deltacompose as dc
from deltacompose.backbone.content import config_content
from deltacompose.backbone.pico import CONFIGURATIONS, pico
from deltacompose.backbone.pretrained import class_name, kind_of, without_dropout
from deltacompose.cells.loaded import backbone_of
from deltacompose.cells.worker_sources import Sources
from deltacompose.plugins import loader
from deltacompose.study import Study

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

from deltacompose.method import WeightEdit, Method


def deltacompose_methods():
    return {{"shifted": Shifted}}


@dataclass(frozen=True)
class Shifted(Method):
    """Adds {scale} times its weights to the first norm."""

    name: ClassVar[str] = "shifted"
    category: ClassVar[str] = "specification"
    learning_rate: ClassVar[float] = 1e-2
    source: ClassVar[str] = "none"

    def init(self, backbone, generator):
        place = backbone.places("*norm")[0]
        return {{f"{{place.name}}.bias": backbone.parameter(place, "bias").float() * 0}}

    def edits(self, backbone):
        place = backbone.places("*norm")[0]
        return [WeightEdit(place, "bias", lambda t, frozen: {scale} * t[f"{{place.name}}.bias"])]
'''


def write_plugin(folder: Path, scale: float = 1.0, version: str = "1.0") -> None:
    """A distribution with one method, as an installer leaves it in a folder of the import path."""
    shutil.rmtree(
        folder / "__pycache__", ignore_errors=True
    )  # Python tells edits within one second apart by size alone
    for old in folder.glob("shifted_plugin-*"):
        for path in old.iterdir():
            path.unlink()
        old.rmdir()
    (folder / "shifted_plugin.py").write_text(PLUGIN.format(scale=scale))
    about = folder / f"shifted_plugin-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shifted-plugin\nVersion: {version}\n")
    (about / "entry_points.txt").write_text("[deltacompose]\nshifted = shifted_plugin\n")


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The plugin of a folder as a process finds it that starts now."""
    sys.path.insert(0, str(folder))
    try:
        restarted()
        yield
    finally:
        sys.path.remove(str(folder))
        restarted()


def restarted() -> None:
    """Forget the plugin's module, as a new process would not know it."""
    sys.modules.pop("shifted_plugin", None)
    importlib.invalidate_caches()
    loader.loaded.cache_clear()


@dataclass(frozen=True)
class Edit:
    """One edit of an input.

    Attributes:
        apply: changes the files of a study's folder.
        family: of the backbone.
        expected: which cells must be planned again.
        study: how the study itself differs after the edit.
    """

    name: str
    apply: Callable[[Path], None] = lambda folder: None
    family: str = "bert"
    expected: str = "all"
    study: Callable[[Study], Study] = lambda study: study


def in_json(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    """An edit of a JSON file of the model."""

    def apply(folder: Path) -> None:
        path = next(folder.glob(f"*/{name}"))
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def setting(name: str, value: object) -> Callable[[Path], None]:
    return in_json("config.json", lambda config: config.update({name: value}))


def normaliser(tokenizer: dict) -> None:
    tokenizer["normalizer"] = {"type": "Lowercase"}


def permuted(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def other_end(generation: dict) -> None:
    generation["eos_token_id"] = 3


def around(tokenizer: dict) -> None:
    single = tokenizer["post_processor"]["single"]
    single.append(single[0])


def nudged(folder: Path) -> None:
    """One number of the weights moved to the next one of float32, which rounds to the same bfloat16."""
    path = next(folder.glob("*/model.safetensors"))
    tensors = load_file(path)
    name = next(name for name, values in tensors.items() if values.ndim == 2)
    tensors[name] = tensors[name].copy()
    before = tensors[name][-1, -1]
    tensors[name][-1, -1] = np.nextafter(before, np.float32(4))
    assert before != tensors[name][-1, -1]
    save_file(tensors, path, {"format": "pt"})


def reworded(folder: Path) -> None:
    path = folder / "mood.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["input"] += " indeed"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_table(study: Study, exchanged: bool = False) -> Study:
    """The study with its table written out, query and value exchanged if asked for."""
    table = backbone_of(Sources.of(study).backbone).table.data
    places = dict(table["places"])
    if exchanged:
        query, value = (
            next(name for name in places if name.endswith(f"attention.{end}")) for end in ("query", "value")
        )
        places[query], places[value] = places[value], places[query]
    return replace(study, backbone=replace(study.backbone, table={**table, "places": places}))


def relabelled(study: Study) -> Study:
    mood = {**study.own_tasks["mood"], "category": "feelings"}
    return replace(study, own_tasks={**study.own_tasks, "mood": mood})


EDITS = (
    Edit("nothing", expected="none"),
    Edit("tokenizer.json: normaliser", in_json("tokenizer.json", normaliser)),
    Edit("tokenizer.json: two words of the vocabulary exchanged", in_json("tokenizer.json", permuted)),
    Edit("tokenizer.json: special tokens around the input", in_json("tokenizer.json", around)),
    Edit("config.json: num_attention_heads", setting("num_attention_heads", 2)),
    Edit("config.json: hidden_act", setting("hidden_act", "relu")),
    Edit("config.json: layer_norm_eps", setting("layer_norm_eps", 1e-3)),
    Edit("config.json: position_embedding_type", setting("position_embedding_type", "relative_key")),
    Edit("config.json: is_decoder", setting("is_decoder", True)),
    Edit("config.json of a decoder: n_head", setting("n_head", 2), "gpt2"),
    Edit("config.json of a decoder: activation_function", setting("activation_function", "relu"), "gpt2"),
    Edit("config.json: _name_or_path, transformers_version", setting("_name_or_path", "moved"), expected="none"),
    Edit(
        "generation_config.json: eos_token_id",
        in_json("generation_config.json", lambda g: g.update(eos_token_id=3)),
        "gpt2",
    ),
    Edit("weights: one number, within its rounding to bfloat16", nudged),
    Edit("table written out, with query and value exchanged", study=lambda study: with_table(study, True)),
    Edit("table written out as it is", study=with_table, expected="none"),
    Edit("a task's category", study=relabelled, expected="none"),
    Edit("a task's file", reworded, expected="task"),
)


def keys(study: Study) -> list[tuple[str, str]]:
    """The cells of a study in the order of its plan, each as its text and key."""
    graph = dc.plan(study)
    return [(json.dumps(graph.nodes[key]["cell"].spec, sort_keys=True), key) for key in graph]


def planned_again(edit: Edit, folder: Path) -> tuple[int, int, bool]:
    """Cells in all, those with another key after an edit, and whether it is those that are expected."""
    folder = folder / edit.family
    folder.mkdir(exist_ok=True)
    study = picostudy.make(folder, edit.family)
    before = keys(study)
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        edit.apply(folder)
        after = keys(edit.study(study))
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    again = [text for (text, old), (_, new) in zip(before, after, strict=True) if old != new]
    of_task = [text for text, _ in before if '"mood"' in text]
    expected = {"all": [text for text, _ in before], "none": [], "task": of_task}[edit.expected]
    return len(before), len(again), again == expected and keys(study) == before


def plugin_rows(folder: Path) -> Iterator[tuple[str, int, int, str, bool]]:
    """The same for edits of a plugin's method, which a process meets that starts after the edit."""
    place = folder / "site"
    place.mkdir(exist_ok=True)
    study = replace(picostudy.make(place), compositions=("bitfit", "shifted"))
    write_plugin(place)
    with installed(place):
        before = keys(study)
    for name, changes in (("a plugin method's code", {"scale": 2.0}), ("a plugin's version", {"version": "1.1"})):
        write_plugin(place, **changes)
        with installed(place):
            after = keys(study)
        again = [old for (text, old), (_, new) in zip(before, after, strict=True) if old != new]
        expected = [old for text, old in before if '"composition": "shifted"' in text]
        yield name, len(before), len(again), "the method's", again == expected


def rows(folder: Path) -> Iterator[tuple[str, int, int, str, bool]]:
    """Name, cells, cells planned again, what is expected, and whether it is so, of every edit."""
    for edit in EDITS:
        cells, again, right = planned_again(edit, folder)
        yield edit.name, cells, again, edit.expected, right
    yield from plugin_rows(folder)


TELLING = (
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "activation",
    "activation_function",
    "feed_forward_proj",
)
"""Fields of which each family has one that changes its outputs."""

WORDS = ("relu", "gelu_new", "silu", "gated-gelu", "relative_key", "eager", "other")


def perturbed(value):
    """Other values for a field of a configuration, of its type."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value * 2, max(1, value // 2)]
        case float():
            return [value * 1.5 + 0.1]
        case str():
            return list(WORDS)
        case None:
            return [True, 1, 0.5]
        case _:
            return []


def changes(fields, path=()):
    """Every configuration that differs in one field, at any depth: its path, and all fields."""
    for name, value in fields.items():
        if isinstance(value, dict):
            for at, inner in changes(value, (*path, str(name))):
                yield at, {**fields, name: inner}
        for other in perturbed(value):
            yield (*path, str(name)), {**fields, name: other}


def rebuilt(model, config):
    """A model of another configuration with the same weights; None where they do not fit, so that loading refuses."""
    maker = getattr(transformers, class_name(kind_of(config), None))
    other = maker.from_config(config)
    report = other.load_state_dict(model.state_dict(), strict=False)
    return None if report.missing_keys else other.eval()


def outputs(model):
    ids = torch.tensor([[7, 30, 99, 2, 0, 0], [5, 6, 7, 8, 9, 2]])
    given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids
    with torch.no_grad():
        return model(**given, return_dict=True)[0]


def fields_that_change_outputs(family, some=None):
    """Fields of a pico model's configuration that change its outputs when perturbed, and those of them in no content.

    Args:
        some: try only so many of the changes, drawn, with those of fields of which one is known to matter.
    """
    model, differing, silent = pico(family), set(), set()
    before, known = outputs(model), described(model.config)
    tried = list(changes(model.config.to_dict()))
    if some is not None:
        telling = [change for change in tried if change[0][-1] in TELLING and change[1][change[0][-1]] != "other"]
        tried = telling + random.Random(family).sample(tried, some)
    for path, fields in tried:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = without_dropout(type(model.config).from_dict(copy.deepcopy(fields)))
                changed = rebuilt(model, config)
                after = None if changed is None else outputs(changed)
            except Exception:
                continue
        if after is None or (after.shape == before.shape and torch.equal(after, before)):
            continue
        differing.add(".".join(path))
        if described(config) == known and type(changed) is type(model):
            silent.add(".".join(path))
    return differing, silent


def described(config):
    return json.dumps(config_content(config), sort_keys=True, default=str)


def show_fields() -> int:
    """A row for each pico model: how many fields change its outputs, and those of them that are in no key."""
    print("| model | fields that change outputs | of them in no key |\n|---|---|---|")
    unnoticed = 0
    for family in CONFIGURATIONS:
        differing, silent = fields_that_change_outputs(family)
        unnoticed += len(silent)
        print(f"| {family} | {len(differing)} | {', '.join(sorted(silent)) or 'none'} |", flush=True)
    return min(unnoticed, 1)


def main() -> int:
    if "--fields" in sys.argv:
        return show_fields()
    os.environ.setdefault("DELTACOMPOSE_CACHE", tempfile.mkdtemp())
    failed = 0
    print("| edit | cells | planned again | expected | |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for what, cells, again, expected, right in rows(Path(name)):
            failed += not right
            print(f"| {what} | {cells} | {again} | {expected} | {'as expected' if right else 'WRONG'} |")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
