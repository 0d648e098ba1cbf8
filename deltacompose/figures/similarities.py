"""Heatmaps with a dendrogram: similarity of tasks, and transfer in the order of its clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster import hierarchy

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.transfer.published import matrix_of
from deltacompose.analysis.transfer.tidy_tables import table_of
from deltacompose.errors import BadInput
from deltacompose.figures.frames import check_path, figure_of, saved
from deltacompose.figures.heatmap_values import cells, linkage_of, plain_cells, profiles_of
from deltacompose.figures.heatmaps import Options, drawn, inside, title_of
from deltacompose.figures.labels import label
from deltacompose.figures.rounding import counted
from deltacompose.figures.style import styled
from deltacompose.figures.venues import Style, style_of


def clustermap(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    value: str = "relative",
    limits: tuple[float, float] | None = None,
    annotate: str = "auto",
    title: str | None = None,
) -> Axes:
    """Draw a transfer matrix with tasks that transfer alike side by side, and the dendrogram that orders them.

    Average linkage of each task's row and column together; unknown cells count as the mean of their column, and values
    beyond ±2 as ±2. Only tasks that are both source and target are drawn.

    Args:
        data: what `heatmap` takes; three tasks at least.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        value, limits, annotate, title: as of `heatmap`.

    Raises:
        BadInput: fewer than three tasks, or what `heatmap` refuses.
    """
    check_path(path)
    square, look = matrix_of(data).square(), style_of(style)
    if len(square.tasks) < 3:
        raise BadInput(f"clusters need at least 3 tasks that are source and target, found {len(square.tasks)}")
    given = cells(square, value, "given")
    tree = linkage_of(profiles_of(given.mean))
    order = [square.tasks[leaf] for leaf in hierarchy.leaves_list(tree)]
    clustered = square.selected(order, order)
    shown = cells(clustered, value, "given")
    options = Options(title, limits, annotate)
    head = title_of(clustered, shown, "cluster", options)
    with styled(look):
        if ax is None:
            axes = drawn(shown, square.categories, look, head, options, tree=tree).axes[0]
        else:
            axes = inside(ax, shown, square.categories, look, head, options, tree=tree)
        saved(figure_of(axes), path)
        return axes


def similarity(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    categories: dict[str, str] | None = None,
    limits: tuple[float, float] | None = None,
    annotate: str = "auto",
    title: str | None = None,
) -> Axes:
    """Draw the similarity of tasks, clustered, with its dendrogram.

    Average linkage of the mean of both directions; for a measure that is a distance, of the distance itself.

    Args:
        data: a comparison of `similarity.compare`, a square DataFrame of similarities (greater is nearer), or a file.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        categories: category of each task.
        limits, annotate, title: as of `heatmap`.

    Raises:
        BadInput: a table that is not square, or fewer than three tasks.
    """
    check_path(path)
    near, look = frame_of(data), style_of(style)
    if len(near) < 3:
        raise BadInput(f"clusters need at least 3 tasks, found {len(near)}")
    values = near.to_numpy(dtype=float)
    tree = _tree(values)
    order = hierarchy.leaves_list(tree)
    spread = getattr(data, "values", None) if hasattr(data, "measure") else None
    sd = np.std(spread, axis=0, ddof=1) if spread is not None and len(spread) > 1 else None
    pick = np.ix_(order, order)
    names = tuple(str(near.index[i]) for i in order)
    measure = str(near.attrs.get("measure", "similarity"))
    shown = plain_cells(
        names,
        names,
        values[pick],
        "similarity",
        sd=None if sd is None else sd[pick],
        label=measure,
        spread_of="sd over seeds",
        zero=bool(np.nanmin(values) < -0.05),
    )
    seeds = len(getattr(data, "seeds", ())) or 0
    facts = (
        f"mean over {counted(seeds, 'seed')}"
        if seeds > 1
        else "1 seed, so no spread is known"
        if seeds
        else "spread not given"
    )
    named = "similarity of tasks" + (f": {measure}" if measure != "similarity" else "")
    head = (label(title if title is not None else named, 200), f"{facts}; average linkage")
    options = Options(title, limits, annotate)
    with styled(look):
        kinds = categories if categories and set(names) <= set(categories) else {}
        if ax is None:
            axes = drawn(shown, kinds, look, head, options, ends=("task", "task"), tree=tree).axes[0]
        else:
            axes = inside(ax, shown, kinds, look, head, options, ends=("task", "task"), tree=tree)
        saved(figure_of(axes), path)
        return axes


def _tree(near: Floats) -> Floats:
    """Average linkage of the greatest similarity minus each, both directions averaged."""
    both = (near + near.T) / 2
    off = ~np.eye(len(near), dtype=bool)
    both = np.where(np.isnan(both), np.nanmin(both[off]), both)
    far = both[off].max() - both
    np.fill_diagonal(far, 0.0)
    upper = np.triu_indices(len(near), 1)
    return np.asarray(hierarchy.linkage(far[upper], method="average", optimal_ordering=True))


def frame_of(data: Any) -> pd.DataFrame:
    """Similarities of tasks with names on both axes, greater is nearer; the measure's name is in `attrs`.

    Raises:
        BadInput: a table that is not square over the same names, or cells that are not numbers.
    """
    if hasattr(data, "nearness"):
        frame: pd.DataFrame = data.nearness()
        distance = getattr(data.measure, "distance", False)
        frame.attrs["measure"] = f"minus {data.measure.name}" if distance else str(data.measure.name)
        return frame
    if isinstance(data, str | Path):
        table = table_of(Path(data))
        data = table.set_index(table.columns[0])
        data.attrs["measure"] = "similarity"
    if not isinstance(data, pd.DataFrame):
        raise BadInput(f"expected similarities as a comparison, a DataFrame or a file, found a {type(data).__name__}")
    names = list(map(str, data.index))
    if sorted(names) != sorted(map(str, data.columns)) or len(set(names)) < len(names):
        raise BadInput("a table of similarities has the same names, each once, at its rows and its columns")
    frame = data.rename(index=str, columns=str).loc[names, names].apply(pd.to_numeric, errors="coerce")
    frame.attrs.update(data.attrs)
    return frame
