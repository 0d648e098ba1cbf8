"""`deltacompose subspace`: do the deltas of many tasks lie in one low-dimensional subspace?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import answers, show
from deltacompose.cli.answers import Answer, estimated, number
from deltacompose.cli.options import AsJson, Categories, Composition, Out, Prompts, Scores, Source, Split, StoreFolder
from deltacompose.errors import BadInput, unknown

if TYPE_CHECKING:
    from deltacompose.analysis.similarity.compare import Deltas
    from deltacompose.cli.inputs import Material

MOST = 5_000_000
"""Deltas of more parameters are read only where their composition is named."""
_LEARN = (
    "How the subspace is learned: pca or autoencoder. The latter learns here to reconstruct the deltas alone, without "
    "the loss on their tasks, which a study's `subspace: {way: autoencoder}` has too."
)
_NO_TASK_LOSS = (
    "the autoencoder learned to reconstruct the deltas alone, without the loss on their tasks (Qin et al. 2021 have "
    "both); a study's `subspace: {way: autoencoder}` has both"
)
_RANKS = ("participation_ratio", "effective_rank", "stable_rank")
_MEANS = tuple(f"{name}{end}" for name in _RANKS for end in ("", "_not_centred"))


@dataclass(frozen=True)
class Wanted:
    """What is to be learned, and from what."""

    way: str
    dimensions: int | None
    seen: tuple[str, ...]
    hidden: int | None
    steps: int
    out: Path | None


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command()(subspace)


def subspace(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    dimensions: Annotated[int | None, typer.Option(min=1, help="Of the subspace.  [default: half the tasks]")] = None,
    learn: Annotated[str, typer.Option(help=_LEARN)] = "pca",
    seen: Annotated[str, typer.Option(help="Tasks to learn from, joined by commas; the others test it.")] = "",
    hidden: Annotated[int | None, typer.Option(help="Of the decoder.  [default: the prompts' width]")] = None,
    steps: Annotated[int, typer.Option(help="Of the autoencoder's training.")] = 1000,
    reference: Annotated[
        str | None,
        typer.Option(help="Composition whose score is the full one, for d90.  [default: a search's, full]"),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Of the full score that is enough.  [default: a search's, .9 for d90]")
    ] = None,
    split: Split = "",
    store: StoreFolder = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Spectra of the deltas, a learned subspace and how well it holds other tasks, and intrinsic dimensions."""
    from deltacompose.analysis.subspace.intrinsic_dimension import intrinsic_dimensions
    from deltacompose.cli.inputs import Files, read

    given = read(Files(source, store, scores, prompts, categories, composition, split), ("scores",))
    tasks = tuple(name.strip() for name in seen.split(",") if name.strip())
    wanted = Wanted(learn, dimensions, tasks, hidden, steps, out)
    dimensional = intrinsic_dimensions(given.records, reference, share)
    chosen = _chosen(given, composition)
    if categories:
        _check_categories(chosen, given.categories)
    if not chosen and not dimensional:
        raise BadInput(f"no composition has deltas of at most {MOST} parameters; name one by --composition")
    read_off = _readouts(given)
    found: Answer = {}
    try:
        found = answers.of_each(chosen, lambda text, deltas: _answer(text, deltas, wanted)) if chosen else {}
    except BadInput as reason:
        if not dimensional and not read_off:
            raise
        found = {"error": f"no common subspace: {reason}"}
    found = {**found, "intrinsic_dimension": dimensional or None, "readouts": read_off}
    answers.give("subspace", found, as_json, out, _say)
    if not as_json:
        _say_dimensions(dimensional)
        _say_readouts(found["readouts"])


def _chosen(given: Material, composition: str) -> Mapping[str, Deltas]:
    """The compositions whose deltas are compared: not those of a search for d, nor very large ones, unless named."""
    known = given.needed_deltas()
    if composition or given.folder is None:
        return known
    sizes = {
        str(r["spec"]["composition"]): int(r["result"]["parameters"])
        for r in given.records
        if r["kind"] == "train" and r.get("state", "done") == "done"
    }
    return {t: d for t, d in known.items() if not t.startswith("intrinsic") and sizes.get(t, 0) <= MOST}


def _check_categories(chosen: Mapping[str, Deltas], categories: Mapping[str, str]) -> None:
    """A file of categories has one for each task that is compared."""
    missing = list(dict.fromkeys(task for one in chosen.values() for task in one.tasks if task not in categories))
    if missing:
        raise BadInput(
            f"the categories miss {', '.join(missing)}; they are given for {', '.join(categories) or 'no task'}"
        )


