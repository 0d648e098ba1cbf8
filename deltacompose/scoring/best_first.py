"""Ranking candidates by their log-likelihoods without scoring all of them to the end.

The log-likelihood of a candidate is a sum of terms, none above zero, so its first term bounds it from above. One step
of the decoder gives the first terms of all candidates of a row, whose softmax has one normaliser. The candidate with
the highest first term is scored to the end. Where its sum exceeds the bounds of all others it is the best one; only for
the remaining rows are the other candidates scored too. The predictions are those of scoring every candidate.

A bank's rows stay K equal groups: a row that is open for one delta is scored for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from deltacompose.scoring.rows import IGNORED, Row, highest


@dataclass(frozen=True, eq=False)
class Start:
    """The inputs of some rows, read up to the first token of the answer.

    Attributes:
        logits: of the first token, `(rows, vocabulary)`.
        mask: which of the tokens that were read are not padding, `(rows, tokens)`.
        cache: keys and values of what was read.
        encoded: the encoder's output; None for a decoder alone.
    """

    logits: Tensor
    mask: Tensor
    cache: Any
    encoded: Any = None


class Decodes(Protocol):
    """Methods of a reader that the ranking needs."""

    def begin(self, rows: Sequence[Row]) -> Start:
        """Reads the inputs once."""
        ...

    def go_on(self, start: Start, which: Tensor, answers: Tensor) -> Tensor:
        """Logits `(answers, tokens − 1, vocabulary)` of all tokens but the first.

        Args:
            which: the row of each answer, `(answers,)`.
            answers: tokens, `IGNORED` behind the end, `(answers, tokens)`.
        """
        ...


def ranked(reader: Decodes, rows: Sequence[Row], deltas: int) -> list[int]:
    """For each row the index of the candidate with the highest log-likelihood, the first of equals.

    Args:
        rows: of equally many candidates, in `deltas` equal groups.

    Raises:
        Diverged: a log-likelihood is not a number.
    """
    start = reader.begin(rows)
    device = start.logits.device
    firsts = torch.tensor([[candidate[0] for candidate in row.candidates] for row in rows], device=device)
    bounds = F.log_softmax(start.logits.float(), -1).gather(1, firsts)
    scores = bounds.clone()
    best = bounds.argmax(1)
    every = torch.arange(len(rows), device=device)
    scores[every, best] += _rest(reader, start, every, [rows[n].candidates[k] for n, k in enumerate(best.tolist())])
    others = bounds.scatter(1, best[:, None], -torch.inf).amax(1)
    # Not "<": a sum that is not a number must leave its row open, so that it is reported.
    open_rows = ~(scores[every, best] > others) if bounds.shape[1] > 1 else torch.isnan(scores[:, 0])
    wanted = open_rows.view(deltas, -1).any(0).repeat(deltas).nonzero().flatten()
    if not len(wanted):
        return best.tolist()
    pairs = [(n, k) for n in wanted.tolist() for k in range(bounds.shape[1]) if k != int(best[n])]
    if pairs:
        at, candidates = (torch.tensor(index, device=device) for index in zip(*pairs, strict=True))
        scores[at, candidates] += _rest(reader, start, at, [rows[n].candidates[k] for n, k in pairs])
    chosen = best.clone()
    chosen[wanted] = torch.tensor(highest(scores[wanted]), device=device)
    return chosen.tolist()


def _rest(reader: Decodes, start: Start, which: Tensor, answers: Sequence[tuple[int, ...]]) -> Tensor:
    """The sum of the log-probabilities of each answer's tokens but the first, `(answers,)`."""
    longest = max(map(len, answers))
    if longest == 1:
        return start.logits.new_zeros(len(answers), dtype=torch.float32)
    padded = [[*answer, *[IGNORED] * (longest - len(answer))] for answer in answers]
    tokens = torch.tensor(padded, device=start.logits.device)
    logits, targets = reader.go_on(start, which, tokens).float(), tokens[:, 1:]
    terms = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return -terms.view(len(answers), -1).sum(1)
