"""Time and memory of the analysis of ten thousand deltas of 300 000 parameters.

    OMP_NUM_THREADS=1 python studies/speed/ten_thousand_deltas.py

The deltas are made up: groups of ten, groups within families of a hundred, half of each delta noise. They are written
as 10 000 safetensors files, joined into one half-precision matrix (12 GB of disk for a while, 6 GB after), compared
exactly and by count-sketch, and made into a graph. Everything is deleted at the end.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from safetensors.numpy import save_file
from sklearn.metrics import adjusted_rand_score

from deltacompose.analysis.similarity import large_scale as large

GROUP, FAMILY = 10, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deltas", type=int, default=10_000)
    parser.add_argument("--parameters", type=int, default=300_000)
    parser.add_argument("--width", type=int, default=2048, help="of the count-sketch")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where there is room")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    given = parser.parse_args()
    room, needed = shutil.disk_usage(given.folder).free, 5 * given.deltas * given.parameters
    if room < needed:
        parser.error(f"{given.folder} has {room / 1e9:.0f} GB free; {needed / 1e9:.0f} GB are needed")
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="deltas-") as folder:
        found = measured(
            Path(folder), given.deltas, given.parameters, given.width, print if not given.json else _silent
        )
    print(json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found["findings"].items()))


def measured(folder: Path, deltas: int, parameters: int, width: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds and peak memory of every step, and what it found."""
    steps: list[dict[str, Any]] = []

    def timed(name: str, step: Callable[[], Any]) -> Any:
        start, cpu = time.perf_counter(), time.process_time()
        result = step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row = {"step": name, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        steps.append({**row, "peak_gib": peak})
        say(f"{name:<42} {row['seconds']:8.1f} s  {row['cpu_seconds']:8.1f} s of processor, peak {peak:.2f} GiB")
        return result

    paths = timed(
        "write the deltas (not part of the analysis)", lambda: dict(written(folder / "each", deltas, parameters))
    )
    stack = timed("join them into one matrix", lambda: large.collect(paths, folder / "stack", "float16"))
    shutil.rmtree(folder / "each")
    inner = timed("exact inner products of all pairs", lambda: large.inner_products(stack))
    spectrum = timed("spectrum", lambda: large.spectrum(inner))
    cosines = timed("exact cosines", lambda: large.cosines(inner))
    sketch = timed("count-sketch", lambda: large.sketch(stack, width))
    near, values = timed("nearest neighbours of the sketches", lambda: large.neighbours(sketch, GROUP - 1))
    graph = timed("graph", lambda: large.neighbour_graph(stack.names, near, values))
    parts = timed("communities (Louvain)", lambda: nx.community.louvain_communities(graph, seed=0))
    found = findings(cosines, near, values, parts)
    whole = {
        "deltas": deltas,
        "parameters": parameters,
        "width": width,
        "analysis_seconds": sum(s["seconds"] for s in steps[1:]),
    }
    return {
        **whole,
        "peak_gib": steps[-1]["peak_gib"],
        "steps": steps,
        "findings": {**whole, **found, "spectrum": spectrum},
    }


def written(folder: Path, deltas: int, parameters: int) -> Iterator[tuple[str, Path]]:
    """Each delta's name and file; those of one group stand together."""
    folder.mkdir()
    for first in range(0, deltas, GROUP):
        family = np.random.default_rng((1, first // FAMILY)).standard_normal(parameters, dtype=np.float32)
        generator = np.random.default_rng((2, first))
        group = generator.standard_normal(parameters, dtype=np.float32)
        for i in range(first, min(first + GROUP, deltas)):
            own = generator.standard_normal(parameters, dtype=np.float32)
            path = folder / f"{i:06d}.safetensors"
            save_file({"weights/delta": (0.01 * (0.5 * family + 0.5 * group + 0.7 * own)).astype(np.float16)}, path)
            yield f"{i:06d}", path


def findings(cosines: np.ndarray, near: np.ndarray, values: np.ndarray, parts: list[set[str]]) -> dict[str, float]:
    """How far the sketch agrees with what is exact, and with how the deltas were made."""
    np.fill_diagonal(cosines, -1)
    exact = np.concatenate(
        [np.argpartition(-rows, near.shape[1], axis=1)[:, : near.shape[1]] for rows in np.array_split(cosines, 50)]
    )
    hits = np.mean([len(set(a) & set(b)) for a, b in zip(near.tolist(), exact.tolist())]) / near.shape[1]
    error = values - np.take_along_axis(cosines, near, axis=1)
    part_of = {name: number for number, names in enumerate(parts) for name in names}
    family = [int(name) // FAMILY for name in part_of]
    return {
        "recall_of_neighbours": float(hits),
        "root_mean_square_error_of_cosines": float(np.sqrt(np.square(error).mean())),
        "communities": len(parts),
        "ari_of_communities_with_families": float(adjusted_rand_score(family, list(part_of.values()))),
        "ari_of_communities_with_groups": float(
            adjusted_rand_score([int(name) // GROUP for name in part_of], list(part_of.values()))
        ),
    }


def _silent(line: str) -> None:
    """Says nothing."""


if __name__ == "__main__":
    main()
