"""A method of edits that a test makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltacompose.method.contract import Category, Edit, Method


@dataclass(frozen=True)
class Fixed(Method):
    """Edits that a test makes, with the tensors that they read."""

    name: ClassVar[str] = "fixed"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 1e-2
    source: ClassVar[str] = "these tests"

    made: Any = field(default=(), hash=False)

    def __post_init__(self) -> None:
        """Edits are not settings that could be written down."""

    def init(self, backbone: Any, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def edits(self, backbone: Any) -> list[Edit]:
        return list(self.made)
