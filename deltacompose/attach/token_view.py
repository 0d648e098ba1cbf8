"""Information about the tokens at an edit's place: which are padding, and their positions in their rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltacompose.attach.bound import Bound
from deltacompose.errors import BadInput

_KEPT = 16
"""Passes that are kept for one backward pass, which may run the modules of each again."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of one pass, `(batch, tokens)` each.

    Attributes:
        mask: False at padding; a prompt's rows are True.
        positions: 0 at each row's first token, and so on over a cache; a prompt of p rows has -p to -1. At padding the
            number means nothing.
    """

    mask: Tensor
    positions: Tensor

    def last(self, count: int) -> Tokens:
        """The last tokens of each row, as a head sees them that computes few logits."""
        return Tokens(self.mask[:, -count:], self.positions[:, -count:])


def counted(mask: Tensor, tokens: int) -> Tokens:
    """The last `tokens` of rows `(batch, all)`, each counted from its row's first token that is not padding."""
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return Tokens(mask[:, -tokens:], positions[:, -tokens:])


class TokenView:
    """The tokens that a stream's modules see in the pass that is running.

    It has state because every pass is of other tokens. With gradient checkpointing the backward pass runs modules
    again: the passes since the tensors were put are kept, and told apart by their shape.

    Args:
        name: of the module that runs the stream, for messages.
    """

    def __init__(self, name: str) -> None:
        self.readers: list[Bound] = []
        self._name = name
        self._passes: list[tuple[Tokens, ...]] = []
        self._read: list[tuple[Tokens, ...]] = []

    def note(self, *views: Tokens) -> None:
        """A pass begins: its tokens as the layers see them, and as the caller gave them."""
        _append(self._passes, views)

    def note_read(self, view: Tokens) -> None:
        """A decoder begins to attend to this stream's states."""
        _append(self._read, (view,))

    def forget(self) -> None:
        """A new step begins; no backward pass will ask for the tokens of those before."""
        self._passes.clear()
        self._read.clear()

    def find(self, needs: tuple[str, ...], read: bool, rows: torch.Size) -> tuple[Tensor, ...]:
        """The mask, the positions or both, of the leading axes that a module's output has.

        Args:
            read: whether the module sees the states that a decoder attends to.
            rows: `(batch, tokens)`, or `(batch * tokens,)`.

        Raises:
            BadInput: the module sees something else than the stream's tokens.
        """
        passes = self._read if read else self._passes
        again = torch._C._current_graph_task_id() != -1  # the backward pass runs a module again
        fitting = [x for views in (passes if again else passes[-1:]) if (x := _fitting(views, rows)) is not None]
        if not fitting or any(not torch.equal(x.mask, fitting[0].mask) for x in fitting[1:]):
            raise BadInput(
                f"an edit in {self._name} needs the {' and the '.join(needs)} of tokens of shape {tuple(rows)}, which "
                f"{'several passes have' if fitting else 'no stream of this pass has'}; put it at a place that sees "
                "the tokens in order, and train without checkpointing"
            )
        shaped = [getattr(fitting[-1], need) for need in needs]
        return tuple(x.reshape(rows) for x in shaped)


def _append(passes: list[tuple[Tokens, ...]], views: tuple[Tokens, ...]) -> None:
    if not torch.is_grad_enabled():
        passes.clear()
    passes.append(views)
    del passes[:-_KEPT]


def _fitting(views: tuple[Tokens, ...], rows: torch.Size) -> Tokens | None:
    for view in views:
        batch, tokens = view.mask.shape
        if rows in (view.mask.shape, (batch * tokens,)):
            return view
    batch, tokens = views[-1].mask.shape
    return views[-1].last(rows[1]) if len(rows) == 2 and rows[0] == batch and rows[1] < tokens else None
