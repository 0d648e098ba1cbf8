"""The methods paragraph: what was run and how it was evaluated, made from the records, with its sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from deltacompose.analysis.units import graph_value, unknown_chance
from deltacompose.figures.style import counted, number
from deltacompose.report.analysed import Analysed
from deltacompose.report.citations import (
    ADAMW,
    DELTA_TUNING,
    DISCOVERIES,
    INTERVAL,
    METHODS,
    RANDOM_PROMPTS,
    References,
    listed,
    methods_in,
)
from deltacompose.study.queries import Record


@dataclass(frozen=True)
class Methods:
    """Paragraphs ready for a paper, and the sources that their numbers in brackets refer to."""

    paragraphs: tuple[str, ...]
    references: tuple[str, ...]


def methods(study: Analysed) -> Methods:
    """The paragraphs on training and on evaluation; each states only what the records hold."""
    cite = References()
    paragraphs = [" ".join(_training(study, cite)), " ".join(_evaluation(study, cite)), " ".join(_software(study))]
    return Methods(tuple(text for text in paragraphs if text), tuple(cite.sources))


def _training(study: Analysed, cite: References) -> Iterator[str]:
    findings = study.findings
    texts = list(dict.fromkeys([*findings.matrices, *_of(findings.trainings, "composition")]))
    if not texts:
        return
    yield f"{_compositions(texts, cite)}, on {_tasks(study)}{_backbone(findings.backbones)}."
    recipes = [record["spec"]["recipe"] for record in findings.trainings if "recipe" in record["spec"]]
    if recipes:
        yield from _recipes(recipes, cite)
    yield from _data([record["spec"] for record in findings.trainings])


def _of(records: Iterable[Record], name: str) -> list[str]:
    return [str(record["spec"][name]) for record in records]


def _compositions(texts: Sequence[str], cite: References) -> str:
    delta_tuning = cite(DELTA_TUNING)
    names = list(dict.fromkeys(name for text in texts for name in methods_in(text)))
    cited = listed(f"{name}{cite(METHODS.get(name))}" for name in names)
    shown = f" ({'; '.join(texts)})" if len(texts) <= 6 and list(texts) != names else ""
    return (
        f"We trained {counted(len(texts), 'composition')} of delta-tuning methods{delta_tuning}, made of {cited}{shown}"
    )


def _tasks(study: Analysed) -> str:
    findings = study.findings
    matrices = findings.matrices.values()
    tasks = {name for matrix in matrices for name in matrix.names} | set(_of(findings.trainings, "task"))
    categories = sorted({category for matrix in matrices for category in matrix.categories.values()})
    number_of_categories = "one category" if len(categories) == 1 else f"{len(categories)} categories"
    grouped = f" of {number_of_categories} ({', '.join(categories)})" if categories else ""
    return f"{counted(len(tasks), 'task')}{grouped} with {counted(len(findings.seeds), 'seed')} each"


def _backbone(names: Sequence[str]) -> str:
    return f", on the backbone {', '.join(names)}" if names else ""


def _recipes(recipes: Sequence[Record], cite: References) -> Iterator[str]:
    """How stages were trained: a setting that differs between trainings is given with all its values."""
    batch = _values(recipes, "batch")
    size = f" on batches of {batch} examples" if batch else ""
    yield f"Each stage was trained for {_values(recipes, 'steps')} steps{size}{_optimizer(recipes, cite)}."
    peaks: dict[str, set[float]] = {}
    for recipe in recipes:
        for name, rate in recipe.get("learning_rates", {}).items():
            peaks.setdefault(name, set()).add(rate)
    if peaks:
        rates = listed(f"{' or '.join(f'{rate:g}' for rate in sorted(peaks[name]))} for {name}" for name in peaks)
        yield f"The peak learning rate was {rates}."
    kept = {str(recipe.get("keep")) for recipe in recipes}
    if (steps := _values(recipes, "evaluate_every")) and kept <= set(_KEPT):
        weights = " or ".join(_KEPT[choice] for choice in sorted(kept))
        yield f"Development examples were evaluated every {steps} steps, and the weights of {weights} were kept."


_KEPT = {"best": "the best evaluation", "last": "the last step"}


def _optimizer(recipes: Sequence[Record], cite: References) -> str:
    """The optimizer with its settings; empty where the records do not have them."""
    if not (decay := _values(recipes, "weight_decay")):
        return ""
    facts = [f"weight decay {decay}"]
    if warmup := _values(recipes, "warmup", scale=100):
        facts.append(f"learning rate rising over the first {warmup} % of the steps, then falling linearly to zero")
    if clip := _values(recipes, "clip"):
        facts.append(f"gradients clipped at norm {clip}")
    return f" by AdamW{cite(ADAMW)} ({'; '.join(facts)})"


def _values(recipes: Sequence[Record], name: str, scale: float = 1) -> str:
    """The values of a setting in ascending order, as `8` or `100 or 200`; empty where it is not recorded."""
    values = sorted({scale * recipe[name] for recipe in recipes if recipe.get(name) is not None})
    return " or ".join(f"{value:g}" for value in values)


_SPLITS = {"train": "training", "val": "development", "test": "test"}


def _data(specs: Sequence[Record]) -> Iterator[str]:
    limits = {tuple(spec["rows"].get(split) for split in _SPLITS) for spec in specs if spec.get("rows")}
    if len(limits) == 1 and any(counts := limits.pop()):
        parts = [f"{count} {name}" for count, name in zip(counts, _SPLITS.values(), strict=True) if count]
        yield f"Each task has at most {listed(parts)} examples."
    if shots := sorted({spec["shots"] for spec in specs if spec.get("shots")}):
        yield f"Training used {' or '.join(map(str, shots))} examples of each class."
    templates = {bool(spec["template"]) for spec in specs if spec.get("template") is not None}
    if False in templates:
        yield f"Inputs were given without a template{' in some trainings' if True in templates else ''}."


def _evaluation(study: Analysed, cite: References) -> Iterator[str]:
    findings = study.findings
    if not findings.matrices:
        return
    metrics = sorted({metric for matrix in findings.matrices.values() for metric in matrix.metric if metric})
    where = "every task, without further training (zero-shot transfer)" if study.parts else "the task it was trained on"
    by = f", by {listed(metrics)}" if metrics else ""
    yield f"Each delta was evaluated on the {findings.split} split of {where}{by}."
    yield "Chance is the best score of answers that do not use the input; the untouched backbone has no delta."
    if study.parts and not all(unknown_chance(part.matrix) for part in study.parts):
        yield (
            "Relative performance is A(s → t) / A(t → t), the score on task t of the delta trained on s by that of the "
            f"delta trained on t{cite(DELTA_TUNING, RANDOM_PROMPTS)}; the chance-corrected value is "
            "(A(s → t) − chance) / (A(t → t) − chance)."
        )
    if covers := sorted({lift.covers for lift in study.lifts if lift.verdict != "unknown"}):
        both = f", from both variances{cite(INTERVAL)}" if any("and" in each for each in covers) else ""
        yield f"Intervals are 95 % intervals of Student's t over {' or '.join(covers)}{both}."
    if marked := [part.marked for part in study.parts if part.marked is not None]:
        yield (
            f"Cells are marked where they differ from the {marked[0].against} backbone with the false discovery rate "
            f"held at {number(marked[0].q)} under any dependence{cite(DISCOVERIES)}."
        )
    if tests := [comparison.test for _, comparison in study.compared if comparison.test is not None]:
        drawn = max((test.arrangements for test in tests if not test.exact), default=0)
        how = f"{drawn} random arrangements" if drawn else "all arrangements"
        yield (
            "Same- and cross-category transfer are compared by a one-sided permutation test of the categories over the "
            f"tasks ({how})."
        )
    if graphs := [part for part in study.parts if part.tasks is not None]:
        values = listed(sorted({graph_value(part.matrix) for part in graphs}))
        near = listed(sorted({str(part.tasks.graph["k"]) for part in graphs if part.tasks is not None}))
        yield f"Task graphs join each task to its {near} nearest by {values} values, the mean of both directions."


def _software(study: Analysed) -> Iterator[str]:
    environments = [record["environment"] for record in study.findings.trainings if "environment" in record]
    names = ("deltacompose", "torch", "transformers", "peft", "python")
    versions = {name: sorted({str(each[name]) for each in environments if each.get(name)}) for name in names}
    if known := [f"{name} {' and '.join(values)}" for name, values in versions.items() if values]:
        yield f"Software: {listed(known)}."
