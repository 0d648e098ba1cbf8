"""The methods paragraph: what was run and how it was evaluated, made from the records, with its sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    texts = list(dict.fromkeys([*findings.matrices, *(str(r["spec"]["composition"]) for r in findings.trainings)]))
    if not texts:
        return
    delta_tuning = cite(DELTA_TUNING)
    names = list(dict.fromkeys(name for text in texts for name in methods_in(text)))
    cited = listed(f"{name}{cite(METHODS.get(name))}" for name in names)
    shown = f": {'; '.join(texts)}" if len(texts) <= 6 else ""
    tasks = list(
        dict.fromkeys([name for m in findings.matrices.values() for name in m.names] + _of(findings.trainings, "task"))
    )
    categories = sorted({kind for m in findings.matrices.values() for kind in m.categories.values()})
    of = (
        f" of {counted(len(categories), 'category').replace('categorys', 'categories')} ({', '.join(categories)})"
        if categories
        else ""
    )
    backbone = ", ".join(findings.backbones)
    yield (
        f"We trained {counted(len(texts), 'composition')} of the delta-tuning{delta_tuning} methods {cited}{shown}, "
        f"on {counted(len(tasks), 'task')}{of} with {counted(len(findings.seeds), 'seed')} each, on the frozen backbone"
        f"{' ' + backbone if backbone else ''}."
    )
    yield from _recipes(findings.trainings, cite)
    yield from _data(findings.trainings)


def _of(records: Iterable[Record], name: str) -> list[str]:
    return [str(record["spec"][name]) for record in records]


def _recipes(trainings: Iterable[Record], cite: References) -> Iterator[str]:
    """How stages were trained: a setting that differs between trainings is given with all its values."""
    recipes = [record["spec"]["recipe"] for record in trainings if "recipe" in record["spec"]]
    if not recipes:
        return
    steps, batch = _values(recipes, "steps"), _values(recipes, "batch")
    text = f"Each stage was trained for {steps} steps"
    text += f" on batches of {batch} examples" if batch else ""
    decay, warmup, clip = (_values(recipes, name) for name in ("weight_decay", "warmup", "clip"))
    if decay:
        text += f" by AdamW{cite(ADAMW)} (weight decay {decay}"
        text += (
            f"; learning rate rising over the first {warmup} of the steps, then falling linearly to zero"
            if warmup
            else ""
        )
        text += f"; gradients clipped at norm {clip}" if clip else ""
        text += ")"
    yield text + "."
    rates = {name: value for recipe in recipes for name, value in recipe.get("learning_rates", {}).items()}
    if rates:
        every = {
            name: sorted({r["learning_rates"][name] for r in recipes if name in r.get("learning_rates", {})})
            for name in rates
        }
        peaks = listed(f"{', '.join(f'{rate:g}' for rate in values)} for {name}" for name, values in every.items())
        yield f"The peak learning rate was {peaks}."
    if (every_steps := _values(recipes, "evaluate_every")) and (
        kept := {str(recipe.get("keep")) for recipe in recipes}
    ) <= {"best", "last"}:
        what = (
            "the best of these evaluations"
            if kept == {"best"}
            else "the last step"
            if kept == {"last"}
            else "the best evaluation or the last step"
        )
        yield f"Development examples were evaluated every {every_steps} steps, and the weights of {what} were kept."


def _values(records: Iterable[Record], name: str) -> str:
    """The values of a setting in ascending order, as `8` or `100 or 200`; empty where it is not recorded."""
    values = sorted({record[name] for record in records if record.get(name) is not None})
    return " or ".join(f"{value:g}" for value in values)


def _data(trainings: Iterable[Record]) -> Iterator[str]:
    specs = [record["spec"] for record in trainings]
    rows = {
        tuple(sorted((str(split), count) for split, count in spec["rows"].items() if count))
        for spec in specs
        if spec.get("rows")
    }
    if len(rows) == 1 and (only := rows.pop()):
        names = {"train": "training", "val": "development", "test": "test"}
        yield f"Each task has at most {listed(f'{count} {names.get(split, split)} examples' for split, count in only)}."
    shots = sorted({spec["shots"] for spec in specs if spec.get("shots")})
    if shots:
        yield f"Training saw {' or '.join(map(str, shots))} examples of each class."
    if any(spec.get("template") is False for spec in specs):
        yield (
            "Inputs were given without a template in some trainings."
            if any(spec.get("template") for spec in specs)
            else "Inputs were given without a template."
        )


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
