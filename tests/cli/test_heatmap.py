"""A published matrix to a camera-ready PDF: three lines of Python, one command line."""

import json

import pytest
from typer.testing import CliRunner

import deltacompose as dc
from deltacompose.cli import app
from deltacompose.errors import BadInput

SCORES = """source,movies,tweets,nli,entailment
movies,90,78,52,49
tweets,81,85,50,51
nli,58,55,80,71
entailment,55,52,69,74
chance,50,50,33,50
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "matrix.csv").write_text(SCORES)
    shares = [line.split(",") for line in SCORES.splitlines()]
    lines = [shares[0], *([name, *(f"{float(cell) / 100:g}" for cell in cells)] for name, *cells in shares[1:])]
    (tmp_path / "shares.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    return tmp_path


def command(*words):
    result = CliRunner().invoke(app, ["heatmap", *map(str, words)], catch_exceptions=False, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


def test_three_lines_of_python(folder, monkeypatch):
    monkeypatch.chdir(folder)
    import deltacompose as dc

    with dc.style("icml"):
        dc.heatmap("shares.csv", "figure.pdf", value="corrected")
    content = (folder / "figure.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content
    assert b"/MediaBox [ 0 0 234 " in content or b"/MediaBox [0 0 234 " in content


def test_published_percentages_need_no_division(folder):
    with dc.style("icml"):
        dc.heatmap(folder / "matrix.csv", folder / "python.pdf", value="corrected", percent=True)
    command(folder / "matrix.csv", folder / "figure.pdf", "--value", "corrected", "--style", "icml", "--percent")
    assert (folder / "figure.pdf").read_bytes() == (folder / "python.pdf").read_bytes()
    dc.heatmap(folder / "shares.csv", folder / "shares.pdf", value="corrected", style="icml", percent=True)
    assert (folder / "figure.pdf").read_bytes() == (folder / "shares.pdf").read_bytes()
    with pytest.raises(BadInput, match=r"found the score 90, .*\(a heatmap takes percent=True"):
        dc.heatmap(folder / "matrix.csv")


def test_one_command_line_draws_the_same(folder):
    said = command(folder / "shares.csv", folder / "figure.pdf", "--value", "corrected", "--style", "icml")
    assert said.strip() == str(folder / "figure.pdf")
    dc.heatmap(folder / "shares.csv", folder / "python.pdf", value="corrected", style="icml")
    assert (folder / "figure.pdf").read_bytes() == (folder / "python.pdf").read_bytes()


def test_every_setting_of_a_heatmap_has_an_option(folder):
    options = ["--percent", "--order", "cluster", "--title", "T", "--limits", "-0.5,1", "--annotate", "value"]
    more = ["--digits", "1", "--columns", "2", "--width", "4", "--no-baselines", "--seeds", "5", "--name", "lora"]
    answer = json.loads(command(folder / "matrix.csv", folder / "f.svg", *options, *more, "--json"))
    assert answer["value"] == "corrected"
    text = (folder / "f.svg").read_text()
    assert 'width="288pt"' in text
    assert command(folder / "shares.csv", folder / "g.png", "--transpose", "--value", "score")
    assert command(folder / "shares.csv", folder / "h.png", "--dendrogram", "--value", "score")


def test_one_table_minus_another(folder):
    words = [folder / "shares.csv", folder / "d.pdf", "--minus", folder / "shares.csv", "--json"]
    found = json.loads(command(*words))["difference"]
    assert (found["mean"], found["tested"]) == (0.0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limits", "1"], "--limits '1' is not two numbers"),
        (["--limits", "1,0"], "two rising numbers"),
        (["--style", "iclm"], "no venue 'iclm'; did you mean 'icml'"),
        (["--value", "ratio"], "no heatmap value 'ratio'"),
        (["--annotate", "all"], "no form of cells 'all'"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused_with_a_sentence(words, message, folder):
    with pytest.raises(BadInput, match=message):
        command(folder / "shares.csv", folder / "f.pdf", *words)
    assert not (folder / "f.pdf").exists()
