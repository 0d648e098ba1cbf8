"""Names that the examples of docstrings use without importing them: they repeat too often."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix

TASKS = ("cola", "mnli", "mrpc", "rte")


def example_matrix() -> TransferMatrix:
    """A complete transfer matrix of four tasks in two categories and two seeds, drawn once."""
    own = np.array([0.75, 0.8, 0.85, 0.7])
    helps = np.array([[1.0, 0.1, 0.2, 0.0], [0.1, 1.0, 0.3, 0.9], [0.2, 0.3, 1.0, 0.4], [0.0, 0.6, 0.2, 1.0]])
    scores = 0.5 + (own - 0.5) * helps
    seeds = np.stack([scores, scores + 0.02 * (1 - 2 * (helps % 0.2 > 0.05))])
    empty = np.full((2, 4), np.nan)
    return TransferMatrix(
        sources=TASKS,
        targets=TASKS,
        seeds=(0, 1),
        values=seeds,
        chance=np.full(4, 0.5),
        untouched=np.full(4, 0.55),
        random=empty,
        trivial=np.zeros((2, 4, 4), bool),
        failed=np.zeros((2, 4, 4), bool),
        metric=("accuracy",) * 4,
        categories={"cola": "grammar", "mnli": "inference", "mrpc": "paraphrase", "rte": "inference"},
        composition="lora",
    )


def names(folder: Path) -> dict[str, Any]:
    """Names that every example may use; `folder` is a new one for files."""
    return {"np": np, "matrix": example_matrix(), "folder": folder}


def heavy_names(folder: Path) -> dict[str, Any]:
    """Names of examples that compute with a model, which is a pico one."""
    import torch

    import deltacompose as dc
    from deltacompose.backbone.pico import pico, pico_backbone, pico_tokenizer
    from deltacompose.study.config import BackboneChoice, Rows

    for part in (pico("bert"), pico_tokenizer("bert")):
        part.save_pretrained(folder / "bert")
    tiny = {"backbone": BackboneChoice(str(folder / "bert")), "rows": Rows(16, 8, 8)}
    tiny |= {"training": dc.Recipe(steps=1, batch=4, evaluate_every=1, limit=16)}
    study = dc.Study("example", ["intent", "sentiment_movie"], ["bitfit"], transfer=True, **tiny)
    dc.run(study, folder / "results")
    return {
        "dc": dc,
        "store": folder / "results",
        "torch": torch,
        "pico": pico,
        "pico_backbone": pico_backbone,
        "pico_tokenizer": pico_tokenizer,
        "tiny": tiny,
        "replace": dataclasses.replace,
    }
