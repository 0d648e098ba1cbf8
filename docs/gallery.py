"""Draws the gallery of figures: `python docs/gallery.py` writes `docs/gallery.md` and `docs/images/gallery/*.png`.

Every figure is drawn from results that `studies/` stores, so nothing is trained and no model is loaded. The page shows
the body of each function below as the code of its figure. `python docs/gallery.py --collect STORE` writes the results
of
`studies/gallery.yaml` from its store into `studies/gallery/`.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE, IMAGES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "images" / "gallery"
STUDIES = ROOT / "studies"
LORA = STUDIES / "which_tasks_help" / "lora.transfer.csv"
ADAPTER = STUDIES / "which_tasks_help" / "adapter.transfer.csv"
PREFIX = STUDIES / "which_tasks_help" / "prefix.transfer.csv"
PROMPT = STUDIES / "which_tasks_help" / "prompt.transfer.csv"
ADVICE = STUDIES / "which_tasks_help" / "lora.recommend.json"
DECODER = STUDIES / "which_tasks_help_generative" / "lora.transfer.csv"
TOGETHER = STUDIES / "at_once" / "interaction.json"
IN_SEQUENCE = STUDIES / "in_sequence" / "interaction.json"
PERFORMANCE = STUDIES / "performance" / "interaction.json"
DIMENSIONS = STUDIES / "intrinsic_dimension" / "dimension.json"
PREDICTION = STUDIES / "which_tasks_help" / "lora.predict.csv"
HISTORY = STUDIES / "gallery" / "history.csv"
SIMILARITY = STUDIES / "gallery" / "similarity.delta_cosine.csv"
SPECTRUM = STUDIES / "gallery" / "subspace.json"
FILES = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, Path) and value.suffix in (".csv", ".json")
}
"""Files of results by the name that stands for them below."""
INTRODUCTION = """# Gallery

Every function of `deltacompose.figures`, with its code. `python docs/gallery.py` in a checkout draws the figures again
from results that `studies/` stores. `deltacompose report STUDY` draws such figures of your own study.

The results are

* transfer among twelve tasks with four methods, three seeds (`studies/which_tasks_help.md`), and with LoRA on a decoder
  (`studies/which_tasks_help_generative.md`);
* combinations of three methods at once and in sequence (`studies/at_once.md`, `studies/in_sequence.md`), six
  methods with their cost (`studies/performance.md`), a search for an intrinsic dimension
  (`studies/intrinsic_dimension.md`);
* a small study of six tasks, two seeds and 24 steps (`studies/gallery.md`), too little to conclude anything from.
"""


def heatmap(path: Path) -> None:
    """Chance-corrected transfer: 1 is what the target's own delta reaches, 0 is chance; baselines below the line."""
    import deltacompose as dc

    dc.heatmap(LORA, path, value="corrected")


def heatmap_clustered(path: Path) -> None:
    """Relative performance, as in Ding et al. 2023, with tasks that transfer alike next to each other."""
    import deltacompose as dc

    dc.heatmap(LORA, path, value="relative", order="cluster")


def heatmap_marked(path: Path) -> None:
    """Lift over the untouched backbone. A star marks cells that differ from it at a false discovery rate of 5 % (here
    by Benjamini and Hochberg's rule; by the stricter default, Benjamini and Yekutieli's, no cell is marked)."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import marks, read

    matrix = read(LORA)
    dc.heatmap(matrix, path, value="lift", marks=marks(matrix, "untouched").bh)


def heatmap_column(path: Path) -> None:
    """One column of a two-column paper, with another colour map."""
    import deltacompose as dc

    style = dc.style("icml", diverging="PuOr")
    dc.heatmap(LORA, path, value="corrected", style=style)


def clustermap(path: Path) -> None:
    """A heatmap with the dendrogram that orders the tasks."""
    import deltacompose as dc

    dc.figures.clustermap(LORA, path, value="corrected")


def panels(path: Path) -> None:
    """Several matrices on one scale: here four methods."""
    import deltacompose as dc

    matrices = {"lora": LORA, "adapter": ADAPTER, "prefix": PREFIX, "prompt": PROMPT}
    dc.figures.panels(matrices, path, value="corrected")


def difference(path: Path) -> None:
    """One matrix minus another, with the half-width of each cell's 95 % interval (paired by seed)."""
    import deltacompose as dc

    dc.figures.difference(LORA, ADAPTER, path, value="score")


