"""Which tasks can a linear probe do? Logistic regression on the frozen embedded backbone's pooled states.

    python studies/linear_probe.py [TASK ...]

Prints for each choice task the accuracy on development data beside chance and beside the untouched backbone, which
ranks the candidates' own states. A task counts as one that a linear probe can do if the lower end of the Wilson 95 %
interval of the probe's accuracy lies above chance.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

import deltacompose as dc
from deltacompose.backbone import Backbone
from deltacompose.task import Task


def states(backbone: Backbone, texts: list[str]) -> np.ndarray:
    """Mean-pooled unit states, (texts, width)."""
    pooled = []
    for k in range(0, len(texts), 32):
        batch = backbone.tokenizer(
            texts[k : k + 32], padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = backbone.model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"][..., None]
        pooled.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy())
    return np.concatenate(pooled)


def probed(backbone: Backbone, task: Task) -> dict[str, float | str | bool]:
    """The probe's development accuracy, with what it is to be compared with."""
    found = {split: states(backbone, [task.text(e) for e in task.examples(split)]) for split in ("train", "val")}
    labels = {split: [e.target for e in task.examples(split)] for split in ("train", "val")}
    probe = LogisticRegression(max_iter=2000, C=10.0).fit(found["train"], labels["train"])
    right = int((probe.predict(found["val"]) == np.array(labels["val"])).sum())
    low = binomtest(right, len(labels["val"])).proportion_ci(method="wilson").low
    chance, untouched = task.chance("val"), dc.evaluate(backbone, None, task, "val").score.value
    return {
        "task": task.name,
        "chance": chance,
        "untouched": untouched,
        "probe": right / len(labels["val"]),
        "can": low > chance,
    }


def main() -> None:
    backbone = dc.load_backbone("embedded", device="cpu")
    known = dc.tasks()
    names = sys.argv[1:] or [n for n in known if known[n].verified and known[n].kind == "choice"]
    for name in names:
        row = probed(backbone, known[name])
        print(
            f"{row['task']:22} chance {row['chance']:.3f}  untouched {row['untouched']:.3f}  probe {row['probe']:.3f}",
            end="",
        )
        print(f"  {'a linear probe can do it' if row['can'] else 'not above chance'}")


if __name__ == "__main__":
    main()