def _answer(text: str, deltas: Deltas, wanted: Wanted) -> Answer:
    """Means over seeds, what each seed says, and the subspace that was learned from each."""
    import numpy as np

    from deltacompose.analysis.similarity.formulas import flatten
    from deltacompose.analysis.subspace.linear import summary

    by_seed, learned = {}, {}
    for seed in deltas.seeds:
        arrays, width = _arrays(deltas, seed)
        flat = {task: flatten({"": array}) for task, array in arrays.items()}
        by_seed[str(seed)] = summary(flat, wanted.dimensions)
        learned[str(seed)] = _learned((text, seed), flat, width, wanted)
    first = next(iter(by_seed.values()))
    means = _means(list(by_seed.values()))
    unit = _means([one["unit_norm"] for one in by_seed.values()])
    spread = (
        {n: float(np.std([one[n] for one in by_seed.values()], ddof=1)) for n in _MEANS} if len(by_seed) > 1 else None
    )
    limitations = list(dict.fromkeys(line for one in by_seed.values() for line in one["limitations"]))
    if len(by_seed) == 1:
        limitations.append("one seed: nothing is known of the spread between training runs")
    if wanted.way == "autoencoder":
        limitations.append(_NO_TASK_LOSS)
    held = [value for one in by_seed.values() for value in one["held_elsewhere"].values()]
    return {
        "composition": text,
        **{name: first[name] for name in ("tasks", "parameters", "most_dimensions")},
        "seeds": list(deltas.seeds),
        **means,
        "spread": spread,
        "unit_norm": unit,
        "held_elsewhere_dimensions": first["held_elsewhere_dimensions"],
        "held_elsewhere_mean": float(np.mean(held)),
        "held_elsewhere_if_random": float(np.mean([one["held_elsewhere_if_random"] for one in by_seed.values()])),
        "if_random": _if_random([one["if_random"] for one in by_seed.values()]),
        "by_seed": by_seed,
        "learned": learned,
        "limitations": limitations,
    }


def _means(seeds: list[dict[str, Any]]) -> dict[str, float]:
    """Of every rank over the seeds."""
    return {name: sum(one[name] for one in seeds) / len(seeds) for name in _MEANS}


