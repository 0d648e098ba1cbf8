"""How names are imported: those of a package when they are first used, and those of modules that have moved.

Importing an old path works for one release, with a DeprecationWarning.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: Mapping[str, str] = {
    "deltacompose.migration": "deltacompose.api.migration",
    "deltacompose.remembered": "deltacompose.cache.remembered",
    "deltacompose.file_digests": "deltacompose.cache.file_digests",
    "deltacompose.analysis.transfer.reuse": "deltacompose.analysis.transfer.reuse_summary",
    "deltacompose.planning.new_tasks": "deltacompose.planning.new_task_cells",
    "deltacompose.figures.files": "deltacompose.figures.figure_files",
    "deltacompose.checks.arithmetic": "deltacompose.checks.combining",
    "deltacompose.planning.dimension_search": "deltacompose.planning.search_cells",
    "deltacompose.library.evidence": "deltacompose.library.library_evidence",
    "deltacompose.analysis.recommendation.evaluate": "deltacompose.analysis.recommendation.quality",
    "deltacompose.cells.sources": "deltacompose.cells.worker_sources",
    "deltacompose.cells.reuse": "deltacompose.cells.reusing",
    "deltacompose.cells.merge": "deltacompose.cells.merging",
    "deltacompose.cells.facts": "deltacompose.cells.study_facts",
    "deltacompose.cells.evidence": "deltacompose.cells.stored_evidence",
    "deltacompose.cells.evaluate": "deltacompose.cells.evaluate_delta",
    "deltacompose.cells.answers": "deltacompose.cells.scored_answers",
    "deltacompose.cli.subspace": "deltacompose.cli.subspace_command",
    "deltacompose.cli.store": "deltacompose.cli.store_commands",
    "deltacompose.cli.reuse": "deltacompose.cli.reuse_command",
    "deltacompose.cli.report": "deltacompose.cli.report_command",
    "deltacompose.cli.recommend": "deltacompose.cli.recommend_command",
    "deltacompose.cli.library": "deltacompose.cli.library_commands",
    "deltacompose.cli.exchange": "deltacompose.cli.exchange_commands",
    "deltacompose.cli.delta": "deltacompose.cli.delta_commands",
    "deltacompose.analysis.tensors": "deltacompose.analysis.delta_tensors",
    "deltacompose.analysis.transfer.files": "deltacompose.analysis.transfer.tidy_tables",
    "deltacompose.analysis.graph.build": "deltacompose.analysis.graph.construction",
    "deltacompose.analysis.alignment": "deltacompose.analysis.similarity.subspaces",
    "deltacompose.analysis.autoencoder": "deltacompose.analysis.subspace.autoencoder",
    "deltacompose.analysis.caveats": "deltacompose.analysis.interaction.caveats",
    "deltacompose.analysis.collected": "deltacompose.analysis.similarity.stored_arrays",
    "deltacompose.analysis.communities": "deltacompose.analysis.graph.communities",
    "deltacompose.analysis.comparison": "deltacompose.analysis.similarity.compare",
    "deltacompose.analysis.completion": "deltacompose.analysis.prediction.matrix_completion",
    "deltacompose.analysis.compositions": "deltacompose.analysis.interaction.composition_text",
    "deltacompose.analysis.convergence": "deltacompose.analysis.interaction.convergence",
    "deltacompose.analysis.dimension": "deltacompose.analysis.subspace.intrinsic_dimension",
    "deltacompose.analysis.directions": "deltacompose.analysis.subspace.random_baseline",
    "deltacompose.analysis.factorial": "deltacompose.analysis.interaction.factorial",
    "deltacompose.analysis.factorial_bootstrap": "deltacompose.analysis.interaction.bootstrap",
    "deltacompose.analysis.initialisation": "deltacompose.analysis.transfer.initialization",
    "deltacompose.analysis.intrinsic": "deltacompose.analysis.subspace.dimension_search",
    "deltacompose.analysis.large": "deltacompose.analysis.similarity.large_scale",
    "deltacompose.analysis.learned": "deltacompose.analysis.subspace.learned",
    "deltacompose.analysis.measure": "deltacompose.analysis.similarity.measure",
    "deltacompose.analysis.mixtures": "deltacompose.analysis.prediction.mixtures",
    "deltacompose.analysis.network": "deltacompose.analysis.graph.edges",
    "deltacompose.analysis.order": "deltacompose.analysis.interaction.order",
    "deltacompose.analysis.readouts": "deltacompose.analysis.subspace.readouts",
    "deltacompose.analysis.records": "deltacompose.analysis.transfer.records",
    "deltacompose.analysis.runs": "deltacompose.analysis.interaction.runs",
    "deltacompose.analysis.selection": "deltacompose.analysis.interaction.selection",
    "deltacompose.analysis.sources": "deltacompose.analysis.prediction.source_selection",
    "deltacompose.analysis.stacks": "deltacompose.analysis.transfer.stacking",
    "deltacompose.analysis.stored": "deltacompose.analysis.interaction.runs_of_store",
    "deltacompose.analysis.swaps": "deltacompose.analysis.transfer.part_swaps",
    "deltacompose.analysis.tables": "deltacompose.analysis.transfer.tidy_tables",
    "deltacompose.analysis.transferability": "deltacompose.analysis.similarity.transferability",
    "deltacompose.analysis.tuned": "deltacompose.analysis.subspace.tuned",
    "deltacompose.analysis.uncertainty": "deltacompose.analysis.transfer.uncertainty",
    "deltacompose.analysis.where": "deltacompose.analysis.interaction.row_filter",
    "deltacompose.attach.held": "deltacompose.attach.bound",
    "deltacompose.attach.keyvalues": "deltacompose.attach.prefixes",
    "deltacompose.attach.sites": "deltacompose.attach.module_hooks",
    "deltacompose.attach.tokens": "deltacompose.attach.soft_prompts",
    "deltacompose.catalogue": "deltacompose.method.catalogue",
    "deltacompose.cells.derived": "deltacompose.cells.subspace",
    "deltacompose.checkpoints": "deltacompose.backbone.pretrained",
    "deltacompose.checks.company": "deltacompose.checks.composing",
    "deltacompose.checks.contract": "deltacompose.checks.runner",
    "deltacompose.checks.elsewhere": "deltacompose.checks.other_process",
    "deltacompose.checks.force": "deltacompose.checks.behaviour",
    "deltacompose.cli.analysis": "deltacompose.cli.similarity",
    "deltacompose.cli.answers": "deltacompose.cli.output",
    "deltacompose.cli.catalogue": "deltacompose.cli.listings",
    "deltacompose.cli.every": "deltacompose.cli.similarity_all",
    "deltacompose.cli.handover": "deltacompose.cli.exchange_commands",
    "deltacompose.cli.interop": "deltacompose.cli.exchange_commands",
    "deltacompose.cli.material": "deltacompose.cli.inputs",
    "deltacompose.cli.show": "deltacompose.cli.output",
    "deltacompose.combine": "deltacompose.delta.arithmetic",
    "deltacompose.company": "deltacompose.distributed",
    "deltacompose.cost": "deltacompose.planning.cost",
    "deltacompose.denoisers": "deltacompose.backbone.diffusion",
    "deltacompose.derive": "deltacompose.backbone.infer_table",
    "deltacompose.derived": "deltacompose.cells.subspace",
    "deltacompose.efficiency": "deltacompose.cells.efficiency",
    "deltacompose.engine.launch": "deltacompose.engine.torchrun",
    "deltacompose.engine.pace": "deltacompose.engine.eta",
    "deltacompose.examples": "deltacompose.task.examples",
    "deltacompose.figures.cells": "deltacompose.figures.heatmap_values",
    "deltacompose.figures.findings": "deltacompose.analysis.transfer.findings",
    "deltacompose.figures.ink": "deltacompose.figures.heatmap_style",
    "deltacompose.figures.interaction_tables": "deltacompose.report.interaction_tables",
    "deltacompose.figures.page": "deltacompose.report.html",
    "deltacompose.figures.pictures": "deltacompose.report.figures",
    "deltacompose.figures.report": "deltacompose.report.report",
    "deltacompose.figures.sections": "deltacompose.report.tables",
    "deltacompose.figures.sentences": "deltacompose.report.statements",
    "deltacompose.figures.tables": "deltacompose.report.result_tables",
    "deltacompose.flops": "deltacompose.planning.flops",
    "deltacompose.footprint": "deltacompose.training.memory",
    "deltacompose.further": "deltacompose.planning.analysis_cells",
    "deltacompose.grouping": "deltacompose.cells.grouping",
    "deltacompose.hookspecs": "deltacompose.plugins.hookspecs",
    "deltacompose.inputs": "deltacompose.cells.context",
    "deltacompose.interop": "deltacompose.delta.exchange",
    "deltacompose.interop.folder": "deltacompose.delta.peft_folder",
    "deltacompose.interop.incoming": "deltacompose.delta.peft_import",
    "deltacompose.interop.outgoing": "deltacompose.delta.peft_export",
    "deltacompose.interop.positions": "deltacompose.delta.prefix_positions",
    "deltacompose.learner": "deltacompose.training.learner",
    "deltacompose.loading": "deltacompose.backbone.loading",
    "deltacompose.members": "deltacompose.plugins.members",
    "deltacompose.merge": "deltacompose.delta.merge",
    "deltacompose.metrics": "deltacompose.task.metrics",
    "deltacompose.overlap": "deltacompose.method.parameter_overlap",
    "deltacompose.pico": "deltacompose.backbone.pico",
    "deltacompose.picodenoisers": "deltacompose.backbone.pico_diffusion",
    "deltacompose.probes": "deltacompose.cells.probe",
    "deltacompose.quantised": "deltacompose.backbone.quantization",
    "deltacompose.reader": "deltacompose.scoring",
    "deltacompose.reader.encoder": "deltacompose.scoring.encoder",
    "deltacompose.reader.likelihood": "deltacompose.scoring.likelihood",
    "deltacompose.reader.masked": "deltacompose.scoring.masked_lm",
    "deltacompose.reader.rows": "deltacompose.scoring.rows",
    "deltacompose.recipe": "deltacompose.study.recipe",
    "deltacompose.results": "deltacompose.api",
    "deltacompose.search": "deltacompose.planning.search_cells",
    "deltacompose.shapes": "deltacompose.cells.shapes",
    "deltacompose.shards": "deltacompose.backbone.sharding",
    "deltacompose.speed": "deltacompose.cells.calibration",
    "deltacompose.store.disk": "deltacompose.store.atomic",
    "deltacompose.store.table": "deltacompose.store.export",
    "deltacompose.tables": "deltacompose.places.table",
    "deltacompose.taskdata": "deltacompose.task.build",
    "deltacompose.taskdata.checking": "deltacompose.task.verify",
    "deltacompose.taskdata.description": "deltacompose.task.description",
    "deltacompose.taskdata.reading": "deltacompose.task.build",
    "deltacompose.taskdata.rows": "deltacompose.task.sources",
    "deltacompose.weights": "deltacompose.method.weights",
    "deltacompose.work": "deltacompose.cells.carry_out",
    "deltacompose_plugins.adapter": "deltacompose_plugins.methods.addition.adapter",
    "deltacompose_plugins.bitfit": "deltacompose_plugins.methods.specification.bitfit",
    "deltacompose_plugins.compacter": "deltacompose_plugins.methods.addition.compacter",
    "deltacompose_plugins.diff_pruning": "deltacompose_plugins.methods.specification.diff_pruning",
    "deltacompose_plugins.full": "deltacompose_plugins.methods.reparameterization.full",
    "deltacompose_plugins.ia3": "deltacompose_plugins.methods.addition.ia3",
    "deltacompose_plugins.intrinsic": "deltacompose_plugins.methods.reparameterization.intrinsic",
    "deltacompose_plugins.intrinsic_prompt": "deltacompose_plugins.methods.reparameterization.intrinsic_prompt",
    "deltacompose_plugins.last_layers": "deltacompose_plugins.methods.specification.last_layers",
    "deltacompose_plugins.lora": "deltacompose_plugins.methods.reparameterization.lora",
    "deltacompose_plugins.masked": "deltacompose_plugins.methods.specification.masked",
    "deltacompose_plugins.norm": "deltacompose_plugins.methods.specification.norm",
    "deltacompose_plugins.p_tuning": "deltacompose_plugins.methods.addition.p_tuning",
    "deltacompose_plugins.parallel_adapter": "deltacompose_plugins.methods.addition.parallel_adapter",
    "deltacompose_plugins.peft_bridge": "deltacompose_plugins.peft",
    "deltacompose_plugins.peft_bridge.adalora": "deltacompose_plugins.peft.adalora",
    "deltacompose_plugins.peft_bridge.catalogue": "deltacompose_plugins.peft.catalogue",
    "deltacompose_plugins.peft_bridge.changes": "deltacompose_plugins.peft.changes",
    "deltacompose_plugins.peft_bridge.encoders": "deltacompose_plugins.peft.encoders",
    "deltacompose_plugins.peft_bridge.layers": "deltacompose_plugins.peft.layers",
    "deltacompose_plugins.peft_bridge.options": "deltacompose_plugins.peft.options",
    "deltacompose_plugins.peft_bridge.osf": "deltacompose_plugins.peft.osf",
    "deltacompose_plugins.peft_bridge.tuners": "deltacompose_plugins.peft.tuners",
    "deltacompose_plugins.prefix": "deltacompose_plugins.methods.addition.prefix",
    "deltacompose_plugins.projections": "deltacompose_plugins.methods.reparameterization.projections",
    "deltacompose_plugins.prompt": "deltacompose_plugins.methods.addition.prompt",
    "deltacompose_plugins.selective": "deltacompose_plugins.methods.specification.selective",
    "deltacompose_plugins.vera": "deltacompose_plugins.methods.reparameterization.vera",
}
"""New paths by old ones."""


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports its names when they are first used.

    Args:
        package: the name of the package, for the error.
        homes: for each name its module below `deltacompose`; a name that is its module's stands for the module.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"deltacompose.{homes[name]}")
        return module if homes[name] == name else getattr(module, name)

    return get


class _Alias(importlib.abc.Loader):
    """Loads an old path as a module that forwards every name to the new one."""

    def __init__(self, target: str) -> None:
        self.target = target

    def exec_module(self, module: ModuleType) -> None:
        warnings.warn(f"{module.__name__} has moved to {self.target}", DeprecationWarning, stacklevel=2)
        target = importlib.import_module(self.target)

        def forward(name: str) -> Any:
            return getattr(target, name)

        module.__dict__.update({name: value for name, value in vars(target).items() if not name.startswith("__")})
        module.__dict__["__getattr__"] = forward


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the old paths of `MOVED`; everything else is left to the finders before it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MOVED:
            return None
        is_package = any(path.startswith(f"{fullname}.") for path in MOVED)
        return importlib.util.spec_from_loader(fullname, _Alias(MOVED[fullname]), is_package=is_package)


def install() -> None:
    """Make the old paths importable. The finder comes last, so that a real module always wins."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
