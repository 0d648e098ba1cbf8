"""The look-ups of what is installed: methods, tasks, measures, engines and backbones by their registered names.

Listing names imports no torch: what needs it is imported inside the functions that load a backbone or a delta.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltacompose import composition as algebra
from deltacompose.analysis.similarity.measure import Measure
from deltacompose.cache.remembered import installed
from deltacompose.cache.remembered import sources as source_digest
from deltacompose.composition import Composition, Part, Term
from deltacompose.engine.loggers import Maker
from deltacompose.errors import BadInput, unknown
from deltacompose.plugins import loader as plugins
from deltacompose.plugins.implementation import implementation, sources
from deltacompose.plugins.packages import packages
from deltacompose.study.recipe import Recipe
from deltacompose.task.task import Task

if TYPE_CHECKING:
    import torch

    from deltacompose.backbone.backbone import Backbone
    from deltacompose.delta.delta import Delta


def methods() -> Mapping[str, type[Part]]:
    """Every installed method by name.

    >>> "lora" in dc.methods()
    True
    """
    return plugins.loaded().methods


def tasks() -> Mapping[str, Task]:
    """Every installed task by name.

    >>> dc.tasks()["sentiment_movie"].labels
    ('negative', 'positive')
    """
    return plugins.loaded().tasks


def measures() -> Mapping[str, Measure]:
    """Every installed measure of similarity by name.

    >>> sorted(measures())[:3]
    ['delta_cosine', 'delta_geodesic', 'delta_overlap']
    """
    return plugins.loaded().measures


def implementation_of(method: str) -> str:
    """The digest of a method's code, which is part of cell keys: see `deltacompose.plugins.implementation`.

    Raises:
        BadInput: the method is unknown, its source cannot be read, or its source changed after the import.
    """
    return implementation(plugins.loaded(), method)


def origin_of(method: str) -> str:
    """The distribution and version that a method came from.

    >>> origin_of("lora").split()[0]
    'deltacompose'
    """
    return plugins.loaded().origin("method", method)


def sources_of(method: str) -> list[Path]:
    """The source files of a method that are part of cell keys; empty for a built-in method of a release."""
    return sources(plugins.loaded(), method)


def code() -> str | None:
    """A digest of the code of all installed members and of deltacompose, found without importing them.

    None where a member is given as an object, so that no file tells whether it has changed.
    """
    known = plugins.loaded()
    folders = packages(known)
    if folders is None:
        return None
    content = [source_digest(folders), installed(), plugins.describe(known)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse(text: str) -> Composition:
    """Parses the text of a composition; `str` of the result gives the text back.

    >>> import deltacompose as dc
    >>> str(dc.parse("prompt(length=8) + bitfit + adapter"))
    'prompt(length=8) + bitfit + adapter'
    """
    known = plugins.loaded()
    return algebra.parse(text, known.methods, known.expressions)


def load_backbone(
    model: Any,
    tokenizer: Any = None,
    *,
    head: str | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    table: Any = None,
    attention: str | None = None,
    chat: bool = False,
    system: str | None = None,
) -> Backbone:
    """Loads the backbone of a name (`embedded`, or one on the hub), a folder, or a loaded transformers model.

    >>> backbone = dc.load_backbone(pico("bert"), pico_tokenizer("bert"))
    >>> [place.name for place in backbone.places("attention.query")]
    ['encoder.0.attention.query', 'encoder.1.attention.query']

    Args:
        model: a name that a plugin gives, a folder, a GGUF file, a name on the Hugging Face hub, or a model in hand.
        tokenizer: in hand, or a folder; the checkpoint's own if None.
        head: `mlm` for an encoder with its masked-language head.
        dtype: `auto` (bfloat16 where the device has instructions for it, else float32), `float32`, `bfloat16`,
            `float16`, or `int8`, `nf4` by bitsandbytes.
        device: `cpu`, `cuda:1`, `auto`, `sharded`; if None, a backbone that is read from files goes to a GPU if there
            is one, and a model in hand stays where it is.
        table: the table of places: a name, a mapping, a `Table`, or "derived".
        attention: `eager`, `sdpa` or `flash_attention_2`; transformers' own choice if None.
        chat: whether inputs are read through the tokenizer's chat template.
        system: the system prompt of a chat.

    Raises:
        BadInput: nothing of that name is available, or its files cannot be used: see `deltacompose.backbone.loading`.
    """
    import torch

    from deltacompose.backbone import loading

    if device is None and isinstance(model, str | Path):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return loading.load_backbone(
        model,
        tokenizer,
        head=head,
        dtype=dtype,
        device=device,
        tables=plugins.loaded().backbones,
        table=table,
        attention=attention,
        chat=chat,
        system=system,
    )


def load_skeleton(model: str, **options: Any) -> Backbone:
    """The backbone of a name or folder with shapes in place of weights: see `deltacompose.backbone.skeleton`."""
    from deltacompose.backbone import skeleton

    return skeleton.load_skeleton(model, tables=plugins.loaded().backbones, **options)


def fetch_backbone(model: str) -> Path:
    """The folder with the files of a backbone, fetched from the hub if necessary, without loading them."""
    from deltacompose.backbone import loading

    return loading.fetch(model, plugins.loaded().backbones)


def expression_of(expression: Term | str) -> Composition:
    """The composition of an expression or of its text."""
    return parse(expression) if isinstance(expression, str) else algebra.composition(expression)


def task_of(task: Task | str) -> Task:
    """The task itself, or the installed task of that name.

    Raises:
        BadInput: no installed task has the name.
    """
    if isinstance(task, Task):
        return task
    if task not in tasks():
        raise unknown("task", task, tasks())
    return tasks()[task]


def loggers() -> Mapping[str, Maker]:
    """Every installed logger of runs by name."""
    return plugins.loaded().loggers


def engine_of(name: str) -> Any:
    """The function that makes an engine's executor from its options.

    Raises:
        BadInput: no installed engine has the name.
    """
    engines = plugins.loaded().engines
    if name not in engines:
        raise unknown("engine", name, engines)
    return engines[name]


def check_rates(recipe: Recipe) -> None:
    """Checks that learning rates name installed methods; a misspelt name would have no effect.

    Raises:
        BadInput: a learning rate names an unknown method.
    """
    for name in recipe.learning_rates:
        if name not in methods():
            raise BadInput(f"learning_rates: {unknown('method', name, methods())}")


def with_origins(trained: Delta) -> Delta:
    """The delta with the distribution and version that each of its methods came from."""
    names = {part.name for _, part in trained.expression.parts()}
    known = plugins.loaded()
    return replace(trained, plugins={n: known.origin("method", n) for n in sorted(names) if n in known.methods})


def load_delta(folder: str | Path) -> Delta:
    """The delta that `Delta.save` wrote into a folder, or to an fsspec URL (`memory://`, `s3://`, `hf://user/repo`).

    >>> delta = dc.train(pico_backbone("bert"), "bitfit", "sentiment_movie", steps=1, batch=4, limit=16)
    >>> str(dc.load_delta(delta.save(folder / "delta")).expression)
    'bitfit'
    """
    from deltacompose.delta import delta

    return delta.load(folder, methods())
