"""`deltacompose subspace`: whether the deltas of many tasks lie in one low-dimensional subspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import (
    ANALYSES,
    AsJson,
    Categories,
    Composition,
    Out,
    Prompts,
    Scores,
    Source,
    Split,
    StoreFolder,
)
from deltacompose.cli.output import Answer, estimated, number
from deltacompose.errors import BadInput, unknown
from deltacompose.study.queries import is_done

if TYPE_CHECKING:
    from deltacompose.analysis.similarity.compare import Deltas
    from deltacompose.cli.inputs import Inputs

MOST = 5_000_000
"""Deltas with more parameters are read only if their composition is named."""
_LEARN = (
    "Method that learns the subspace: pca or autoencoder. The autoencoder is trained to reconstruct the deltas; a "
    "study's `subspace: {way: autoencoder}` adds the loss on their tasks."
)
_NO_TASK_LOSS = (
    "the autoencoder was trained to reconstruct the deltas, without the loss on their tasks (Qin et al. 2021 use "
    "both); a study's `subspace: {way: autoencoder}` uses both"
)
_RANKS = ("participation_ratio", "effective_rank", "stable_rank")
_MEANS = tuple(f"{name}{end}" for name in _RANKS for end in ("", "_not_centred"))


@dataclass(frozen=True)
class Settings:
    """Settings of the subspace to learn."""

    way: str
    dimensions: int | None
    seen: tuple[str, ...]
    hidden: int | None
    steps: int
    out: Path | None


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(subspace)


def subspace(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Dimensions of the subspace.  [default: half the number of tasks]")
    ] = None,
    learn: Annotated[str, typer.Option(help=_LEARN)] = "pca",
    seen: Annotated[str, typer.Option(help="Tasks to learn from, separated by commas; the others are held out.")] = "",
    hidden: Annotated[
        int | None, typer.Option(help="Hidden width of the decoder.  [default: the prompts' width]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the autoencoder.")] = 1000,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Composition whose score is the full one, for d90.  [default: that of the search, else full]"
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Sufficient share of the full score.  [default: that of the search, else .9]")
    ] = None,
    split: Split = "",
    store: StoreFolder = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Find a common subspace of the deltas.

    Spectra of the deltas, a learned subspace and its reconstruction of other tasks' deltas, and intrinsic dimensions.
    """
    from deltacompose.analysis.subspace.intrinsic_dimension import intrinsic_dimensions
    from deltacompose.cli.inputs import Options, read_inputs

    inputs = read_inputs(Options(source, store, scores, prompts, categories, composition, split), ("scores",))
    tasks = tuple(name.strip() for name in seen.split(",") if name.strip())
    settings = Settings(learn, dimensions, tasks, hidden, steps, out)
    dimensional = intrinsic_dimensions(inputs.records, reference, share)
    chosen = _chosen(inputs, composition)
    if categories:
        _check_categories(chosen, inputs.categories)
    if not chosen and not dimensional:
        raise BadInput(f"no composition has deltas of at most {MOST} parameters; name one with --composition")
    readouts = _readouts(inputs)
    answer: Answer = {}
    try:
        answer = output.answer_each(chosen, lambda text, deltas: _answer(text, deltas, settings)) if chosen else {}
    except BadInput as reason:
        if not dimensional and not readouts:
            raise
        answer = {"error": f"no common subspace: {reason}"}
    if out is not None:
        _draw(answer, dimensional, out)
    answer = {**answer, "intrinsic_dimension": dimensional or None, "readouts": readouts}
    output.write_answer("subspace", answer, as_json, out, _print)
    if not as_json:
        _print_dimensions(dimensional)
        _print_readouts(readouts)


