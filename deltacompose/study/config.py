"""A study: the expressions, tasks and seeds that a question asks for, from Python or a YAML file; and its cells.

Python is the truth and YAML a way to write it down: `Study.read(path)` and `study.write(path)` are inverse.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import ConfigDict

from deltacompose.errors import BadInput, unknown
from deltacompose.formats.yaml_files import read_yaml
from deltacompose.limits import ENTRIES, EXPRESSION_CHARACTERS, NAME_CHARACTERS, PROCESSES
from deltacompose.notebook import counted, table
from deltacompose.study import machine
from deltacompose.study.new_tasks import MERGE, MERGES, ClusterChoice, ReuseChoice
from deltacompose.study.recipe import Count, Recipe
from deltacompose.validation import checked, plain

SHARDED = "sharded"
"""The device of a backbone whose layers are dealt out over the processes that train together."""

LAUNCHED = "DELTACOMPOSE_LAUNCHED"
"""Is set in the environment of processes that were started together; some clusters set torchrun's `RANK` themselves."""

KEYS = 2
"""The version of cell keys: raised when what they cover changes. Version 1 did not cover tokenizers, configurations,
exact weights, written-out tables and the code of methods."""

RESERVED = ("untouched", "random", "chance")
"""Names of reference rows of a transfer matrix, which a task cannot have."""

Name = Annotated[str, MinLen(1), MaxLen(NAME_CHARACTERS)]
Expression = Annotated[str, MinLen(1), MaxLen(EXPRESSION_CHARACTERS)]
Seed = Annotated[int, Ge(0), Lt(2**63)]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Cell:
    """One unit of a study's work, named by the hash of all that its result depends on.

    Attributes:
        kind: what is to be done, `train` or `evaluate` for two.
        spec: the inputs, as JSON would hold them: texts, numbers, lists, mappings; fingerprints for what is large.
        parents: the keys of the cells whose results this one reads.
        cost: estimated work in floating-point operations; for scheduling, not part of the key.
        version: of the key; an earlier one names the cells of a store that was made with it.
    """

    kind: str
    spec: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    cost: float = field(default=0.0, compare=False)
    version: int = KEYS

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of version, kind, spec and parents, as 64 hexadecimal digits."""
        content: dict[str, Any] = {"kind": self.kind, "spec": self.spec, "parents": self.parents}
        content |= {"version": self.version} if self.version > 1 else {}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class BackboneChoice:
    """Which backbone, and how it is loaded.

    Attributes:
        model: a name that a plugin gives (`embedded`), a folder, or a name on the Hugging Face hub.
        dtype: precision of the frozen weights and of the pass; deltas are fp32. `int8` and `nf4` hold the frozen
            matrices in few bits by bitsandbytes, and pass in bfloat16. `auto` becomes `bfloat16` where the device has
            instructions for it and `float32` elsewhere, when the study is read; keys have what it became.
        head: `mlm` for an encoder with its masked-language head.
        table: the name of the table of places, `derived`, or a table written out; None finds it by the model's type.
        attention: how transformers computes attention; its own choice for the model if None.
        device: `cpu`, `cuda`, `cuda:1`; `auto` or `balanced` spread the layers over all GPUs; `sharded` deals every
            layer out over the study's `processes` (FSDP2); None takes a GPU if there is one. No result depends on it,
            so it is in no cell's key.
        chat: whether inputs are read through the tokenizer's chat template, and answers as an assistant's turn.
        system: the system prompt of a chat; None leaves it to the template.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: str = "embedded"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"] = "float32"
    head: Literal["mlm"] | None = None
    table: str | dict[str, Any] | None = None
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    device: str | None = None
    chat: bool = False
    system: Annotated[str, MinLen(1)] | None = None

    def __post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise BadInput("backbone: a system prompt is part of a chat; set `chat: true` too, or leave out `system`")
        if self.dtype == "auto":
            object.__setattr__(self, "dtype", machine.suitable_dtype(self.device))


@dataclass(frozen=True)
class Rows:
    """The most rows of each split that a study reads; None reads all."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    train: Count | None = None
    val: Count | None = None
    test: Count | None = None


@dataclass(frozen=True)
class SubspaceChoice:
    """A subspace that a study learns from the deltas of one composition, and what is read off it.

    Attributes:
        composition: one of the study's.
        dimensions: of the subspace.
        way: principal components, or the autoencoder of intrinsic prompt tuning (Qin et al. 2021, arXiv 2110.07867).
        seen: the tasks whose deltas it is learned from; none names all. The others test it.
        tune: of a soft prompt, whether its coordinates within the subspace are trained on every task.
        hidden: of the autoencoder's decoder; None is the backbone's width.
        steps: of the autoencoder's training, each with a batch of every seen task.
        alpha: weight of the autoencoder's reconstruction error relative to the tasks' losses.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    composition: str
    dimensions: Count
    way: Literal["pca", "autoencoder"] = "pca"
    seen: tuple[str, ...] = ()
    tune: bool = True
    hidden: Count | None = None
    steps: Count = 1000
    alpha: Annotated[float, Ge(0)] = 1.0


