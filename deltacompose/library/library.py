"""A library: many deltas of one backbone, with their cards and features, in a folder or at an fsspec URL.

    library.json                    the format, and the backbone that all deltas are of
    README.md                       the model card of the whole library
    deltas/<name>/delta.safetensors, delta.json
                  features.safetensors     arrays that measures of similarity read
                  README.md                the card as the Hugging Face hub shows it
                  card.json                written last: a delta without it is not there yet

Every delta has a folder of its own, named by its content, and no file lists them all. So several processes may add
deltas at once, and adding the same delta again changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from typing_extensions import TypedDict

from deltacompose import registry
from deltacompose.analysis import delta_tensors as tensors
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.records import from_records
from deltacompose.delta.delta import FILES, Delta
from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.files import Missing
from deltacompose.formats.json_files import parsed_json
from deltacompose.formats.tensor_files import read_header
from deltacompose.formats.urls import Place, content_at, is_url, local_folder, names_in, publish, within
from deltacompose.library.card import FORMAT, Card, card_of, check_format, check_name, content_digest, read_card
from deltacompose.library.layout import CARD, DELTAS, FEATURES, INDEX, overview, put, write_new
from deltacompose.limits import FEATURE_BYTES, JSON_BYTES, LIBRARY_DELTAS
from deltacompose.store import atomic
from deltacompose.validation import validated

Arrays = Mapping[str, NDArray[Any]]


class _Backbone(TypedDict):
    name: str
    fingerprint: str


class _Index(TypedDict):
    backbone: _Backbone


@dataclass(frozen=True)
class Library:
    """Many deltas of one backbone. Nothing is kept in memory: what another process adds is seen at once.

    Args:
        place: a folder, or an fsspec URL (`memory://`, `s3://`, `hf://user/repo`).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     library = Library.create(folder, {"name": "pico", "fingerprint": "0" * 64})
    ...     library.backbone["name"], library.names()
    ('pico', ())
    """

    place: Place

    @classmethod
    def create(cls, place: Place, backbone: Mapping[str, str]) -> Library:
        """The library at a place, which is made if there is none.

        Args:
            backbone: `name` and `fingerprint` of the one that all deltas are of.

        Raises:
            BadInput: the library there is of another backbone, or cannot be written.
        """
        library = cls(place)
        wanted = {name: str(backbone[name]) for name in ("name", "fingerprint")}
        try:
            library.check_backbone(wanted["fingerprint"], wanted["name"])
        except Missing:
            text = json.dumps({"format": FORMAT, "backbone": wanted}, indent=1, sort_keys=True) + "\n"
            write_new(place, INDEX, text)
            library.check_backbone(wanted["fingerprint"], wanted["name"])  # another writer may have come first
        return library

    @property
    def backbone(self) -> Mapping[str, str]:
        """`name` and `fingerprint` of the backbone that all deltas are of.

        Raises:
            Missing: there is no library.
            BadInput: the library is of a newer format, or its index is damaged.
        """
        where = str(within(self.place, INDEX))
        try:
            data = validated(dict[str, Any], parsed_json(content_at(self.place, INDEX, JSON_BYTES), where), where)
        except Missing:
            raise Missing(f"{quoted(str(self.place))} is not a library of deltas: there is no {INDEX}") from None
        check_format(data.get("format"), where)
        backbone: dict[str, str] = validated(_Index, data, where)["backbone"]
        return backbone

    def check_backbone(self, fingerprint: str, name: str = "") -> None:
        """Refuses another backbone than the library's.

        Raises:
            BadInput: names both.
        """
        own = self.backbone
        if own["fingerprint"] != fingerprint:
            raise BadInput(
                f"the library {quoted(str(self.place))} is of {quoted(own['name'])[1:-1]} (fingerprint "
                f"{quoted(own['fingerprint'][:12])[1:-1]}), not of {name or 'this backbone'} ({fingerprint[:12]})"
            )

    def names(self) -> tuple[str, ...]:
        """The names of the deltas that are there whole, in alphabetical order."""
        return tuple(self.cards())

    def cards(self, problems: list[str] | None = None) -> dict[str, Card]:
        """The card of each delta by its name, in alphabetical order.

        Args:
            problems: a list that receives a sentence on each delta that cannot be used; they are always left out.

        Raises:
            BadInput: there is no library, or it is of a newer format.
        """
        fingerprint = self.backbone["fingerprint"]
        entries = names_in(within(self.place, DELTAS))
        if len(entries) > LIBRARY_DELTAS:
            raise BadInput(f"{quoted(str(self.place))} has {len(entries)} deltas; the limit is {LIBRARY_DELTAS}")
        cards: dict[str, Card] = {}
        for entry in entries:
            try:
                cards[entry] = self._usable(entry, fingerprint)
            except BadInput as error:
                if problems is not None:
                    problems.append(str(error))
        return cards

    def card(self, name: str) -> Card:
        """The card of a delta.

        Raises:
            BadInput: no delta has the name; or its card is missing, damaged, or that of another delta.
        """
        where = str(within(self.place, DELTAS, check_name(name), CARD))
        try:
            content = content_at(within(self.place, DELTAS, name), CARD, JSON_BYTES)
        except Missing:
            if name in names_in(within(self.place, DELTAS)):
                raise BadInput(
                    f"the delta {quoted(name)} of the library {quoted(str(self.place))} is incomplete: there is no "
                    f"{CARD}, which is written last; add it again"
                ) from None
            raise unknown("delta of the library", name, self.names()) from None
        return read_card(validated(dict[str, Any], parsed_json(content, where), where), where)

    def delta(self, name: str) -> Delta:
        """A trained delta.

        Raises:
            BadInput: no delta has the name, a file of it is damaged or not the one of its card, or a method is not
                installed.
        """
        card = self.card(name)
        with local_folder(within(self.place, DELTAS, name), FILES) as folder:
            delta = registry.load_delta(folder)
            if (sha256 := atomic.checksum(folder / "delta.safetensors")) != card.sha256:
                raise BadInput(f"{folder}: delta.safetensors has sha256 {sha256[:12]}, and its card {card.sha256[:12]}")
        if str(delta.expression) != card.composition:
            raise BadInput(
                f"the delta {quoted(name)} is of {delta.expression}, and its card of {quoted(card.composition)}"
            )
        self.check_backbone(delta.backbone.get("fingerprint", ""), delta.backbone.get("name", ""))
        return delta

    def features(self, name: str) -> Arrays:
        """The arrays that are stored with a delta, by name; empty if there are none.

        Raises:
            BadInput: the file is damaged or too large.
        """
        with local_folder(within(self.place, DELTAS, check_name(name)), (FEATURES,), FEATURE_BYTES) as folder:
            path = folder / FEATURES
            try:
                read_header(path)
            except Missing:
                return {}
            return {feature: np.array(array) for feature, array in tensors.read(path).items()}

    def search(
        self,
        text: str = "",
        *,
        task: str | None = None,
        category: str | None = None,
        composition: str | None = None,
        seed: int | None = None,
    ) -> dict[str, Card]:
        """The cards that have all of these: values that are equal, and a text in one of their fields."""
        text_of = None if composition is None else str(registry.parse(composition))
        fields = {"task": task, "category": category, "seed": seed, "composition": text_of}
        wanted = {field: value for field, value in fields.items() if value is not None}
        words = text.lower()
        return {
            name: card
            for name, card in self.cards().items()
            if all(getattr(card, field) == value for field, value in wanted.items())
            and words in " ".join((name, card.task, card.category, card.composition, card.licence, card.source)).lower()
        }

    def add(self, delta: Delta, card: Card | None = None, features: Arrays | None = None, **known: Any) -> str:
        """Adds a delta; where it is there already, its card gets the new results.

        Args:
            card: its description; made from the delta's record and `known` if None.
            features: arrays by name, kept as float32.
            known: fields of the card that the record does not tell, as `task`, `category`, `licence`, `results`.

        Returns:
            Its name in the library.

        Raises:
            BadInput: it is a delta of another backbone, its record names no task, or the library cannot be written.
        """
        self.check_backbone(delta.backbone.get("fingerprint", ""), delta.backbone.get("name", ""))
        with self._written() as folder:
            delta.save(folder)
            sha256 = atomic.checksum(folder / "delta.safetensors")
            own = card_of(delta, sha256, **known) if card is None else replace(card, sha256=sha256)
            name = check_name(own.name)
            previous = self._card_or_none(name)
            own = own if previous is None else previous.joined(own)
            described = json.loads((folder / "delta.json").read_text(encoding="utf-8"))
            kept = {**({} if previous is None else self.features(name)), **(features or {})}
            if kept:
                save_file({n: np.ascontiguousarray(x, dtype=np.float32) for n, x in kept.items()}, folder / FEATURES)
            (folder / "README.md").write_text(own.readme(described), encoding="utf-8")
            (folder / CARD).write_text(_as_json(own.described()), encoding="utf-8")
            put(folder, self.place, name)
        return name

    def write_readme(self) -> None:
        """Writes the model card of the whole library, with a row for each delta."""
        text = overview(self.backbone, self.cards())
        if is_url(self.place):
            with TemporaryDirectory(prefix="deltacompose-") as folder:
                (Path(folder) / "README.md").write_text(text, encoding="utf-8")
                publish(Path(folder), str(self.place), "README.md")
            return
        part = Path(self.place) / f".README.{os.getpid()}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(Path(self.place) / "README.md")

    def matrix(self, composition: str | None = None, split: str = "test") -> TransferMatrix:
        """The zero-shot scores of the library's deltas of one composition on each other's tasks.

        Args:
            composition: needed where the library has several.

        Raises:
            BadInput: the library has no scores of that composition, or several compositions and none is named.
        """
        cards = self.cards()
        text = self.composition(composition, cards)
        chosen = {name: card for name, card in cards.items() if card.composition == text and not card.parts}
        categories = {card.task: card.category for card in chosen.values()}
        known = categories if all(categories.values()) else {}
        records = [record for card in chosen.values() for record in _records(card, split)]
        if not records:
            raise BadInput(f"the library {quoted(str(self.place))} has no scores of {text!r} on the split {split!r}")
        targets = {record["spec"]["target"] for record in records}
        return from_records(records, text, known if targets <= set(known) else {}, split)

    def composition(self, text: str | None = None, cards: Mapping[str, Card] | None = None) -> str:
        """The text of a composition of the library, or of its only one.

        Raises:
            BadInput: no delta has it; or the library has several and none is named.
        """
        existing = sorted({card.composition for card in (self.cards() if cards is None else cards).values()})
        if text is None and len(existing) == 1:
            return existing[0]
        if text is None:
            raise BadInput(
                f"the library {quoted(str(self.place))} has {len(existing)} compositions; name one of: "
                f"{', '.join(existing) or 'none'}"
            )
        wanted = text if text in existing else str(registry.parse(text))
        if wanted not in existing:
            raise unknown("composition of the library", wanted, existing)
        return wanted

    def digest(self, names: Iterable[str] | None = None) -> str:
        """SHA-256 over the expressions and tensors of deltas, of all if none are named."""
        cards = self.cards()
        return content_digest(cards.values() if names is None else [cards[name] for name in names])

    def _usable(self, entry: str, fingerprint: str) -> Card:
        """The card of a delta whose files are there and which is of the library's backbone."""
        card = self.card(entry)
        if card.name != entry:
            raise BadInput(f"the delta {quoted(entry)} of the library has the card of {quoted(card.name)}; left out")
        if card.fingerprint != fingerprint:
            raise BadInput(f"the delta {quoted(entry)} is of another backbone than its library; left out")
        missing = [file for file in FILES if file not in names_in(within(self.place, DELTAS, entry))]
        if missing:
            raise BadInput(f"the delta {quoted(entry)} of the library is incomplete: there is no {missing[0]}")
        return card

    def _card_or_none(self, name: str) -> Card | None:
        try:
            return self.card(name)
        except BadInput:
            return None

    @contextmanager
    def _written(self) -> Iterator[Path]:
        """A folder in which a delta is put together: of a local library on its own disk, so that it can be renamed."""
        if is_url(self.place):
            with TemporaryDirectory(prefix="deltacompose-") as folder:
                yield Path(folder)
            return
        with atomic.writing(Path(self.place)), atomic.temporary(Path(self.place)) as folder:
            yield folder


def _records(card: Card, split: str) -> Iterator[dict[str, Any]]:
    """A card's zero-shot scores as records of evaluations, with those of the untouched backbone."""
    plain_rows = {result.target for result in card.results if result.split == split and result.shots is None}
    for result in card.results:
        fresh = result.shots is not None and result.target in plain_rows  # of another delta, on few examples
        if result.split != split or result.started or fresh:
            continue
        spec: dict[str, Any] = {
            "composition": card.composition,
            "source": card.task,
            "target": result.target,
            "split": split,
        }
        spec |= {"seed": card.seed or 0, "backbone": card.fingerprint}
        chance = float("nan") if result.chance is None else result.chance
        about = {"metric": result.metric, "chance": chance, "trivial": result.trivial}
        yield {"kind": "evaluate", "state": "done", "spec": spec, "result": about | {"score": result.score}}
        if result.untouched is not None:
            bare = spec | {"composition": None, "source": "untouched", "seed": 0}
            outcome = about | {"score": result.untouched, "trivial": False}
            yield {"kind": "evaluate", "state": "done", "spec": bare, "result": outcome}


def _as_json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