def _draw(answer: Answer, dimensional: Sequence[Any], out: Path) -> None:
    """Draws `spectrum` of every composition and `dimension` of every search; a note on stderr replaces what cannot."""
    from deltacompose import figures

    drawings: dict[str, Callable[[], Any]] = {}
    parts = {text: part for text, part in output.by_composition(answer).items() if "by_seed" in part}
    stems = output.stems({"compositions": parts}) if parts else {}
    for text, part in parts.items():
        drawings[f"{stems[text]}spectrum"] = partial(figures.spectrum, part, title=text)
    for place, search in enumerate(dimensional, start=1):
        name = "dimension" if len(dimensional) == 1 else f"dimension-{place}"
        drawings[name] = partial(figures.dimension, search)
    for reason in output.write_figures(drawings, out):
        typer.echo(f"note: {reason}", err=True)


def _chosen(inputs: Inputs, composition: str) -> Mapping[str, Deltas]:
    """The compositions whose deltas are compared. Those of a search for d and very large ones must be named."""
    known = inputs.needed_deltas()
    if composition or inputs.folder is None:
        return known
    sizes = {
        str(r["spec"]["composition"]): int(r["result"]["parameters"])
        for r in inputs.records
        if r["kind"] == "train" and is_done(r)
    }
    return {t: d for t, d in known.items() if not t.startswith("intrinsic") and sizes.get(t, 0) <= MOST}


def _check_categories(chosen: Mapping[str, Deltas], categories: Mapping[str, str]) -> None:
    """Checks that the file of categories has every compared task.

    Raises:
        BadInput: a task has no category.
    """
    compared = dict.fromkeys(task for deltas in chosen.values() for task in deltas.tasks)
    missing = [task for task in compared if task not in categories]
    if missing:
        raise BadInput(
            f"the categories miss {', '.join(missing)} (found {', '.join(categories) or 'no task'}; expected every "
            "compared task)"
        )


def _answer(text: str, deltas: Deltas, settings: Settings) -> Answer:
    """Means over seeds, the results of each seed, and the subspace learned from each."""
    import numpy as np

    from deltacompose.analysis.similarity.formulas import flatten
    from deltacompose.analysis.subspace.linear import summary

    by_seed, learned = {}, {}
    for seed in deltas.seeds:
        arrays, width = _arrays(deltas, seed)
        flat = {task: flatten({"": array}) for task, array in arrays.items()}
        by_seed[str(seed)] = summary(flat, settings.dimensions)
        learned[str(seed)] = _learned((text, seed), flat, width, settings)
    first = next(iter(by_seed.values()))
    means = _means(list(by_seed.values()))
    unit = _means([ranks["unit_norm"] for ranks in by_seed.values()])
    spread = (
        {n: float(np.std([ranks[n] for ranks in by_seed.values()], ddof=1)) for n in _MEANS}
        if len(by_seed) > 1
        else None
    )
    limitations = list(dict.fromkeys(line for ranks in by_seed.values() for line in ranks["limitations"]))
    if len(by_seed) == 1:
        limitations.append("one seed: the spread between training runs is unknown")
    if settings.way == "autoencoder":
        limitations.append(_NO_TASK_LOSS)
    held = [value for ranks in by_seed.values() for value in ranks["held_elsewhere"].values()]
    return {
        "composition": text,
        **{name: first[name] for name in ("tasks", "parameters", "most_dimensions")},
        "seeds": list(deltas.seeds),
        **means,
        "spread": spread,
        "unit_norm": unit,
        "held_elsewhere_dimensions": first["held_elsewhere_dimensions"],
        "held_elsewhere_mean": float(np.mean(held)),
        "held_elsewhere_if_random": float(np.mean([ranks["held_elsewhere_if_random"] for ranks in by_seed.values()])),
        "if_random": _if_random([ranks["if_random"] for ranks in by_seed.values()]),
        "by_seed": by_seed,
        "learned": learned,
        "limitations": limitations,
    }