@dataclass(frozen=True)
class DimensionChoice:
    """A search for the intrinsic dimension of every task: the least d that is good enough (arXiv 1804.08838).

    Attributes:
        most: the greatest d that is tried.
        reference: one of the study's compositions, whose score is the full one.
        share: of the full score that is enough, .9 for d₉₀.
        resolution: neighbouring d of the grid differ by at most that share, or by one.
        projections: those of the method `intrinsic` that are compared.
        per_layer: with one scale per layer in addition to the d numbers, without, or both.
        places: kinds of places whose parameters change; none is the method's own choice, query and value.
        warm_start: whether the training at d begins with the solution at the next lower d that was tried. It has then
            had that one's steps as well as its own, so d₉₀ says how low a search could get and not what d gives within
            one budget; that is why the default is no.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    most: Count
    reference: str = "full"
    share: Annotated[float, Gt(0), Le(1)] = 0.9
    resolution: Annotated[float, Ge(0)] = 0.25
    projections: Annotated[tuple[Literal["sketch", "fastfood", "dense"], ...], MinLen(1)] = (
        "sketch",
        "fastfood",
        "dense",
    )
    per_layer: Annotated[tuple[bool, ...], MinLen(1)] = (True,)
    places: tuple[str, ...] = ()
    warm_start: bool = False


@dataclass(frozen=True)
class Study:
    """A grid of experiments: every composition on every task with every seed, and what is measured of them.

    >>> study = dc.Study("pair", ["rte", "mrpc"], ["lora"], seeds=[0, 1], transfer=True)
    >>> study.seeds
    (0, 1)

    Attributes:
        name: what it is called in reports.
        tasks: names of tasks, installed or of `own_tasks`.
        compositions: expressions as text.
        training: the recipe of every stage.
        stages: for each stage what differs from `training`, in the order of the stages.
        grid: factors by which all learning rates are multiplied; where there are several, the one with the best mean
            development score over the seeds is chosen for each composition and task.
        shots: few-shot: so many training and development examples per class (of a choice task), drawn anew per seed.
        template: whether inputs are put into the tasks' templates.
        transfer: whether every delta is evaluated on every task, or on its own alone.
        start_from: initialisation transfer: tasks from whose weights training on every other task starts as well.
        efficiency: whether what one delta of each composition costs is measured in a process of its own.
        measures: names of similarity measures; what they need of the model (activations, gradients, features,
            probabilities, predictions) is collected of every delta.
        subspace: a subspace learned from the deltas of one composition, with its readouts.
        dimension: a search for the intrinsic dimension of every task, which adds trainings as it goes.
        swap: composition-aware transfer: every part of a delta with several is taken from every other task's in turn.
        processes: how many processes train and evaluate each delta together, each on its share of every batch.
        ranking: how candidates are ranked by likelihood: `sum`, `mean` per token, `bytes` per byte, or `pmi`; a task's
            own rule comes first.
        split: where results are read; choices are made on the development split whatever this says.
        own_tasks: tasks of this study by name, each a few lines that say where its rows are, or a mixture of tasks.
        held_out: tasks that are evaluated and not trained on.
        clusters: clusters of tasks, with one delta for each cluster and one for all tasks.
        reuse: what trained deltas give on the held-out tasks, merged, routed or as starts.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Name
    tasks: Annotated[tuple[Name, ...], MinLen(1), MaxLen(ENTRIES)]
    compositions: Annotated[tuple[Expression, ...], MinLen(1), MaxLen(ENTRIES)]
    backbone: BackboneChoice = BackboneChoice()
    seeds: Annotated[tuple[Seed, ...], MinLen(1), MaxLen(ENTRIES)] = (0,)
    training: Recipe = Recipe()
    stages: tuple[dict[str, Any], ...] = ()
    rows: Rows = Rows()
    grid: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1), MaxLen(ENTRIES)] = (1.0,)
    shots: Count | None = None
    template: bool = True
    transfer: bool = False
    start_from: Annotated[tuple[Name, ...], MaxLen(ENTRIES)] = ()
    efficiency: bool = False
    measures: tuple[str, ...] = ()
    subspace: SubspaceChoice | None = None
    dimension: DimensionChoice | None = None
    swap: bool = False
    processes: Annotated[int, Ge(1), Le(PROCESSES)] = 1
    ranking: Literal["sum", "mean", "bytes", "pmi"] = "sum"
    split: Literal["val", "test"] = "test"
    own_tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_out: Annotated[tuple[Name, ...], MaxLen(ENTRIES)] = ()
    clusters: ClusterChoice | None = None
    reuse: ReuseChoice | None = None
    folder: str = field(default=".", compare=False)

    def __repr__(self) -> str:
        parts = [counted(len(self.tasks), "task"), counted(len(self.compositions), "composition")]
        parts += [counted(len(self.seeds), "seed")]
        transfer = ", with transfer" if self.transfer else ""
        return f"<study {self.name!r}: {' × '.join(parts)} on {self.backbone.model}{transfer}>"

    def _repr_html_(self) -> str:
        rows = ({"field": name, "value": value} for name, value in self.described().items() if name != "name")
        return table(repr(self).strip("<>"), rows, ("field", "value"))

    def __post_init__(self) -> None:
        for what in ("tasks", "compositions", "seeds", "grid", "start_from", "measures", "held_out"):
            values = tuple(getattr(self, what))
            object.__setattr__(self, what, values)
            twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
            if twice:
                raise BadInput(f"study {self.name!r}: {what} has {', '.join(twice)} twice")
        for name in (*self.tasks, *self.start_from, *self.own_tasks):
            if name in RESERVED:
                raise BadInput(
                    f"study {self.name!r}: a task cannot have the name {name!r}, which names a reference row of the "
                    f"transfer matrix; reserved names: {', '.join(RESERVED)}"
                )
        self._check_new_tasks()
        if self.backbone.device == SHARDED:
            self._check_sharded()

    def _check_new_tasks(self) -> None:
        """Checks that held-out tasks are not trained on, and that settings which need them have some."""
        for name in self.held_out:
            if name in (*self.tasks, *self.start_from):
                raise BadInput(f"study {self.name!r}: {name!r} is held out and trained on; name it once")
        if self.reuse is not None and not self.held_out:
            raise BadInput(f"study {self.name!r}: `reuse` is read on held-out tasks; name some under `held_out`")
        if self.reuse is not None and {"cluster", "all"} & set(self.reuse.ways) and self.clusters is None:
            raise BadInput(f"study {self.name!r}: the ways `cluster` and `all` need `clusters`")
        if self.clusters is not None and len(self.tasks) < 3:
            raise BadInput(f"study {self.name!r}: clustering needs at least 3 tasks, found {len(self.tasks)}")
        count = None if self.clusters is None or self.clusters.count == "auto" else self.clusters.count
        if count is not None and count > len(self.tasks):
            raise BadInput(f"study {self.name!r}: {count} clusters of {len(self.tasks)} tasks; take at most as many")
        for name in self.start_from:
            if name.startswith(MERGE) and name.removeprefix(MERGE) not in MERGES:
                raise unknown("merging way", name.removeprefix(MERGE), MERGES)

    def _check_sharded(self) -> None:
        where = f"study {self.name!r}: a backbone whose device is {SHARDED}"
        if self.processes == 1:
            raise BadInput(f"{where} is dealt out over several processes; say `processes: 2` or more")
        if self.backbone.dtype in ("int8", "nf4"):
            raise BadInput(f"{where} cannot be held in {self.backbone.dtype}; take bfloat16, or spread it by `auto`")
        if self.efficiency:
            raise BadInput(f"{where} has no efficiency, which is measured in one process that holds all of it")

    @property
    def named_tasks(self) -> tuple[str, ...]:
        """Every task that the study reads, once: trained on, started from, or held out."""
        starts = (name for name in self.start_from if not name.startswith(MERGE))
        return tuple(dict.fromkeys((*self.tasks, *starts, *self.held_out)))

    def recipe(self, stage: int) -> Recipe:
        """The recipe of a stage, counted from 0."""
        changes = self.stages[stage] if stage < len(self.stages) else {}
        known = [f.name for f in fields(Recipe)]
        for name in changes:
            if name not in known:
                raise BadInput(
                    f"study {self.name!r}: stages[{stage}] has no setting {name!r}; it has {', '.join(known)}"
                )
        return recipe_of({**plain(self.training), **changes}, f"study {self.name!r}: stages[{stage}]")

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """The study of a YAML file.

        Raises:
            BadInput: no such file, not valid YAML, a field that a study does not have, a value of a wrong type or out
                of its range.
        """
        path = Path(path)
        data = read_yaml(path)
        if not isinstance(data, dict):
            raise BadInput(f"{path} does not hold a study; it needs at least name, tasks and compositions")
        if "folder" in data:
            raise BadInput(f"{path}: folder is where the file lies, and not written in it")
        if isinstance(clusters := data.get("clusters"), dict) and "from" in clusters:
            data["clusters"] = {"composition" if key == "from" else key: value for key, value in clusters.items()}
        study = checked(cls, data, str(path))
        return replace(study, folder=str(path.parent.resolve()))

    def write(self, path: str | Path) -> None:
        """Writes the study as YAML, without what has its default."""
        Path(path).write_text(yaml.safe_dump(self.described(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def described(self) -> dict[str, Any]:
        """The study as plain data, without what has its default."""
        own, default = plain(self), plain(Study(name="-", tasks=("-",), compositions=("-",)))
        if own["clusters"]:
            own["clusters"] = {"from" if key == "composition" else key: x for key, x in own["clusters"].items()}
        return {name: value for name, value in own.items() if name != "folder" and value != default[name]}


def recipe_of(settings: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from plain data.

    Raises:
        BadInput: a setting that a recipe does not have, or a value of a wrong type or range; begins with `where`.
    """
    return checked(Recipe, settings, where)
