"""The content of a backbone as one digest: everything of it that a result can depend on.

Cells are keyed by it. `Backbone.fingerprint` is another digest, of the weights rounded to bfloat16 and nothing else: it
ties a delta to its backbone across precisions, and lets a delta that was saved before be loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from tokenizers import AddedToken
from torch import Tensor

from deltacompose.backbone.languages import described
from deltacompose.backbone.quiet import has_values
from deltacompose.cache.file_digests import Files
from deltacompose.errors import BadInput
from deltacompose.places.notation import Place
from deltacompose.places.table import Table

BOOKKEEPING = frozenset(
    {
        "_commit_hash",
        "_diffusers_version",
        "_from_model_config",
        "_name_or_path",
        "architectures",  # chooses the class, which is part of the content
        "dtype",  # the study's, which is part of every key
        "torch_dtype",
        "transformers_version",
    }
)
"""Fields of a configuration that no result depends on; every other field is part of the content."""

TOKENIZER_BOOKKEEPING = frozenset(
    {
        "added_tokens_decoder",  # part of the serialised backend, and of the special tokens
        "auto_map",
        "backend",
        "cache_dir",
        "is_local",
        "local_files_only",
        "name_or_path",
        "processor_class",
        "special_tokens_map_file",
        "tokenizer_class",
        "tokenizer_file",
        "tokenizer_object",
        "vocab_file",
        "merges",  # part of the serialised backend, as the vocabulary is
        "merges_file",
        "vocab",
    }
)
"""Arguments of a tokenizer that say where it was read from."""


class Described(Protocol):
    """The parts of a backbone that make up its content; a `Backbone` has them."""

    @property
    def name(self) -> str:
        """The name that the backbone was loaded by."""
        ...

    @property
    def model(self) -> Any:
        """The transformers or diffusers model."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer; None where it has none."""
        ...

    @property
    def table(self) -> Table:
        """The table that maps places to module paths."""
        ...

    @property
    def base(self) -> str:
        """Path of the base model within the model, to which the table's paths are relative."""
        ...

    @property
    def files(self) -> Files | None:
        """The files it was read from; None for a model in memory."""
        ...

    def places(self) -> tuple[Place, ...]: ...


def content(backbone: Described) -> str:
    """SHA-256 (hex) over the parts of a backbone's content."""
    return _digest(parts(backbone))


def parts(backbone: Described) -> dict[str, str]:
    """The digest of each part of a backbone's content, by name.

    `weights`: every parameter and persistent buffer in its own precision, of the files where it was loaded from files;
    `class` of the model; `config` and `generation`, every field but `BOOKKEEPING`; `tokenizer`: its serialised
    backend, special tokens, chat template and sides; `languages`, those that a multilingual tokenizer is set to;
    `places`: the table with the places that it resolves to.
    """
    model = backbone.model
    if backbone.files is None and not has_values(model):
        raise BadInput(f"the content of {backbone.name} is not known because its weights are not on this machine")
    values = {
        "weights": backbone.files.weights if backbone.files else _weights(model),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": config_content(model.config),
        "generation": config_content(getattr(model, "generation_config", None)),
        "tokenizer": tokenizer_content(backbone.tokenizer),
        "places": _places(backbone),
    }
    forced = getattr(getattr(model, "generation_config", None), "forced_bos_token_id", None)
    if languages := described(backbone.tokenizer, forced):  # set on the tokenizer after it was read, perhaps
        values["languages"] = languages
    return {name: _digest(value) for name, value in values.items()}


def config_content(config: Any) -> Any:
    """The fields of a configuration of transformers or diffusers, without bookkeeping, at every depth."""
    if config is None:
        return None
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return _without(fields, BOOKKEEPING)


def reading_of(tokenizer: Any) -> str:
    """A short digest of how a tokenizer reads: the ids of a few texts, and how many tokens it has; "" without one.

    A delta keeps it, as the weights alone do not tell that a model was given another tokenizer.
    """
    if tokenizer is None:
        return ""
    ids = [list(tokenizer(text)["input_ids"]) for text in _SAMPLES]
    return _digest([len(tokenizer), ids])[:16]


_SAMPLES = (
    "The quick brown fox jumps over the lazy dog; 0123456789 (Pack my box!) {a}[b]<c> ~#$%&*+=/|_^@",
    "Zwölf Boxkämpfer jagen Viktor. президент подписал закон 你好世界 مرحبا بالعالم किताब",
    "  two  spaces\tand\na line",
)
"""Texts that two tokenizers of one number of tokens read as other ids."""


def tokenizer_content(tokenizer: Any) -> Any:
    """Everything of a tokenizer that decides how a text becomes ids, and ids a text."""
    if tokenizer is None:
        return None
    arguments = {n: x for n, x in tokenizer.init_kwargs.items() if n not in TOKENIZER_BOOKKEEPING}
    return {
        "class": type(tokenizer).__qualname__,
        "backend": _backend(tokenizer),
        "special": {name: repr(token) for name, token in tokenizer.special_tokens_map.items()},
        "added": [[index, repr(token)] for index, token in sorted(tokenizer.added_tokens_decoder.items())],
        "chat_template": tokenizer.chat_template,
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "longest": tokenizer.model_max_length,
        "arguments": {n: repr(x) for n, x in arguments.items() if isinstance(x, _REPEATABLE)},
    }


_REPEATABLE = (str, int, float, bool, list, tuple, AddedToken)
"""Types of arguments whose `repr` is the same in every process."""


def _backend(tokenizer: Any) -> Any:
    """Content of a tokenizer's vocabulary files; for a fast tokenizer also its normaliser and all other parts."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Every call sets padding and truncation anew, so what the last one left says nothing of the next.
        return {n: x for n, x in json.loads(backend.to_str()).items() if n not in ("padding", "truncation")}
    with TemporaryDirectory() as folder:
        paths = tokenizer.save_vocabulary(folder)
        return {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}


def _places(backbone: Described) -> Any:
    """The table without its name and the types that it serves, which only choose it, and every place it resolves to."""
    table = {name: value for name, value in backbone.table.data.items() if name != "serves"}
    return [table, backbone.base, [asdict(place) for place in backbone.places()]]


def _weights(model: Any) -> str:
    """Digest of a model in memory: names, shapes and values of all parameters and persistent buffers.

    Tied weights count once, under the first of their names.
    """
    digests: list[tuple[str, str]] = []
    seen: set[int] = set()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            digests.append((name, digest.hexdigest()))
    return _digest(digests)


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without(each, names) for name, each in value.items() if name not in names}
    if isinstance(value, list | tuple):
        return [_without(each, names) for each in value]
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value that JSON does not have, as one that it has."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if hasattr(value, "to_dict"):
        return _without(value.to_dict(), BOOKKEEPING)
    raise BadInput(f"a configuration holds a {type(value).__name__}, which has no digest")