def lift(path: Path) -> None:
    """Score of each task's own delta minus the untouched backbone's, with 95 % intervals."""
    import deltacompose as dc

    dc.figures.lift({"lora": LORA, "prompt": PROMPT}, path)


def reliability(path: Path) -> None:
    """How far maps of transfer repeat: each off-diagonal cell by one half of the seeds against the other half."""
    import deltacompose as dc

    dc.figures.reliability({"lora": LORA, "adapter": ADAPTER}, path, value="corrected")


def graph(path: Path) -> None:
    """Each task with its two nearest neighbours; the width of an edge is the corrected transfer."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import read

    tasks = dc.task_graph(read(LORA), kind="knn", k=2, value="corrected")
    dc.figures.graph(tasks, path)


def graph_with_stability(path: Path) -> None:
    """The maximum spanning tree, with the share of bootstrap resamples of the seeds that contain each edge."""
    import deltacompose as dc
    from deltacompose.analysis.graph import edge_stability
    from deltacompose.analysis.transfer import read

    matrix = read(LORA)
    tree = dc.task_graph(matrix, kind="mst", value="relative")
    dc.figures.graph(tree, path, stability=edge_stability(matrix, tree, draws=500))


def similarity(path: Path) -> None:
    """Similarity of tasks with its dendrogram: cosines of the deltas' ΔW, mean over two seeds."""
    import deltacompose as dc

    dc.figures.similarity(SIMILARITY, path)


def similarity_transfer(path: Path) -> None:
    """Transfer against that similarity, a point per ordered pair of the six tasks. The p-value permutes tasks. The
    similarity is of LoRAs of 24 steps (`studies/gallery.md`), the transfer of LoRAs of 60 steps
    (`studies/which_tasks_help.md`)."""
    import deltacompose as dc

    dc.figures.similarity_transfer(SIMILARITY, LORA, path, value="corrected")


def prediction(path: Path) -> None:
    """How well each measure of similarity ranks the sources of a target; dashed: a random ranking, dotted: popularity.
    The record is that of `deltacompose predict STUDY --json`, here from the table that `--out` writes."""
    import pandas as pd

    import deltacompose as dc
    from deltacompose.analysis.transfer import read

    matrix = read(LORA)
    measures = pd.read_csv(PREDICTION).set_index("measure").to_dict("index")
    record = {"composition": "lora", "tasks": matrix.tasks, "seeds": len(matrix.seeds), "measures": measures}
    dc.figures.prediction(record, path)


def recommendation(path: Path) -> None:
    """How good recommended sources are on tasks left out in turn: the record of
    `deltacompose recommend --evaluate --scores studies/which_tasks_help/lora.transfer.csv --json`."""
    import deltacompose as dc

    dc.figures.recommendation(ADVICE, path)


def spectrum(path: Path) -> None:
    """The share of all deltas that the first components hold, against random directions of the same norms."""
    import deltacompose as dc

    dc.figures.spectrum(SPECTRUM, path)


def dimension(path: Path) -> None:
    """Intrinsic dimension: score by the number of trained dimensions, and the least that reaches 90 % of full tuning.
    Rows are three projections on one task; tasks are drawn in the same way."""
    import deltacompose as dc

    dc.figures.dimension(DIMENSIONS, path)


def convergence(path: Path) -> None:
    """The development score during training, with the range over seeds."""
    import deltacompose as dc

    dc.figures.convergence(HISTORY, path)


def factorial(path: Path) -> None:
    """Three methods alone and together: Shapley values and marginals (left), main effects and interactions (right)."""
    import deltacompose as dc

    dc.figures.factorial(TOGETHER, path)


def orders(path: Path) -> None:
    """The same methods in sequence: the score after each stage, a line per order."""
    import json
    from pathlib import Path

    import deltacompose as dc

    [record] = json.loads(Path(IN_SEQUENCE).read_text())
    dc.figures.orders(record["orders"][0], path)


def cost(path: Path) -> None:
    """Mean score against the number of trained parameters, with the Pareto front."""
    import json
    from pathlib import Path

    import deltacompose as dc

    [record] = json.loads(Path(PERFORMANCE).read_text())
    rows = [
        {"composition": name, "score": record["means"][name] / record["scale"], "parameters": spent["parameters"]}
        for name, spent in record["efficiency"].items()
    ]
    dc.figures.cost(rows, path)