def _if_random(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and quantiles of the null, averaged over seeds: quantiles of one seed, so wider than those of the mean."""
    names = (*_MEANS, "held_elsewhere")
    parts = ("mean", "q05", "q95")
    averaged = {n: {p: sum(one[n][p] for one in seeds) / len(seeds) for p in parts} for n in names}
    return {"draws": seeds[0]["draws"], **averaged}


def _arrays(deltas: Deltas, seed: int) -> tuple[Mapping[str, Any], int | None]:
    """Soft prompts with their width where the deltas are that and nothing else; otherwise all weights as one row."""
    try:
        prompts = deltas.read("prompts", seed)
    except BadInput:
        return deltas.read("weights", seed), None
    sizes = {task: array.size for task, array in prompts.items()}
    whole = sizes if not hasattr(deltas, "weights") else {t: x.size for t, x in deltas.read("weights", seed).items()}
    if whole != sizes:
        return deltas.read("weights", seed), None
    return prompts, next(iter(prompts.values())).shape[1]


def _learned(which: tuple[str, int], flat: Mapping[str, Any], width: int | None, wanted: Wanted) -> dict[str, Any]:
    """The subspace of the seen tasks' deltas: what it gives back of each task's, and where its file is."""
    import numpy as np

    from deltacompose.analysis.subspace.autoencoder import Settings
    from deltacompose.analysis.subspace.learned import learn
    from deltacompose.analysis.subspace.linear import given_back_if_random, rank

    for name in wanted.seen:
        if name not in flat:
            raise unknown("task", name, flat)
    seen = [task for task in flat if not wanted.seen or task in wanted.seen]
    unseen = [task for task in flat if task not in seen]
    stacked = np.stack([flat[task] for task in seen])
    dimensions = wanted.dimensions or min(max(1, len(seen) // 2), rank(stacked))
    settings = Settings(dimensions, wanted.hidden or width or 2 * dimensions, wanted.steps)
    found = learn(stacked, wanted.way, settings, which[1])
    mean = stacked.mean(axis=0)
    kept = {task: float(found.kept(flat[task][None], mean)[0]) for task in flat}
    places = np.array([place for place, task in enumerate(flat) if task in seen])
    return {
        "way": wanted.way,
        "dimensions": dimensions,
        "seen": {task: kept[task] for task in seen},
        "unseen": {task: kept[task] for task in unseen},
        "if_random": given_back_if_random(np.stack(list(flat.values())), places, dimensions),
        **_filed(which, found, width, wanted.out),
    }


def _filed(which: tuple[str, int], found: Any, width: int | None, out: Path | None) -> dict[str, Any]:
    """Writes the file where a folder is named; a subspace of prompts has the expression that tunes within it."""
    from deltacompose.figures.files import slug, write_bytes

    if out is None:
        return {"file": None, "expression": None}
    name = f"{slug(which[0]) if which[0] else 'prompts'}.seed{which[1]}.{found.way}.safetensors"
    path = write_bytes(out / name, found.content())
    text = f"intrinsic_prompt(file={str(path)!r}, sha256={found.sha256()!r})"
    return {"file": str(path), "expression": text if width else None}


def _readouts(given: Material) -> list[dict[str, Any]]:
    """The six readouts of the subspaces that a study learned and tuned within."""
    from deltacompose.analysis.subspace.tuned import readouts_of

    return readouts_of(given.records, given.categories, given.split)


def _say(text: str, answer: Answer) -> None:
    if "tasks" not in answer:
        return
    tasks, parameters, most = len(answer["tasks"]), answer["parameters"], answer["most_dimensions"]
    typer.echo(f"{tasks} tasks of {parameters} parameters, {len(answer['seeds'])} seed(s); at most {most} dimensions")
    show.table([row for end in ("", "_not_centred") for row in _rank_rows(answer, end)], ("about", *_RANKS))
    null = answer["if_random"]["held_elsewhere"]
    typer.echo(
        f"{answer['held_elsewhere_dimensions']} dimensions of the other tasks' deltas hold "
        f"{answer['held_elsewhere_mean']:.1%} of a task's (random directions of the same norms: {_below(null)})"
    )
    for seed, one in answer["learned"].items():
        said = ", ".join(_given_back(one, part) for part in ("seen", "unseen") if one[part])
        typer.echo(f"seed {seed}: {one['way']} of {one['dimensions']} dimensions gives back {said}")
        if one["expression"]:
            typer.echo(f"  to tune within it: {one['expression']}")


def _rank_rows(answer: Answer, end: str) -> list[dict[str, Any]]:
    """The ranks about one centre, those of the deltas at norm 1, and those of random directions of the same norms."""
    about = "zero" if end else "their mean"
    random = {name: answer["if_random"][f"{name}{end}"] for name in _RANKS}
    return [
        {"about": about, **{name: answer[f"{name}{end}"] for name in _RANKS}},
        {"about": f"{about}, norms 1", **{name: answer["unit_norm"][f"{name}{end}"] for name in _RANKS}},
        {"about": "  random directions of the same norms", **{name: one["mean"] for name, one in random.items()}},
        {"about": "  95 % of them above", **{name: one["q05"] for name, one in random.items()}},
        {"about": "  95 % of them below", **{name: one["q95"] for name, one in random.items()}},
    ]


def _given_back(one: Mapping[str, Any], part: str) -> str:
    shares = list(one[part].values())
    null = _below(one["if_random"][part])
    return f"{sum(shares) / len(shares):.1%} of {len(shares)} {part} tasks (random directions by pca: {null})"


def _below(null: Mapping[str, float]) -> str:
    return f"{null['mean']:.1%}, 95 % below {null['q95']:.1%}"


def _say_dimensions(found: list[Any]) -> None:
    for one in found:
        count = one["scales"]
        scaled = f"one scale per layer ({number(count)} not in d)" if one["per_layer"] else "no scales"
        typer.echo(
            f"least d with {one['share']:.0%} of the score of {one['reference']}, {one['projection']} projection, "
            f"{scaled}, {', '.join(one['places'])}:"
        )
        if one["warm_start"]:
            typer.echo("warm-started: each d began with the solution at the next lower one, whose steps it has had too")
        rows = [
            {
                "task": task,
                **_least(of, "d"),
                **_least(of["above_chance"] or {}, "d above chance"),
                "full": of["full"],
                "found by": "warm-started " * one["warm_start"] + _way(of["search"]),
            }
            for task, of in one["tasks"].items()
        ]
        show.table(rows, tuple(rows[0]))


def _least(found: Mapping[str, Any], head: str) -> dict[str, str]:
    """d of the mean over seeds, with the next lower d that was tried, and d of each seed."""
    d, below = found.get("d"), found.get("below")
    known = number(d) + (f" ({below} is too few)" if below else "") if d else f"> {below}" if below else "–"
    return {head: known, f"{head}, by seed": ", ".join(map(number, found.get("by_seed", {}).values()))}


def _way(search: Mapping[str, Any] | None) -> str:
    if search is None:
        return "grid"
    waiting = ", ".join(map(str, search["next"]))
    return f"search, still to train d = {waiting}" if waiting else f"search up to {search['most']}"


def _say_readouts(found: list[dict[str, Any]]) -> None:
    for one in found:
        typer.echo(
            f"{one['way']} of {one['dimensions']} dimensions of {one['composition']}, from {', '.join(one['seen'])}:"
        )
        rows = [
            {"readout": name, **_means_of(of or {}), "tasks": len(of["tasks"]) if of else 0}
            for name, of in one["readouts"].items()
        ]
        show.table(rows, ("readout", "relative", "corrected", "tasks"))
        for sentence in dict.fromkeys(line for of in one["readouts"].values() if of for line in of["limitations"]):
            typer.echo(f"- {sentence}")


def _means_of(readout: Mapping[str, Any]) -> dict[str, str]:
    """Both means of a readout, each with its interval over seeds."""
    means = ("relative", "corrected")
    intervals = readout.get("intervals", {})
    return {name: estimated({**(intervals.get(name) or {}), "value": readout.get(name)}) for name in means}
