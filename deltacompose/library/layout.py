"""The files of a library, and how several processes write them: whole, and in an order that readers can rely on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from deltacompose.delta.model_card import LIBRARY, plain
from deltacompose.formats.urls import Place, is_url, publish, within
from deltacompose.library.card import Card
from deltacompose.store import atomic

INDEX, CARD, FEATURES, DELTAS = "library.json", "card.json", "features.safetensors", "deltas"


def examples_of(task: str, split: str) -> str:
    """The name of the array with the score of each example of a task's split, safe as a tensor's name."""
    return f"{split}.{hashlib.sha256(task.encode()).hexdigest()[:16]}"


def write_new(place: Place, name: str, text: str) -> None:
    """Writes a small file that is not there; of several writers at once one wins, and the file is whole."""
    if is_url(place):
        with TemporaryDirectory(prefix="deltacompose-") as folder:
            (Path(folder) / name).write_text(text, encoding="utf-8")
            publish(Path(folder), str(place), name)
        return
    root = Path(place)
    with atomic.writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with atomic.temporary(root) as folder:
            atomic.written(folder / name, text)
            try:
                os.link(folder / name, root / name)
            except FileExistsError:
                return


def put(folder: Path, place: Place, name: str) -> None:
    """Puts a complete delta under its name; of several writers of one delta the last one's card stays."""
    if is_url(place):
        publish(folder, str(within(place, DELTAS, name)), last=CARD)
        return
    target = Path(place, DELTAS, name)
    target.parent.mkdir(exist_ok=True)
    atomic.sync_all(folder)
    try:
        folder.rename(target)
    except OSError:  # it is there: the tensors are the same by name, so the small files are replaced one by one
        if not target.is_dir():
            raise
        for file in sorted(folder.iterdir(), key=lambda file: file.name == CARD):
            file.replace(target / file.name)
    atomic.sync(target.parent)


def overview(backbone: Mapping[str, str], cards: Mapping[str, Card]) -> str:
    """The README of a library."""
    base = plain(backbone["name"])
    tasks = sorted({card.task for card in cards.values()})
    lines = ["---", f"library_name: {LIBRARY}", f"base_model: {json.dumps(backbone['name'])}"]
    lines += [f"tags: [{LIBRARY}, delta-tuning, library-of-deltas]", "---", ""]
    lines += [f"# A library of {len(cards)} deltas of {base}", "", f"Trained on {len(tasks)} tasks.", ""]
    lines += ["| delta | task | category | composition | development score |", "|---|---|---|---|---|"]
    for name, card in cards.items():
        dev = "–" if card.dev is None else f"{card.dev:.3f}"
        row = (plain(name), plain(card.task), plain(card.category), plain(card.composition), dev)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