def scale(path: Path) -> None:
    """Score against the size of the backbone: LoRA on each task that a decoder of 15.2 million parameters and an
    encoder of 22.7 million were trained on. The two differ in more than size, so no law can be read from two points."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import frame, read

    sizes = {15.2e6: frame(read(DECODER)), 22.7e6: frame(read(LORA))}
    shared = set.intersection(*(set(table.target) for table in sizes.values()))
    rows = [
        {"composition": row.composition, "size": size, "score": row.score}
        for size, table in sizes.items()
        for row in table[(table.source == table.target) & table.target.isin(shared)].itertuples()
    ]
    dc.figures.scale(rows, path)


FIGURES: tuple[Callable[[Path], None], ...] = (
    heatmap,
    heatmap_clustered,
    heatmap_marked,
    heatmap_column,
    clustermap,
    panels,
    difference,
    lift,
    reliability,
    graph,
    graph_with_stability,
    similarity,
    similarity_transfer,
    prediction,
    recommendation,
    spectrum,
    dimension,
    convergence,
    factorial,
    orders,
    cost,
    scale,
)


def draw(figure: Callable[[Path], None], path: Path) -> None:
    """Draws a figure for the page: 1400 pixels wide at most and in 255 colours, a fifth of the size for print."""
    figure(path)
    with Image.open(path) as image:
        image.thumbnail((1400, 2000))
        small = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def code_of(figure: Callable[[Path], None]) -> str:
    """The body of a function without its docstring, with the files that it reads and the name of its figure."""
    body = inspect.getsource(figure).partition('"""')[2].partition('"""\n')[2]
    code = re.sub(r"\bpath\b", f'"{figure.__name__}.pdf"', textwrap.dedent(body).strip())
    imports, drawing = re.fullmatch(r"((?:(?:import|from) [^\n]*\n|\n)+)(.*)", code, re.S).groups()
    files = [
        f'{name} = "{value.relative_to(ROOT).as_posix()}"'
        for name, value in FILES.items()
        if re.search(rf"\b{name}\b", drawing)
    ]
    return imports + "\n".join([*files, drawing])


def page() -> str:
    """The page as Markdown."""
    sections = [
        f"## {figure.__name__.replace('_', ' ').capitalize()}\n\n{inspect.getdoc(figure)}\n\n"
        f"![{figure.__name__}](images/gallery/{figure.__name__}.png)\n\n```py\n{code_of(figure)}\n```\n"
        for figure in FIGURES
    ]
    return "\n".join([INTRODUCTION, *sections])


def collect(store: Path, folder: Path) -> None:
    """Writes the results that the gallery draws of the store of `studies/gallery.yaml`."""
    import pandas as pd
    from typer.testing import CliRunner

    import deltacompose as dc
    from deltacompose.analysis.interaction.convergence import history
    from deltacompose.cli import app

    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"composition": "lora", "unit": record["spec"]["task"], "seed": record["spec"]["seed"], "metric": "accuracy",
         "step": point.step, "seconds": point.seconds, "score": point.score}
        for record in dc.records(store)
        if record["kind"] == "train" and record["spec"]["composition"] == "lora"
        for point in history(record["result"].get("history", ()))
    ]  # fmt: skip
    table = pd.DataFrame(rows).sort_values(["unit", "seed", "step"])
    table.to_csv(folder / HISTORY.name, index=False, float_format="%.4g")

    study = str(STUDIES / "gallery.yaml")

    def answer(*words: str) -> str:
        return CliRunner().invoke(app, [*words, "--composition", "lora"], catch_exceptions=False).stdout

    (folder / SPECTRUM.name).write_text(answer("subspace", study, "--store", str(store), "--json"), encoding="utf-8")
    answer("similarity", study, "--store", str(store), "--measure", "delta_cosine", "--out", str(folder))
    (folder / "similarity.json").unlink()


def main(arguments: list[str] | None = None) -> int:
    """Writes the page and draws every figure, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="names of figures; all by default")
    parser.add_argument("--collect", type=Path, metavar="STORE", help="store of studies/gallery.yaml to collect from")
    options = parser.parse_args(arguments)
    if options.collect:
        collect(options.collect, HISTORY.parent)
    names = options.figures
    if strange := set(names) - {figure.__name__ for figure in FIGURES}:
        parser.error(f"no figure {sorted(strange)[0]!r}; figures: {', '.join(figure.__name__ for figure in FIGURES)}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:
        if not names or figure.__name__ in names:
            draw(figure, IMAGES / f"{figure.__name__}.png")
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
