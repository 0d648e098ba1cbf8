"""A task described by a few lines of data: where its rows are and what their columns mean.

The embedded tasks, those of the Hugging Face hub and a user's own in a study file are all such descriptions:

    my_reviews:
      path: reviews.csv
      columns: {input: text, target: stars}
      verbalizer: {bad: negative, good: positive}
      metric: accuracy
      category: sentiment
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.task.examples import SPLITS
from deltacompose.task.instructions import with_defaults
from deltacompose.validation import checked

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
RANKINGS = ("sum", "mean", "bytes", "pmi")
"""How candidates are ranked by their log-likelihoods: see `deltacompose.scoring.ranking`."""

Ranking = Literal["sum", "mean", "bytes", "pmi"]
PARQUET = "refs/convert/parquet"
"""The hub's own parquet copy of a data set, for those whose main branch is a script, which is never run."""

_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class Data:
    """Where in a data set the rows are.

    Attributes:
        config: the configuration of a hub data set, or the folder of that name inside a local one.
        revision: a branch, tag or commit of a hub data set.
        splits: our split -> the data set's own name for it. A "val" or "test" that is not named is carved from "train".
        split: the column that names the split, where all splits stand in one file.
        limit: at most so many rows of a split are drawn (always the same ones), before anything is carved from them.
        drop: column -> values; rows that have one of them are left out.
        streaming: read from the hub row by row, without a copy in the cache; drawn rows then come from its beginning.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] | None = None
    split: str | None = None
    limit: Mapping[str, int] = field(default_factory=dict)
    drop: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    streaming: bool = False

    def __post_init__(self) -> None:
        _check_splits(self.splits or SPLITS)
        _check_splits(("train", *self.limit))
        for split, rows in self.limit.items():
            if rows < 1:
                raise BadInput(f"a limit of {rows} rows for {split!r}; it is at least 1")


@dataclass(frozen=True)
class Columns:
    """Columns of a row and their roles. A dot looks inside a column: `choices.text`.

    Attributes:
        input: the column of the input, or several, which are joined by spaces; a template may name each.
        target: the column of the label or text. Without it the first candidate is the right one, and the candidates
            are put into an order drawn from the example's own text.
        values: how a raw target is read: a mapping of it to a label, or labels in the order of the numbers 0, 1, ...;
            a raw target is a label itself where this is not given.
        candidates: the columns of an example's own candidates, or one column that lists them.
        positions: the column that lists the names of the candidates, among which the target is found.
        decimals: a target that is a number is rounded to so many decimals.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    input: str | tuple[str, ...]
    target: str | None = None
    values: Mapping[str, str] | tuple[str, ...] | None = None
    candidates: str | tuple[str, ...] | None = None
    positions: str | None = None
    decimals: Annotated[int, Ge(0), Le(20)] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the input."""
        return (self.input,) if isinstance(self.input, str) else self.input


@dataclass(frozen=True)
class TaskRow:
    """The description of a task, as a data file or a study file has it.

    Attributes:
        path: a CSV, TSV, JSON, JSON-lines or Parquet file; a file for every split; a folder in the hub's format; or a
            hub name.
        columns: what the columns mean.
        template: `{input}` and the columns of the input in braces; a dotted column is named by its last part.
        verbalizer: label -> words, the positive one of two last. Labels of tasks whose examples have their own
            candidates are the letters A, B, ...: give the greatest number of them in `options` instead.
        kind: "choice" where there are a verbalizer or options, else "generation".
        format: of instruction data: `alpaca`, `messages` (OpenAI), `sharegpt` or `completion`; it says which columns
            are read, and gives the metric `rouge_l` and the category `instruction` where there are none.
        choices: of an example's own candidates, whether their texts or their letters are ranked; letters stand with
            their texts in the column `choices` of the template, which by default follows the input.
        ranking: the rule that ranks candidates by their log-likelihoods; None takes the study's, `sum` by default.
        data: which configuration, splits and rows of the data set are used.
        schema: column -> its type as the data set declares it: `string`, `int`, `float`, `bool`, `list` (of texts), or
            the names of its classes in order. Compared by `deltacompose tasks --verify`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    path: str | Mapping[str, str]
    columns: Columns
    metric: str
    category: str
    template: str = "{input}"
    verbalizer: Mapping[str, str] = field(default_factory=dict)
    options: Annotated[int, Ge(0), Le(len(LETTERS))] = 0
    format: Literal["alpaca", "messages", "sharegpt", "completion"] | None = None
    choices: Literal["text", "letter"] = "text"
    ranking: Ranking | None = None
    data: Data = field(default_factory=Data)
    schema: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    note: str = ""
    verified: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            _check_splits(self.path)

    @property
    def shown(self) -> str:
        """The template; where letters are ranked it shows what they stand for."""
        return (
            "{input}\n{choices}\nAnswer:" if self.choices == "letter" and self.template == "{input}" else self.template
        )

    @property
    def words(self) -> dict[str, str]:
        """The verbalizer, or the letters of the options."""
        return dict(self.verbalizer) or {letter: letter for letter in LETTERS[: self.options]}

    @property
    def values(self) -> Mapping[str, str] | tuple[str, ...] | None:
        """How a raw target is read: as the columns say, or by the names of its classes in the schema."""
        declared = self.schema.get(self.columns.target or "")
        return self.columns.values or (declared if isinstance(declared, tuple) else None)


def row_from_mapping(name: str, mapping: Mapping[str, Any]) -> TaskRow:
    """The description of a task, checked strictly against the fields of `TaskRow`."""
    _refuse_bare_words(name, mapping)
    return checked(TaskRow, with_defaults(mapping), f"task {name!r}", "entry")


def _check_splits(splits: Iterable[str]) -> None:
    for split in splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
    if "train" not in splits:
        raise BadInput("no 'train' split is named; 'val' and 'test' can be carved from it, but not the reverse")


def _refuse_bare_words(name: str, mapping: Mapping[Any, Any], where: str = "") -> None:
    """YAML reads an unquoted `no` as False: as a key it would pass for the text 'false'."""
    for key, value in mapping.items():
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise BadInput(
                f"task {name!r}: the key {quoted(key)}{where} is not text; put yes, no, true, false, null in quotes"
            )
        if isinstance(value, Mapping):
            _refuse_bare_words(name, value, f" in {quoted(key)}")
