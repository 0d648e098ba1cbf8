"""A sample of the damaged and hostile inputs that `python tests/hostile_inputs.py` runs ends as each of them should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = Path(__file__).parent / "hostile_inputs.py"


@pytest.mark.slow
def test_a_sample_of_hostile_inputs_is_answered_by_one_sentence_each():
    words = [sys.executable, str(HOSTILE), "--quick", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    [whole] = [row for row in found["rows"] if row["kind"] == "all"]
    assert whole["inputs"] > 25
    assert whole["tracebacks"] == whole["hangs"] == whole["otherwise"] == 0
