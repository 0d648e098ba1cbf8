"""Draws the gallery of figures: `python docs/gallery.py` writes `docs/gallery.md` and `docs/images/gallery/*.png`.

Every figure is drawn from results that `studies/` stores, so nothing is trained and no model is loaded. The page shows
the body of each function below as the code of its figure.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE, IMAGES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "images" / "gallery"
TRANSFER = ROOT / "studies" / "which_tasks_help" / "lora.transfer.csv"
TOGETHER = ROOT / "studies" / "at_once" / "interaction.json"
IN_SEQUENCE = ROOT / "studies" / "in_sequence" / "interaction.json"
INTRODUCTION = """# Gallery

The figures of deltacompose, each with its code. `python docs/gallery.py` in a checkout draws them again from results
that `studies/` stores: transfer of LoRA deltas among twelve tasks (`studies/which_tasks_help.md`), and combinations of
three methods (`studies/at_once.md`, `studies/in_sequence.md`). `deltacompose report STUDY` draws such figures of your
own study.
"""


def heatmap_corrected(path: Path) -> None:
    """Chance-corrected transfer: 1 is what the target's own delta reaches, 0 is chance; baselines below the line."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import read

    matrix = read(TRANSFER)
    dc.heatmap(matrix, path, value="corrected")


def heatmap_clustered(path: Path) -> None:
    """Relative performance, as in Ding et al. 2023, with tasks that transfer alike next to each other."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import read

    matrix = read(TRANSFER)
    dc.heatmap(matrix, path, value="relative", order="cluster")


def heatmap_marked(path: Path) -> None:
    """Lift over the untouched backbone; frames mark cells that differ from it at a false discovery rate of 5 %."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import marks, read

    matrix = read(TRANSFER)
    dc.heatmap(matrix, path, value="lift", marks=marks(matrix, "untouched"))


def heatmap_and_dendrogram(path: Path) -> None:
    """The same with the dendrogram that orders the tasks."""
    import deltacompose as dc

    dc.figures.clustermap(TRANSFER, path, value="corrected")


def heatmap_column(path: Path) -> None:
    """One column of a two-column paper, with another colour map."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import read

    matrix = read(TRANSFER)
    dc.heatmap(matrix, path, value="corrected", style=dc.style("icml", diverging="PuOr"))


def graph_of_neighbours(path: Path) -> None:
    """Each task with its two nearest neighbours; the width of an edge is the corrected transfer."""
    import deltacompose as dc
    from deltacompose.analysis.transfer import read

    graph = dc.task_graph(read(TRANSFER), kind="knn", k=2, value="corrected")
    dc.figures.graph(graph, path)


def graph_with_stability(path: Path) -> None:
    """The maximum spanning tree, with the share of bootstrap resamples of the seeds that contain each edge."""
    import deltacompose as dc
    from deltacompose.analysis.graph import edge_stability
    from deltacompose.analysis.transfer import read

    matrix = read(TRANSFER)
    graph = dc.task_graph(matrix, kind="mst", value="relative")
    dc.figures.graph(graph, path, stability=edge_stability(matrix, graph, draws=500))


def lifts(path: Path) -> None:
    """Score of each task's own delta minus the untouched backbone's, with 95 % intervals."""
    import deltacompose as dc

    dc.figures.lift(TRANSFER, path)


def effects(path: Path) -> None:
    """Three methods alone and together: Shapley values and marginals (left), main effects and interactions (right)."""
    import deltacompose as dc

    record = json.loads(TOGETHER.read_text())[0]
    dc.figures.factorial(record, path)


def orders(path: Path) -> None:
    """The same methods in sequence: the score after each stage, a line per order."""
    import deltacompose as dc

    record = json.loads(IN_SEQUENCE.read_text())[0]
    dc.figures.orders(record["orders"][0], path)


FIGURES: tuple[Callable[[Path], None], ...] = (
    heatmap_corrected,
    heatmap_clustered,
    heatmap_marked,
    heatmap_and_dendrogram,
    heatmap_column,
    graph_of_neighbours,
    graph_with_stability,
    lifts,
    effects,
    orders,
)


def draw(figure: Callable[[Path], None], path: Path) -> None:
    """Draws a figure for the page: 1400 pixels wide at most and in 255 colours, a fifth of the size for print."""
    figure(path)
    with Image.open(path) as image:
        image.thumbnail((1400, 2000))
        small = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def code_of(figure: Callable[[Path], None]) -> str:
    """The body of a function without its docstring, with file names in place of paths."""
    body = inspect.getsource(figure).partition('"""\n')[2]
    code = textwrap.dedent(body).strip()
    for name, value in (("TRANSFER", TRANSFER), ("TOGETHER", TOGETHER), ("IN_SEQUENCE", IN_SEQUENCE)):
        text = f'"{value.relative_to(ROOT).as_posix()}"'
        code = code.replace(f"{name}.read_text()", f"Path({text}).read_text()").replace(name, text)
    return code.replace("path", f'"{figure.__name__}.pdf"')


def page() -> str:
    """The page as Markdown."""
    sections = [
        f"## {figure.__name__.replace('_', ' ').capitalize()}\n\n{inspect.getdoc(figure)}\n\n"
        f"![{figure.__name__}](images/gallery/{figure.__name__}.png)\n\n```py\n{code_of(figure)}\n```\n"
        for figure in FIGURES
    ]
    return "\n".join([INTRODUCTION, *sections])


def main(arguments: list[str] | None = None) -> int:
    """Writes the page and draws every figure, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="names of figures; all by default")
    names = parser.parse_args(arguments).figures
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