def _means(seeds: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of every rank over the seeds."""
    return {name: sum(seed[name] for seed in seeds) / len(seeds) for name in _MEANS}


def _if_random(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and quantiles of the null, averaged over seeds. They hold for one seed, so are wider than for the mean."""
    names = (*_MEANS, "held_elsewhere")
    parts = ("mean", "q05", "q95")
    averaged = {n: {p: sum(seed[n][p] for seed in seeds) / len(seeds) for p in parts} for n in names}
    return {"draws": seeds[0]["draws"], **averaged}


def _arrays(deltas: Deltas, seed: int) -> tuple[Mapping[str, Any], int | None]:
    """Soft prompts with their width if the deltas consist of them; otherwise all weights, and None for the width."""
    try:
        prompts = deltas.read("prompts", seed)
    except BadInput:
        return deltas.read("weights", seed), None
    sizes = {task: array.size for task, array in prompts.items()}
    whole = sizes if not hasattr(deltas, "weights") else {t: x.size for t, x in deltas.read("weights", seed).items()}
    if whole != sizes:
        return deltas.read("weights", seed), None
    return prompts, next(iter(prompts.values())).shape[1]


def _learned(which: tuple[str, int], flat: Mapping[str, Any], width: int | None, settings: Settings) -> dict[str, Any]:
    """The subspace of the seen tasks' deltas: the share that it reconstructs of each task's delta, and its file."""
    import numpy as np

    from deltacompose.analysis.subspace.autoencoder import Settings as Training
    from deltacompose.analysis.subspace.learned import learn
    from deltacompose.analysis.subspace.linear import given_back_if_random, rank

    for name in settings.seen:
        if name not in flat:
            raise unknown("task", name, flat)
    seen = [task for task in flat if not settings.seen or task in settings.seen]
    unseen = [task for task in flat if task not in seen]
    stacked = np.stack([flat[task] for task in seen])
    dimensions = settings.dimensions or min(max(1, len(seen) // 2), rank(stacked))
    training = Training(dimensions, settings.hidden or width or 2 * dimensions, settings.steps)
    learned = learn(stacked, settings.way, training, which[1])
    mean = stacked.mean(axis=0)
    kept = {task: float(learned.kept(flat[task][None], mean)[0]) for task in flat}
    places = np.array([place for place, task in enumerate(flat) if task in seen])
    return {
        "way": settings.way,
        "dimensions": dimensions,
        "seen": {task: kept[task] for task in seen},
        "unseen": {task: kept[task] for task in unseen},
        "if_random": given_back_if_random(np.stack(list(flat.values())), places, dimensions),
        **_filed(which, learned, width, settings.out),
    }


def _filed(which: tuple[str, int], learned: Any, width: int | None, out: Path | None) -> dict[str, Any]:
    """Writes the file if a folder is given. A subspace of prompts has the expression that tunes within it."""
    from deltacompose.figures.figure_files import slug, write_bytes

    if out is None:
        return {"file": None, "expression": None}
    name = f"{slug(which[0]) if which[0] else 'prompts'}.seed{which[1]}.{learned.way}.safetensors"
    path = write_bytes(out / name, learned.content())
    text = f"intrinsic_prompt(file={str(path)!r}, sha256={learned.sha256()!r})"
    return {"file": str(path), "expression": text if width else None}


def _readouts(inputs: Inputs) -> list[dict[str, Any]]:
    """The six readouts of the subspaces in which a study tuned."""
    from deltacompose.analysis.subspace.tuned import readouts_of

    return readouts_of(inputs.records, inputs.categories, inputs.split)


def _print(text: str, answer: Answer) -> None:
    if "tasks" not in answer:
        return
    tasks, parameters, most = len(answer["tasks"]), answer["parameters"], answer["most_dimensions"]
    typer.echo(f"{tasks} tasks of {parameters} parameters, {len(answer['seeds'])} seed(s); at most {most} dimensions")
    output.print_table([row for end in ("", "_not_centred") for row in _rank_rows(answer, end)], ("about", *_RANKS))
    null = answer["if_random"]["held_elsewhere"]
    typer.echo(
        f"{answer['held_elsewhere_dimensions']} dimensions of the other tasks' deltas contain "
        f"{answer['held_elsewhere_mean']:.1%} of a task's delta (random directions of the same norms: {_below(null)})"
    )
    for seed, learned in answer["learned"].items():
        shares = ", ".join(_reconstructed(learned, part) for part in ("seen", "unseen") if learned[part])
        typer.echo(f"seed {seed}: {learned['way']} of {learned['dimensions']} dimensions reconstructs {shares}")
        if learned["expression"]:
            typer.echo(f"  expression for tuning in the subspace: {learned['expression']}")


def _rank_rows(answer: Answer, end: str) -> list[dict[str, Any]]:
    """The ranks about one centre: of the deltas, of the deltas at norm 1, of random directions of the same norms."""
    about = "zero" if end else "their mean"
    random = {name: answer["if_random"][f"{name}{end}"] for name in _RANKS}
    return [
        {"about": about, **{name: answer[f"{name}{end}"] for name in _RANKS}},
        {"about": f"{about}, norms 1", **{name: answer["unit_norm"][f"{name}{end}"] for name in _RANKS}},
        {"about": "  random directions of the same norms", **{name: null["mean"] for name, null in random.items()}},
        {"about": "  their 5 % quantile", **{name: null["q05"] for name, null in random.items()}},
        {"about": "  their 95 % quantile", **{name: null["q95"] for name, null in random.items()}},
    ]


def _reconstructed(learned: Mapping[str, Any], part: str) -> str:
    shares = list(learned[part].values())
    null = _below(learned["if_random"][part])
    return f"{sum(shares) / len(shares):.1%} of {len(shares)} {part} tasks (random directions by pca: {null})"


def _below(null: Mapping[str, float]) -> str:
    return f"{null['mean']:.1%}, 95 % below {null['q95']:.1%}"


def _print_dimensions(dimensional: list[Any]) -> None:
    for facts in dimensional:
        count = facts["scales"]
        scaled = f"one scale per layer ({number(count)} not in d)" if facts["per_layer"] else "no scales"
        typer.echo(
            f"minimum d with {facts['share']:.0%} of the score of {facts['reference']}, "
            f"{facts['projection']} projection, {scaled}, {', '.join(facts['places'])}:"
        )
        if facts["warm_start"]:
            typer.echo(
                "warm start: each d starts from the solution at the next lower d, so its steps add to those before"
            )
        rows = [
            {
                "task": task,
                **_least(of, "d"),
                **_least(of["above_chance"] or {}, "d above chance"),
                "full": of["full"],
                "found by": "warm-started " * facts["warm_start"] + _way(of["search"]),
            }
            for task, of in facts["tasks"].items()
        ]
        output.print_table(rows, tuple(rows[0]))


def _least(dimension: Mapping[str, Any], head: str) -> dict[str, str]:
    """d of the mean over seeds, with the next lower d that was tried, and d of each seed."""
    d, below = dimension.get("d"), dimension.get("below")
    known = number(d) + (f" ({below} is too small)" if below else "") if d else f"> {below}" if below else "–"
    return {head: known, f"{head}, by seed": ", ".join(map(number, dimension.get("by_seed", {}).values()))}


def _way(search: Mapping[str, Any] | None) -> str:
    if search is None:
        return "grid"
    waiting = ", ".join(map(str, search["next"]))
    return f"search, d = {waiting} not yet trained" if waiting else f"search up to {search['most']}"


def _print_readouts(readouts: list[dict[str, Any]]) -> None:
    for subspace in readouts:
        size = f"{subspace['way']} of {subspace['dimensions']} dimensions of {subspace['composition']}"
        typer.echo(f"{size}, from {', '.join(subspace['seen'])}:")
        rows = [
            {"readout": name, **_means_of(of or {}), "tasks": len(of["tasks"]) if of else 0}
            for name, of in subspace["readouts"].items()
        ]
        output.print_table(rows, ("readout", "relative", "corrected", "tasks"))
        for sentence in dict.fromkeys(line for of in subspace["readouts"].values() if of for line in of["limitations"]):
            typer.echo(f"- {sentence}")


def _means_of(readout: Mapping[str, Any]) -> dict[str, str]:
    """The two means of a readout, each with its interval over seeds."""
    means = ("relative", "corrected")
    intervals = readout.get("intervals", {})
    return {name: estimated({**(intervals.get(name) or {}), "value": readout.get(name)}) for name in means}
