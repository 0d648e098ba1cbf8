"""Speed of deltacompose against the same work without each lever, and against peft, on this machine's device.

    make speed                                                   # all, half an hour by estimate
    OMP_NUM_THREADS=1 python studies/speed/speed.py --only steps matrix --rounds 7
    OMP_NUM_THREADS=1 python studies/speed/speed.py --budget 300  # begins nothing new after five minutes
    python studies/speed/speed.py --list                         # names of all measurements
    python studies/speed/speed.py --table                        # the table, of what is there
    python studies/speed/speed.py --publish                      # the committed summary and docs/speed.md, from it

Arms of one row take turns in one run. A ratio is the other arm's time over ours: above 1 we are faster. On a CPU it is
of processor time, on a GPU of the clock; both are kept. What is in the summary is not measured again, so a run that was
interrupted goes on; `--again` measures anew. Writes `summary.json` and `summary.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from steps import DEVICE
from summary import Summary, rows_of, table, with_table
from timing import Row, device_name, machine

from deltacompose.study.machine import multiplies_bfloat16

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE / "summary.json"
PAGE = HERE.parents[1] / "docs" / "speed.md"


@dataclass(frozen=True)
class Measurement:
    """Something to measure: its group, its name, and the function that gives rows."""

    group: str
    name: str
    rows: Callable[[], Iterator[Row]]


def main() -> int:
    settings = _settings()
    path = settings.out / "summary.json"
    if settings.table:
        print(table(rows_of(path)), end="")
        return 0
    if settings.publish:
        return publish(path)
    with tempfile.TemporaryDirectory() as folder:
        chosen = [each for each in measurements(settings.rounds, Path(folder)) if _chosen(each, settings.only)]
        if settings.list:
            print("\n".join(each.name for each in chosen))
            return 0
        if not chosen:
            print(f"error: no measurement is named {' '.join(settings.only)}; --list names them", file=sys.stderr)
            return 2
        summary = Summary.opened(path, facts())
        carry_out(summary, chosen, settings.budget, settings.again)
    path.with_suffix(".md").write_text(table(summary.rows), encoding="utf-8")
    print(f"written: {path}, {path.with_suffix('.md')}")
    return 0


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="groups, or beginnings of names")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of each measurement; a whole study has two fifths"
    )
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="time to begin anything")
    parser.add_argument("--again", action="store_true", help="measurements that are in the summary, too")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="folder of the summary")
    parser.add_argument("--list", action="store_true", help="names of the measurements")
    parser.add_argument("--table", action="store_true", help="the table of the summary as it is")
    parser.add_argument("--publish", action="store_true", help="the summary as the one that the documentation shows")
    return parser.parse_args()


def _chosen(each: Measurement, only: list[str]) -> bool:
    return not only or any(each.group == name or each.name.startswith(name) for name in only)


def carry_out(summary: Summary, chosen: list[Measurement], budget: float, again: bool = False) -> None:
    """Measures what the summary lacks; begins nothing after so many seconds."""
    started = time.monotonic()
    for each in chosen:
        if summary.has(each.name) and not again:
            continue
        if time.monotonic() - started > budget:
            print(f"left out, the budget is used up: {each.name}", flush=True)
            continue
        began = time.monotonic()
        rows = attempted(each)
        summary.add(each.name, rows)
        for row in rows:
            shown = f"{row['value']:.3g} {row['unit']}" if "value" in row else row["reason"]
            print(f"{each.name}: {row.get('lever', '')} {row.get('precision', '')}: {shown}", flush=True)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)


def attempted(each: Measurement) -> list[Row]:
    """The rows of a measurement with the machine's state; one with the reason where it fails."""
    before = machine()
    if "bfloat16" in each.name and not multiplies_bfloat16(DEVICE):
        return [{"reason": "this processor has no instructions for bfloat16"}]
    try:
        return [{**row, **before} for row in each.rows()]
    except Exception as error:
        return [{"reason": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"}]


def publish(path: Path, page: Path = PAGE, published: Path = PUBLISHED) -> int:
    """Copies a summary to where it is committed, and puts its table on the page."""
    if not path.exists():
        print(f"error: {path} is missing; run `make speed` first", file=sys.stderr)
        return 2
    published.write_bytes(path.read_bytes())
    page.write_text(with_table(page.read_text(encoding="utf-8"), rows_of(published)), encoding="utf-8")
    print(f"written: {published}, {page}")
    return 0


def facts() -> Row:
    """What a summary is of."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {"device": device_name(), "threads": torch.get_num_threads(), "commit": commit.stdout.strip(), **versions}


def measurements(rounds: int, folder: Path) -> list[Measurement]:
    """Everything that is measured, the most telling first."""
    import costs
    import levers
    from matrix import transfer_matrix
    from whole import whole_study

    few = max(1, rounds * 2 // 5)
    known = [
        *(
            Measurement("steps", f"steps/{shape}/{bank}/{batch}/{precision}",
                        partial(levers.against_bare_loop, shape, bank, batch, precision, rounds))
            for precision in (("float32", "bfloat16") if torch.cuda.is_available() else ("float32",))
            for shape in levers.ALL for bank, batches in ((1, (4, 8, 16)), (8, (4, 16))) for batch in batches
        ),
        *(
            Measurement("study", f"study/{shape}", partial(whole_study, shape, folder, few))
            for shape in ("embedded", "t5-small")
        ),
        *(() if multiplies_bfloat16(DEVICE) else (Measurement("study", "study/bfloat16", partial(iter, ())),)),
        *(
            Measurement("matrix", f"matrix/{shape}/{own}/{peer}",
                        partial(transfer_matrix, shape, own, peer, max(2, few)))
            for shape in ("tiny-t5", "t5-small")
            for own, peer in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))
        ),
        *(
            Measurement("levers", f"levers/prefix/{shape}",
                        partial(levers.prefix_on_and_off, shape, 8, "float32", rounds))
            for shape in ("tiny-t5", "t5-small", "gpt2-like")
        ),
        *(
            Measurement("levers", f"levers/{name}/{shape}", partial(function, shape, *sizes, "float32", rounds))
            for shape in ("tiny-t5", "embedded")
            for name, function, sizes in (
                ("bank", levers.bank_on_and_off, (8, 4)), ("flat", levers.flat_on_and_off, (1, 4)),
                ("flat8", levers.flat_on_and_off, (8, 4)), ("buckets", levers.buckets_on_and_off, (16,)),
                ("sources", levers.banked_evaluation, (8,)),
            )
        ),
        *(
            Measurement("levers", f"levers/first/{shape}", partial(levers.best_first, shape, "float32", rounds))
            for shape in ("tiny-t5", "gpt2-like")
        ),
        *(
            Measurement("levers", f"levers/bfloat16/{shape}", partial(levers.half_precision, shape, 8, 4, rounds))
            for shape in ("embedded", "t5-small")
        ),
        *(
            Measurement("roofline", f"roofline/{shape}/{bank}/{precision}",
                        partial(costs.roofline, shape, bank, 8, precision, rounds))
            for shape in ("tiny-t5", "embedded", "t5-small") for bank in (1, 8) for precision in ("float32", "bfloat16")
        ),
        Measurement("growth", "growth", partial(costs.growth, folder, few)),
        Measurement("latency", "latency", partial(costs.latencies, "embedded", "float32", rounds)),
    ]  # fmt: skip
    return known


if __name__ == "__main__":
    sys.exit(main())
