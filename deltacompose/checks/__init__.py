"""The public conformance suite for methods, tasks, tables and measures."""

from deltacompose.checks.suite import (
    BACKBONES,
    HOSTILE_BACKBONES,
    METHOD_CHECKS,
    Broken,
    check_backbone_table,
    check_measure,
    check_method,
    check_task,
    parametrize_with_checks,
)

__all__ = [
    "BACKBONES",
    "Broken",
    "HOSTILE_BACKBONES",
    "METHOD_CHECKS",
    "check_backbone_table",
    "check_measure",
    "check_method",
    "check_task",
    "parametrize_with_checks",
]
