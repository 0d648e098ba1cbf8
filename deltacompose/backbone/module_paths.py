"""Modules of a model by their paths, as `encoder.layer.0.output`."""

from __future__ import annotations

from torch import nn


def submodule(model: nn.Module, path: str) -> nn.Module:
    """The module at a path; "" is the model itself.

    torch's `get_submodule` asks for every attribute twice, and each time only after an `AttributeError`; an attachment
    asks for hundreds of modules.

    Raises:
        AttributeError: the model has no module at the path.
    """
    module = model
    for name in path.split(".") if path else ():
        inner = module._modules.get(name)
        if inner is None:
            return model.get_submodule(path)
        module = inner
    return module


def has_submodule(model: nn.Module, path: str) -> bool:
    """Whether there is a module at a path."""
    try:
        submodule(model, path)
    except AttributeError:
        return False
    return True
