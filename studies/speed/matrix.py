"""A transfer matrix of tasks whose labels are single tokens, against one forward per source and candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from levers import random_deltas
from steps import Peer, backbone_of
from timing import Row, interleaved, ratio
from torch.nn import functional as F
from words import single_token_tasks, words

from deltacompose.scoring import Reader, reader
from deltacompose.training.evaluation import evaluate_many

SOURCES, ROWS, TOGETHER = 8, 64, 32


def transfer_matrix(shape: str, precision: str, peer_precision: str, rounds: int) -> Iterator[Row]:
    """All sources on all targets: ours in shared passes, the peer by a full pass for each source and candidate."""
    tasks = single_token_tasks(train=32, val=8, test=ROWS)
    ours, theirs = (backbone_of(shape, dtype, words()) for dtype in (precision, peer_precision))
    deltas = random_deltas(ours, tasks[0], SOURCES)
    mine, other = ([reader(backbone, task, 64) for task in tasks] for backbone in (ours, theirs))
    peer = Peer(theirs, ("*attention.query", "*attention.value"))
    sources = [_as_peft(peer, delta) for delta in deltas]
    arms: dict[str, Callable[[], Any]] = {
        "ours": lambda: [[own.predictions for own in evaluate_many(read, deltas, "test")] for read in mine],
        "theirs": lambda: [[one_by_one(peer, read, source) for source in sources] for read in other],
    }
    times = interleaved(arms, rounds, at_least=0.0)
    own, peers = arms["ours"](), arms["theirs"]()
    pairs = [
        (a, b)
        for of_target, peers_of_target in zip(own, peers, strict=True)
        for of_source, peers_of_source in zip(of_target, peers_of_target, strict=True)
        for a, b in zip(of_source, peers_of_source, strict=True)
    ]
    lever = f"transfer matrix, {SOURCES} sources, {len(tasks)} targets"
    against, setting = f"a forward per source and candidate, {peer_precision}", f"{shape}, {ROWS} rows each"
    yield ratio(lever, against, setting, precision, times, agreement=sum(a == b for a, b in pairs) / len(pairs))


def _as_peft(peer: Peer, delta: Any) -> dict[str, torch.Tensor]:
    halves = {"down": "A", "up": "B"}
    return {
        f"{place.module}.lora_{halves[half]}.default.weight": delta.weights[f"0.0.{place.name}.{half}"]
        for place in peer.places
        for half in halves
    }


def one_by_one(peer: Peer, read: Reader, source: dict[str, torch.Tensor]) -> list[str]:
    """Predictions of one source: each candidate's log-likelihood by a pass over inputs and that candidate.

    Rows are batched in their order and padded to the longest of their batch, as a data loader does.
    """
    with torch.no_grad():
        for name, x in source.items():
            peer.trained[name].copy_(x)
        rows = read.rows("test")
        return [
            prediction
            for start in range(0, len(rows), TOGETHER)
            for prediction in _ranked(read, rows[start : start + TOGETHER])
        ]


def _ranked(read: Reader, rows: Sequence[Any]) -> list[str]:
    scores = []
    for k in range(len(rows[0].candidates)):
        answers = [row.candidates[k] for row in rows]
        inputs = [row.input for row in rows]
        ids, mask = _padded(inputs, read, 0), _padded([[1] * len(own) for own in inputs], read, 0)
        labels = _padded(answers, read, -100)
        logits = read.backbone.model(input_ids=ids, attention_mask=mask, labels=labels).logits.float()
        terms = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
        scores.append(-terms.view(labels.shape).sum(1))
    return [read.task.labels[k] for k in torch.stack(scores, 1).argmax(1).tolist()]


def _padded(rows: Sequence[Sequence[int]], read: Reader, fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=read.backbone.model.device)
