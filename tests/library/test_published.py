"""Recommendations on the published prompt matrices, where they are at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data" / "prompt_transferability"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the published matrices are not in {DATA}")
@pytest.mark.parametrize(("name", "popular", "random"), [("Roberta", 0.937, 0.916), ("T5Small", 0.843, 0.825)])
def test_leave_one_target_out_is_done_by_the_command(name, popular, random):
    words = ["recommend", "--evaluate", "--scores", DATA / f"zeroshot_{name}.csv"]
    words += ["--prompts", DATA / f"prompts_{name}.npz", "--categories", DATA / "categories.json", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", "from deltacompose.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    strategies = json.loads(done.stdout)["strategies"]
    assert strategies["most popular source"]["ndcg"]["value"] == pytest.approx(popular, abs=0.02)
    assert strategies["random source"]["ndcg"]["value"] == pytest.approx(random, abs=0.005)
    assert strategies["oracle"]["ndcg"]["value"] == pytest.approx(1)
    assert strategies["oracle"]["regret_at_1"]["value"] == 0
    assert strategies["model"]["ndcg"]["value"] > random - 0.02
