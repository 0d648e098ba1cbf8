"""A trained composition, in hand and on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NotRequired

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import TypedDict

from deltacompose.attach.attachment import attached
from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Composition, Part, parse
from deltacompose.delta.model_card import model_card
from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import Missing
from deltacompose.formats.json_files import read_json
from deltacompose.formats.tensor_files import FLOATS, INDICES, check_shapes, read_header
from deltacompose.formats.urls import Place, is_url, local_folder, publish
from deltacompose.method.contract import HasConstants
from deltacompose.method.weights import finalized, init_constants, init_weights
from deltacompose.notebook import table
from deltacompose.validation import validated

FORMAT = 1
"""The version of the folder's layout."""


@dataclass(frozen=True, eq=False)
class Delta:
    """Expression, tensors, and the record of how they came about.

    >>> delta = dc.train(pico_backbone("bert"), "bitfit", "sentiment_movie", steps=1, batch=4, limit=16)
    >>> sum(tensor.numel() for tensor in delta.weights.values())
    304

    Attributes:
        weights: the trained tensors, finalised, `<stage>.<part>.<place>.<tensor>`.
        constants: the frozen tensors that the edits read as well.
        backbone: name, family and fingerprint of the backbone that it was trained on, and how its tokenizer reads.
        plugins: for each method the distribution and version that it came from.
        record: how it was trained, ready for JSON: task, seed, recipe, history and what else is known.
    """

    expression: Composition
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    backbone: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        where = f" on {self.backbone['name']}" if self.backbone.get("name") else ""
        task, seed = self.record.get("task"), self.record.get("seed")
        trained = f", trained on {task}" + (f" with seed {seed}" if seed is not None else "") if task else ""
        parameters = sum(x.numel() for x in self.weights.values())
        return f"<delta of {self.expression}{where}{trained}, {parameters:,} parameters>"

    def _repr_html_(self) -> str:
        rows = [
            {"tensor": name, "kind": kind, "shape": " × ".join(map(str, x.shape)), "numbers": f"{x.numel():,}"}
            for kind, name, x in self._tensors()
        ]
        return table(repr(self).strip("<>"), rows, ("tensor", "kind", "shape", "numbers"))

    @contextmanager
    def attached(self, backbone: Backbone) -> Iterator[PreTrainedModel]:
        """The backbone's model with this delta attached; undone exactly on leaving.

        >>> backbone = pico_backbone("bert")
        >>> delta = dc.train(backbone, "bitfit", "sentiment_movie", steps=1, batch=4, limit=16)
        >>> with delta.attached(backbone) as model:
        ...     type(model).__name__
        'BertModel'
        """
        self.check(backbone)
        with attached(backbone, self.expression, self.weights, self.constants, finalized=True) as model:
            yield model

    def check(self, backbone: Backbone) -> None:
        """Refuses a backbone other than the one that the delta was trained on, and tensors that do not fit it."""
        if self.backbone and self.backbone["fingerprint"] != backbone.fingerprint:
            raise BadInput(
                f"this delta of {self.expression} was trained on {quoted(self.backbone['name'])[1:-1]} "
                f"(fingerprint {self.backbone['fingerprint'][:12]}), not on {backbone.name} "
                f"({backbone.fingerprint[:12]})"
            )
        reading = self.backbone.get("tokenizer", "")
        if reading and backbone.reading and reading != backbone.reading:
            raise BadInput(
                f"cannot use this delta of {self.expression} with {backbone.name} because its tokenizer reads texts as "
                f"other ids than the one that the delta was trained with ({backbone.reading[:8]} is not "
                f"{reading[:8]}); give the backbone that tokenizer"
            )
        self._check_tensors(backbone)

    def _check_tensors(self, backbone: Backbone) -> None:
        """Refuses weights that are not those of the expression on the backbone, and constants of no part.

        A method whose start cannot be made here, as its file or its training data are not at hand, is not checked.
        """
        making = {prefix for prefix, part in self.expression.parts() if isinstance(part, HasConstants)}
        for name in self.constants:
            if not name.startswith(tuple(making)):
                raise BadInput(f"the delta of {self.expression} has a constant {quoted(name)}, which is of no method")
        try:
            weights, constants = _expected(backbone, self.expression)
        except BadInput:
            return
        where = f"the delta of {self.expression} on {backbone.name}"
        check_shapes(where, _shapes(self.weights), weights)
        check_shapes(where, _shapes(self.constants), constants)

    def save(self, folder: Place) -> Place:
        """Writes `delta.safetensors` and `delta.json` into a folder, which is made if need be.

        >>> delta = dc.train(pico_backbone("bert"), "bitfit", "sentiment_movie", steps=1, batch=4, limit=16)
        >>> sorted(path.name for path in delta.save(folder / "saved").iterdir())
        ['delta.json', 'delta.safetensors']

        Args:
            folder: a path, or an fsspec URL (`memory://`, `s3://`, `hf://user/repo`), where a model card, `README.md`,
                is written too. Of a URL `delta.json` is written last, so that a delta is whole or not there.

        Raises:
            BadInput: the URL cannot be written.
        """
        if is_url(folder):
            with TemporaryDirectory(prefix="deltacompose-") as local:
                self._write(Path(local))
                (Path(local) / "README.md").write_text(model_card(self._described()), encoding="utf-8")
                publish(Path(local), str(folder), last="delta.json")
            return folder
        return self._write(Path(folder))

    def _write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{kind}/{name}": x.detach().cpu().contiguous() for kind, name, x in self._tensors()}
        save_file(tensors, folder / "delta.safetensors")
        described = self._described() | {"sha256": _sha256(folder / "delta.safetensors")}
        (folder / "delta.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
        return folder

    def _tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        for kind, tensors in (("weights", self.weights), ("constants", self.constants)):
            yield from ((kind, name, tensor) for name, tensor in tensors.items())

    def _described(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "expression": str(self.expression),
            "settings": self.expression.describe(),
            "backbone": dict(self.backbone),
            "plugins": dict(self.plugins),
            "record": dict(self.record),
        }


FILES = ("delta.json", "delta.safetensors")
"""The files of a delta."""


def load(place: Place, methods: Mapping[str, type[Part]]) -> Delta:
    """The delta in a folder, or at an fsspec URL.

    Raises:
        BadInput: no delta there, a file that is cut off, of another format or of another delta, a method that is not
            installed, or one whose settings now mean something else than when the delta was saved.
    """
    with local_folder(place, FILES) as folder:
        return _loaded(folder, methods)


def _loaded(folder: Path, methods: Mapping[str, type[Part]]) -> Delta:
    described = _described(folder)
    expression = parse(described["expression"], methods)
    if json.loads(json.dumps(expression.describe())) != described["settings"]:
        raise BadInput(
            f"{folder}: {quoted(described['expression'])} has other default settings in the installed "
            f"{', '.join(sorted(set(described['plugins'].values()))) or 'plugins'} than when the delta was saved: "
            f"{quoted(described['settings'])}"
        )
    tensors = _tensors(Path(folder) / "delta.safetensors", described.get("sha256"))
    split = {
        kind: {n.partition("/")[2]: x for n, x in tensors.items() if n.startswith(f"{kind}/")}
        for kind in ("weights", "constants")
    }
    return Delta(
        expression,
        split["weights"],
        split["constants"],
        described["backbone"],
        described["plugins"],
        described["record"],
    )


class _Note(TypedDict):
    """Content of `delta.json`."""

    expression: str
    settings: list[list[dict[str, Any]]]
    backbone: dict[str, str]
    plugins: dict[str, str]
    record: dict[str, Any]
    sha256: NotRequired[str]


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "delta.json"
    try:
        described: dict[str, Any] = read_json(path, dict[str, Any])
    except Missing:
        raise BadInput(
            f"{folder} holds no delta: there is no {path.name}; a delta's folder has delta.json and delta.safetensors"
        ) from None
    if "format" not in described:
        raise BadInput(f"{path} is not a delta's record: format is missing")
    if type(described["format"]) is not int or described["format"] != FORMAT:
        raise BadInput(
            f"{path} has format {quoted(described['format'])}; this version of deltacompose reads format {FORMAT}"
        )
    validated(_Note, described, str(path))
    if described["backbone"] and not {"name", "fingerprint"} <= described["backbone"].keys():
        raise BadInput(f"{path}: backbone has no name and fingerprint; found {quoted(described['backbone'])}")
    return described


def _tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """The tensors of a file; its hash is compared where the delta's record has one.

    The header is checked first: weights are floating-point numbers, constants may be indices too.
    """
    try:
        header = read_header(path, (*FLOATS, *INDICES))
    except Missing:
        raise BadInput(f"{path.parent} holds no delta: there is no {path.name}") from None
    for name, entry in header.items():
        kind = name.partition("/")[0]
        if kind not in ("weights", "constants"):
            raise BadInput(f"{path}: the tensor {quoted(name)} is neither under weights/ nor under constants/")
        if kind == "weights" and entry.dtype not in FLOATS:
            raise BadInput(
                f"{path}: the tensor {quoted(name)} has the dtype {entry.dtype}; weights are {', '.join(FLOATS)}"
            )
    digest = _sha256(path)
    if sha256 not in (None, digest):
        raise BadInput(f"{path} is not the file that its delta.json was written for: its sha256 is {digest[:12]}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is truncated or not a safetensors file ({error})") from None
    check_finite(str(path), tensors)
    return tensors


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors with NaN or infinity; `where` begins the message."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BadInput(f"{where}: the tensor {quoted(name)} has values that are not finite")


Shapes = Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=32)
def _expected(backbone: Backbone, expression: Composition) -> tuple[Shapes, Shapes]:
    """Names and shapes of an expression's finalised weights and of its constants, from weights at their start."""
    with torch.no_grad():
        constants = init_constants(backbone, expression)
        final = finalized(expression, {**init_weights(backbone, expression), **constants})
    return _shapes({n: x for n, x in final.items() if n not in constants}), _shapes(constants)


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(x.shape) for name, x in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
