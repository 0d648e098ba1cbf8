"""How many times as long a study took at an earlier commit as it takes now, on this machine, in turns.

    OMP_NUM_THREADS=1 python studies/speed/before_after.py studies/quickstart.yaml --before ee93e58 --rounds 2

Both commits carry out the study and draw its report as `make study` does, each from a work tree of its own, with this
interpreter and its libraries, into a new store; each has a cache folder that it keeps over the rounds. Writes the
seconds of the clock and of the processor (of all processes) to `before_after.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import machine

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from deltacompose.cli import main; main()"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file, as it is in both commits")
    parser.add_argument("--before", default="ee93e58", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="folder of the file")
    settings = parser.parse_args()
    study = settings.study.resolve().relative_to(ROOT)
    state = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = {"before": tree(settings.before, folder), "after": ROOT}
        try:
            times: dict[str, list[dict[str, float]]] = {arm: [] for arm in trees}
            for number in range(settings.rounds):
                for arm in list(trees)[:: 1 if number % 2 else -1]:
                    times[arm].append(
                        carried_out(trees[arm], study, folder / f"{arm}-{number}", folder / f"cache-{arm}")
                    )
                    print(arm, times[arm][-1], flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", trees["before"]], cwd=ROOT, check=True)
    ratios = {
        clock: [a[clock] / b[clock] for a, b in zip(times["before"], times["after"], strict=True)]
        for clock in ("wall", "cpu")
    }
    document = {"study": str(study), "before": settings.before, **state, "seconds": times, "ratios": ratios}
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "before_after.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for clock, values in ratios.items():
        reach = f"{min(values):.2f} to {max(values):.2f}, n = {len(values)}"
        print(f"{study}: {settings.before} takes {statistics.median(values):.2f} times as long ({clock}; {reach})")
    return 0


def tree(commit: str, folder: Path) -> Path:
    """A work tree of a commit."""
    place = folder / "tree"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", place, commit], cwd=ROOT, check=True)
    return place


def carried_out(root: Path, study: Path, store: Path, cache: Path) -> dict[str, float]:
    """Seconds of the run and the report of a study by the code of a work tree."""
    paths = [root, root / "plugins"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)), "DELTACOMPOSE_CACHE": str(cache), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for words in (["run"], ["report"]):
        command = [sys.executable, "-c", COMMAND, *words, str(study), "--store", str(store)]
        subprocess.run(
            command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - started, "cpu": used}


if __name__ == "__main__":
    sys.exit(main())
