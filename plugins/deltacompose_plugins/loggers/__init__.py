"""The built-in loggers: each a function of a target and a run that gives a `deltacompose.engine.loggers.Logger`."""

from __future__ import annotations

LOGGERS = {
    "jsonl": "deltacompose_plugins.loggers.jsonl:jsonl",
    "tensorboard": "deltacompose_plugins.loggers.tensorboard:tensorboard",
    "wandb": "deltacompose_plugins.loggers.wandb:wandb",
}
