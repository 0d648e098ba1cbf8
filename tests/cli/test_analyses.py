"""The commands of analysis, on published matrices and prompts laid beside the project, and on files of our own."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from deltacompose.analysis.transfer.tidy_tables import read, read_scores, write
from deltacompose.cli import app
from deltacompose.errors import BadInput

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "prompt_transferability"
published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published data is not laid beside the project")
TASKS = ("ant", "bee", "cat", "dog", "elk")
KINDS = {"ant": "insect", "bee": "insect", "cat": "mammal", "dog": "mammal", "elk": "mammal"}


def run(*arguments: object) -> str:
    """What a command prints; what it raises is raised."""
    found = CliRunner().invoke(app, [str(one) for one in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def answer(*arguments: object) -> dict:
    return json.loads(run(*arguments, "--json"))


def of(backbone: str, *also: str) -> list[object]:
    """The options that name a published backbone's files."""
    files = {
        "scores": f"zeroshot_{backbone}.csv",
        "prompts": f"prompts_{backbone}.npz",
        "categories": "categories.json",
    }
    return [part for name in also for part in (f"--{name}", PUBLISHED / files[name])]


@pytest.fixture
def folder(tmp_path):
    """Scores, prompts and categories of five tasks of two kinds, near to each other within a kind."""
    generator = np.random.default_rng(0)
    near = np.array([[KINDS[s] == KINDS[t] for t in TASKS] for s in TASKS])
    scores = 0.5 + 0.2 * near + 0.02 * generator.random(near.shape)
    np.fill_diagonal(scores, 0.9)
    table = pd.DataFrame(scores, TASKS, TASKS)
    table.loc["random"] = 0.5
    table.to_csv(tmp_path / "scores.csv", index_label="source")
    centres = {kind: generator.normal(size=(3, 6)) for kind in set(KINDS.values())}
    prompts = {task: centres[KINDS[task]] + 0.3 * generator.normal(size=(3, 6)) for task in TASKS}
    np.savez(tmp_path / "prompts.npz", **prompts)
    (tmp_path / "categories.json").write_text(json.dumps(KINDS))
    return tmp_path


def given(folder: Path, *names: str) -> list[object]:
    files = {"scores": "scores.csv", "prompts": "prompts.npz", "categories": "categories.json"}
    return [part for name in names for part in (f"--{name}", folder / files[name])]


# -- known answers -----------------------------------------------------------------------------------------------------


@published
@pytest.mark.parametrize(
    ("backbone", "relative", "corrected", "asymmetry"),
    [("Roberta", (0.772, 0.562), (0.56, 0.03), 0.20), ("T5Small", (0.791, 0.480), (0.45, -0.23), 0.37)],
)
def test_transfer_gives_the_known_means_of_the_published_matrices(backbone, relative, corrected, asymmetry):
    found = answer("transfer", *of(backbone, "scores", "categories"), "--permutations", 999)
    assert (round(found["relative_same_category"], 3), round(found["relative_cross_category"], 3)) == relative
    assert (round(found["corrected_same_category"], 2), round(found["corrected_cross_category"], 2)) == corrected
    assert round(found["asymmetry"], 2) == asymmetry
    assert found["category_p"] == found["least_p"] == 0.001
    assert "chance is the score of the random row, not that of a majority class" in found["limitations"]


@published
@pytest.mark.parametrize(
    ("backbone", "null", "popularity", "overlap", "mantel_r"),
    [("Roberta", 0.916, 0.937, 0.970, 0.38), ("T5Small", 0.825, 0.843, 0.920, 0.43)],
)
def test_predict_gives_the_known_quality_of_the_published_prompts(backbone, null, popularity, overlap, mantel_r):
    options = ["--measure", "prompt_overlap", "--measure", "prompt_token_cosine", "--permutations", 99]
    found = answer("predict", *of(backbone, "scores", "prompts", "categories"), *options)
    one = found["measures"]["prompt_overlap"]
    assert (round(one["ndcg"], 3), round(one["ndcg_null"], 3), round(one["ndcg_popularity"], 3)) == (
        overlap,
        null,
        popularity,
    )
    assert round(one["mantel_r"], 2) == mantel_r
    assert one["mantel_p"] <= 0.01
    assert one["mantel_r_disattenuated"] is None  # of one seed
    assert one["regret_at_1"] < one["regret_at_1_null"]
    assert {"kendall_within", "kendall_pooled", "spearman_within"} <= one.keys()
    methods = found["completion"]["methods"]
    assert methods["additive"]["rmse"] < methods["rank-2"]["rmse"]
    assert "not the default" in found["completion"]["limitation"]
    if backbone == "Roberta":
        pair = found["measures"]["prompt_token_cosine"]
        assert (round(pair["kendall_pooled"], 2), round(pair["spearman_within"], 2)) == (0.01, 0.40)


@published
def test_graph_gives_the_known_agreement_with_the_categories():
    found = answer("graph", *of("Roberta", "scores", "categories"), "--permutations", 999, "--value", "relative")
    assert (round(found["ari_average_linkage"], 2), round(found["ari_louvain"], 2)) == (0.80, 0.23)
    assert found["ari_average_linkage_p"] <= 0.01
    assert found["ari_louvain_p"] < 0.1
    assert {"source", "target", "weight", "stability"} <= found["edges"][0].keys()


@published
def test_the_command_without_json_says_the_numbers_and_their_limitations():
    said = run("transfer", *of("Roberta", "scores", "categories"), "--permutations", 99)
    for number in (
        "0.772",
        "0.562",
        "0.560",
        "0.034",
        "asymmetry 0.205",
        "the spread between training runs is not given",
    ):
        assert number in said


# -- files of our own --------------------------------------------------------------------------------------------------


def test_every_command_prints_one_json_object_and_writes_it(folder, tmp_path):
    commands = {
        "transfer": given(folder, "scores", "categories"),
        "similarity": given(folder, "prompts"),
        "predict": [*given(folder, "scores", "prompts"), "--permutations", 9],
        "graph": [*given(folder, "scores", "categories"), "--k", 2, "--budget", 2],
        "subspace": given(folder, "prompts"),
    }
    for name, options in commands.items():
        found = answer(name, *options, "--out", tmp_path / name)
        assert json.loads((tmp_path / name / f"{name}.json").read_text()) == found
    written = {path.name for path in tmp_path.rglob("*.*")}
    assert {"transfer.csv", "relative.pdf", "corrected.png", "predict.csv", "graph.graphml", "graph.gexf"} <= written
    assert {"similarity.prompt_cosine.csv", "graph.nodes.json", "graph.png"} <= written
    assert read(tmp_path / "transfer" / "transfer.csv").tasks == TASKS
    assert set(nx.read_graphml(tmp_path / "graph" / "graph.graphml")) == set(TASKS)


def test_a_tidy_table_of_the_first_command_is_read_by_the_others(folder, tmp_path):
    first = answer("transfer", *given(folder, "scores", "categories"), "--out", tmp_path / "out")
    again = answer("transfer", tmp_path / "out" / "transfer.csv")
    assert again == first
    assert answer("graph", tmp_path / "out" / "transfer.csv")["ari_louvain"] is not None


def test_tasks_are_matched_by_name_whatever_their_order(folder):
    before = answer("predict", *given(folder, "scores", "prompts"), "--permutations", 9)["measures"]
    table = pd.read_csv(folder / "scores.csv", index_col=0)
    table.loc[[*reversed(TASKS), "random"], list(reversed(TASKS))].to_csv(folder / "scores.csv")
    after = answer("predict", *given(folder, "scores", "prompts"), "--permutations", 9)["measures"]
    for name, one in before.items():
        assert after[name]["ndcg"] == pytest.approx(one["ndcg"])
        assert after[name]["mantel_r"] == pytest.approx(one["mantel_r"])


def test_similarity_says_what_the_other_measures_lack(folder):
    found = answer("similarity", *given(folder, "prompts"))
    assert found["tasks"] == list(TASKS)
    assert set(found["measures"]) >= {"prompt_cosine", "prompt_overlap"}
    assert "prompts alone, no drawn gradients" in found["lacking"]["task2vec"]
    assert not set(found["measures"]) & set(found["lacking"])
    assert found["measures"]["prompt_cosine"]["nearest"]["ant"] == "bee"
    assert "- not computed: task2vec: " in run("similarity", *given(folder, "prompts"))


def test_a_graph_can_be_made_of_a_measure_and_of_a_distance(folder):
    for measure in ("prompt_cosine", "prompt_distance"):
        options = [*given(folder, "prompts", "categories"), "--measure", measure, "--kind", "mst"]
        found = answer("graph", *options)
        assert found["value"] == measure
        weighs = "greatest prompt_distance minus prompt_distance"
        assert found.get("weighs") == (weighs if measure == "prompt_distance" else None)
        assert found["ari_average_linkage"] == 1
        assert KINDS[found["edges"][0]["source"]] == KINDS[found["edges"][0]["target"]]


def test_a_budget_names_the_sources_and_whom_they_serve(folder):
    found = answer("graph", *given(folder, "scores", "categories"), "--k", 2, "--budget", 2)["sources"]
    assert {KINDS[name] for name in found["budget"]["sources"]} == {"insect", "mammal"}
    assert all(KINDS[source] == KINDS[target] for target, source in found["budget"]["serving"].items())
    assert found["budget"]["of"] == "the mean over targets of relative performance"


def test_sources_are_ranked_ordinally_from_several_seeds_and_not_from_one_score_each(folder, tmp_path):
    one = read_scores(folder / "scores.csv", KINDS)
    found = answer("graph", *given(folder, "scores"), "--k", 2)
    assert found["sources"]["ordinal"] is None
    assert any("cannot rank the sources: one score of each source on ant" in s for s in found["limitations"])
    two = replace(
        one, seeds=(0, 1), averaged_over=None, **{name: np.repeat(getattr(one, name), 2, axis=0) for name in PER_SEED}
    )
    found = answer("graph", write(two, tmp_path / "two.csv"), "--k", 2)
    assert next(iter(found["sources"]["ordinal"]["ant"])) == "bee"


def test_a_published_table_can_be_named_and_its_runs_counted(folder):
    found = answer("transfer", *given(folder, "scores"), "--name", "prompt", "--seeds", 5, "--permutations", 9)
    assert any("published mean over 5 runs" in sentence for sentence in found["limitations"])
    with pytest.raises(BadInput, match="--name and --seeds describe a plain table of scores, not a store"):
        answer("transfer", folder, "--name", "prompt")


PER_SEED = ("values", "random", "trivial", "failed")


def test_a_budget_says_where_the_untouched_backbone_is_unknown_and_whom_nothing_serves(folder, tmp_path):
    one = read_scores(folder / "scores.csv", KINDS)
    partly = replace(one, untouched=np.array([0.95, np.nan, 0.5, 0.5, 0.5]))
    found = answer("graph", write(partly, tmp_path / "partly.csv"), "--k", 2, "--budget", 1)
    assert found["sources"]["budget"]["serving"]["ant"] == "untouched"
    assert found["sources"]["budget"]["serving"]["bee"] != "untouched"
    assert "the untouched backbone is not considered for bee: its score there is unknown" in found["limitations"]
    own = one.values.copy()
    own[0, 3, 3] = 0.0
    options = ["--value", "raw", "--k", 2, "--budget", 1]
    with pytest.raises(BadInput, match="cannot choose sources, because none has a relative performance on dog"):
        answer("graph", write(replace(one, values=own), tmp_path / "own.csv"), *options)


def test_a_graph_says_what_is_to_be_said_of_its_matrix_or_of_its_measure(folder):
    chance = "chance is the score of the random row, not that of a majority class"
    found = answer("graph", *given(folder, "scores"), "--k", 2, "--value", "relative")["limitations"]
    assert {chance, "an edge weighs the mean of both directions; a directed graph tells them apart"} <= set(found)
    assert any("chance alone has a relative performance of 0.56 to 0.56" in sentence for sentence in found)
    corrected = answer("graph", *given(folder, "scores"), "--k", 2, "--directed")
    assert corrected["value"] == "corrected"
    assert not any("chance alone" in line or "both directions" in line for line in corrected["limitations"])
    similar = answer("graph", *given(folder, "prompts"), "--measure", "prompt_cosine", "--k", 2)
    assert not any("chance" in sentence or "own" in sentence for sentence in similar["limitations"])


def test_a_learned_subspace_is_tested_on_the_tasks_that_it_has_not_seen(folder, tmp_path):
    for way in ("pca", "autoencoder"):
        options = ["--seen", "ant,cat,dog,elk", "--dimensions", 2, "--learn", way, "--steps", 300]
        found = answer("subspace", *given(folder, "prompts"), *options, "--out", tmp_path)
        one = found["learned"]["0"]
        assert set(one["unseen"]) == {"bee"}
        assert min(one["seen"].values()) > 0.3
        assert Path(one["file"]).is_file()
        assert f"sha256='{_sha(one['file'])}'" in one["expression"]
        assert any("without the loss on their tasks" in line for line in found["limitations"]) == (way == "autoencoder")
    assert found["held_elsewhere_if_random"] == found["if_random"]["held_elsewhere"]["mean"]
    assert one["if_random"]["seen"]["mean"] > one["if_random"]["unseen"]["mean"] > 0
    assert any("TwoNN" in sentence for sentence in found["limitations"])


def _sha(path: str) -> str:
    import hashlib

    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transfer"], "there is no input to analyse; name a store, a study or files"),
        (["transfer", "{}/none"], "cannot read"),
        (["transfer", "{}", "--scores", "{}/scores.csv"], "give either a store or files"),
        (["transfer", "--scores", "{}/none.csv"], "none.csv: No such file"),
        (["transfer", "--prompts", "{}/prompts.npz"], "there are no transfer scores to analyse; set `transfer: true`"),
        (["similarity", "--scores", "{}/scores.csv"], "there are no deltas to analyse; name a store or a study"),
        (["subspace", "--scores", "{}/scores.csv"], "there are no deltas to analyse; name a store or a study"),
        (["predict", "--scores", "{}/scores.csv"], "there are no deltas to analyse; name a store or a study"),
        (["graph", "--prompts", "{}/prompts.npz"], "there are no transfer scores to analyse; set `transfer: true`"),
        (["graph", "--scores", "{}/scores.csv", "--kind", "ring"], "no kind of graph 'ring'"),
        (["graph", "--scores", "{}/scores.csv", "--k", "9"], "5 tasks have at most 4 neighbours"),
        (
            ["graph", "--prompts", "{}/prompts.npz", "--measure", "prompt_cosine", "--budget", "2"],
            "cannot combine --budget with",
        ),
        (["similarity", "--prompts", "{}/scores.csv"], "as an npz file"),
        (["similarity", "--prompts", "{}/prompts.npz", "--measure", "cosinus"], "no measure 'cosinus'"),
        (["similarity", "--prompts", "{}/prompts.npz", "--measure", "logme"], "has soft prompts alone, no features"),
        (
            ["predict", "--scores", "{}/scores.csv", "--prompts", "{}/prompts.npz", "--share", "1"],
            "share=1 leaves none of the 20",
        ),
        (
            ["transfer", "--scores", "{}/scores.csv", "--split", "val"],
            "--split selects evaluations of a store",
        ),
        (["transfer", "{}/scores.csv", "--composition", "lora"], "scores.csv has no column of compositions"),
        (
            ["subspace", "--prompts", "{}/prompts.npz", "--composition", "lora"],
            "prompts.npz has no column of compositions",
        ),
        (["subspace", "--prompts", "{}/prompts.npz", "--seen", "ant,cow"], "no task 'cow'"),
        (["subspace", "--prompts", "{}/prompts.npz", "--dimensions", "4"], "a subspace of 4 is wanted"),
        (["subspace", "--prompts", "{}/prompts.npz", "--learn", "magic"], "no way of learning a subspace 'magic'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(folder, arguments, said):
    result = CliRunner().invoke(app, [one.format(folder) for one in arguments])
    assert result.exit_code != 0
    message = str(result.exception) if isinstance(result.exception, BadInput) else result.output
    assert said in message
    assert not isinstance(result.exception, BadInput) or "\n" not in message


@pytest.mark.parametrize("command", ["transfer", "similarity", "predict", "subspace", "graph"])
def test_every_command_takes_the_three_files_and_notes_which_it_ignores(folder, command):
    arguments = [command, *given(folder, "scores", "prompts", "categories"), "--json"]
    if command == "graph":
        arguments += ["--k", 2]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict)
    unread = {"transfer": ["prompts"], "similarity": ["scores", "categories"], "subspace": ["scores"]}.get(command, [])
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: this command ignores --")]
    assert [line.split("--")[1].split()[0] for line in notes] == unread


def test_categories_and_prompts_that_miss_a_task_are_refused_by_name(folder):
    (folder / "categories.json").write_text(json.dumps(dict.fromkeys(TASKS[1:], "x")))
    with pytest.raises(BadInput, match="the categories miss ant"):
        answer("transfer", *given(folder, "scores", "categories"))
    with pytest.raises(BadInput, match="the categories miss ant"):
        answer("subspace", *given(folder, "prompts", "categories"))
    with np.load(folder / "prompts.npz") as file:
        np.savez(folder / "prompts.npz", **{name: file[name] for name in TASKS[1:]})
    with pytest.raises(BadInput, match="has no prompt of ant"):
        answer("predict", *given(folder, "scores", "prompts"))


def test_prompts_of_unequal_shapes_and_broken_numbers_are_refused_by_name(folder):
    with np.load(folder / "prompts.npz") as file:
        prompts = dict(file)
    np.savez(folder / "prompts.npz", **{**prompts, "cat": prompts["cat"][:2]})
    with pytest.raises(
        BadInput, match=r"'cat' has shape \(2, 6\) and 'ant' \(3, 6\); all prompts need the same \(.*\)$"
    ):
        answer("similarity", *given(folder, "prompts"))
    np.savez(folder / "prompts.npz", **{**prompts, "cat": prompts["cat"] * np.nan})
    with pytest.raises(BadInput, match="the prompt of 'cat' has 18 values that are not finite"):
        answer("similarity", *given(folder, "prompts"))
    np.savez(folder / "prompts.npz", cat=np.array(["no"], dtype=object))
    with pytest.raises(BadInput, match="holds Python objects"):
        answer("similarity", *given(folder, "prompts"))


@pytest.mark.parametrize("second", ["cat.npy", "cat"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_prompts_of_one_name_in_a_file_are_refused_by_name(folder, second):
    """A zip file holds as many entries of a name as are written, and numpy gives the same one for each of them."""
    for number, name in enumerate(("ant.npy", "cat.npy", second)):
        content = io.BytesIO()
        np.save(content, np.full((3, 6), 1.0 + number))
        with zipfile.ZipFile(folder / "twice.npz", "a") as file:
            file.writestr(name, content.getvalue())
    with pytest.raises(BadInput, match=r"twice\.npz names 'cat' twice$"):
        answer("similarity", "--prompts", folder / "twice.npz")


def test_a_task_of_which_a_measure_says_nothing_is_left_out_of_it_by_name(folder):
    with np.load(folder / "prompts.npz") as file:
        prompts = dict(file)
    np.savez(folder / "prompts.npz", **{**prompts, "cat": prompts["cat"] * 0})
    measures = answer("similarity", *given(folder, "prompts"))["measures"]
    assert measures["prompt_procrustes"]["left_out"] == ["cat"]
    assert measures["prompt_procrustes"]["tasks"] == [task for task in TASKS if task != "cat"]
    assert measures["prompt_distance"]["tasks"] == list(TASKS)
    said = "prompt_procrustes has no value for cat: a prompt that is all zeros has no direction to rotate"
    assert said in run("similarity", *given(folder, "prompts"))
    lacking = answer("predict", *given(folder, "scores", "prompts"), "--permutations", 9)["lacking"]
    assert lacking["prompt_procrustes"].startswith("it has no value for cat, and all measures")
    np.savez(folder / "prompts.npz", ant=prompts["ant"], cat=prompts["cat"] * 0)
    with pytest.raises(BadInput, match="prompt_cosine has no value for cat"):
        answer("similarity", *given(folder, "prompts"), "--measure", "prompt_cosine")


def test_heatmaps_that_cannot_be_drawn_and_prompts_of_no_task_are_said(folder, tmp_path):
    table = pd.read_csv(folder / "scores.csv", index_col=0)
    table.drop(index="random").to_csv(tmp_path / "scores.csv", index_label="source")
    found = answer("transfer", "--scores", tmp_path / "scores.csv", "--out", tmp_path / "out")
    said = f"no heatmap of relative or corrected values: the chance level of {', '.join(TASKS)} is unknown"
    assert said in found["limitations"]
    assert not (tmp_path / "out" / "relative.png").exists()
    with np.load(folder / "prompts.npz") as file:
        np.savez(folder / "prompts.npz", **file, fox=np.ones((3, 6)))
    options = [*given(folder, "scores", "prompts"), "--permutations", 9, "--share", 0.6]
    found = answer("predict", *options)
    assert any(sentence.startswith("fox: deltas not used, because their tasks") for sentence in found["limitations"])
    assert "something from half observed on" in found["completion"]["limitation"]


def test_prompts_that_no_measure_tells_apart_are_said_to_be_alike_and_ranked_by_nothing(folder):
    generator = np.random.default_rng(0)
    one = generator.normal(size=(3, 6))
    np.savez(folder / "prompts.npz", **dict.fromkeys(TASKS, one))
    graph = answer("graph", *given(folder, "prompts"), "--measure", "prompt_cosine", "--k", 2)
    assert any("the same between all tasks, up to rounding" in sentence for sentence in graph["limitations"])
    assert len({edge["weight"] for edge in graph["edges"]}) == 1
    full = {task: generator.normal(size=(6, 6)) for task in TASKS}
    np.savez(folder / "prompts.npz", **full)
    names = ["--measure", "prompt_overlap", "--measure", "prompt_cosine"]
    found = answer("similarity", *given(folder, "prompts"), *names)["measures"]
    assert any("up to rounding" in sentence for sentence in found["prompt_overlap"]["limitations"])
    assert not found["prompt_cosine"]["limitations"]


def test_missing_cells_stay_visible_and_stop_what_needs_them(folder):
    table = pd.read_csv(folder / "scores.csv", index_col=0)
    table.loc["ant", "bee"] = np.nan
    table.to_csv(folder / "scores.csv")
    found = answer("transfer", *given(folder, "scores", "categories"))
    assert found["cells"]["missing"] == 1
    assert any("ant → bee" in sentence for sentence in found["limitations"])
    with pytest.raises(BadInput, match="ant → bee; a graph needs them all"):
        answer("graph", *given(folder, "scores"))


def test_three_tasks_are_too_few_for_predictions_and_constant_columns_are_said(folder):
    table = pd.read_csv(folder / "scores.csv", index_col=0)
    table["ant"] = 0.5
    table.to_csv(folder / "scores.csv")
    said = answer("transfer", *given(folder, "scores"))["limitations"]
    assert any("ant: every other task's delta scores the same" in sentence for sentence in said)
    table.loc[["bee", "cat", "dog"], ["bee", "cat", "dog"]].to_csv(folder / "scores.csv")
    with pytest.raises(BadInput, match="at least 4 tasks"):
        answer("predict", *given(folder, "scores", "prompts"))


def test_a_target_that_every_source_serves_alike_is_in_no_mean_of_ndcg_and_is_named(folder):
    table = pd.read_csv(folder / "scores.csv", index_col="source")
    table.loc[[name for name in TASKS if name != "ant"], "ant"] = 0.6
    table.to_csv(folder / "scores.csv", index_label="source")
    found = answer("predict", *given(folder, "scores", "prompts"))
    assert found["measures"]["prompt_cosine"]["ndcg_by_target"]["ant"] is None
    assert any(line.startswith("ant: no ranking of sources") for line in found["limitations"])


def test_maps_of_three_tasks_say_that_they_are_too_few(folder):
    with np.load(folder / "prompts.npz") as file:
        np.savez(folder / "prompts.npz", **{name: file[name] for name in TASKS[:3]})
    found = answer("similarity", *given(folder, "prompts"))["measures"]["prompt_cosine"]
    assert found["limitations"] == ["3 tasks are too few to tell whether this map agrees with another one"]


def test_the_plain_table_of_scores_is_written_and_gives_the_same_answer(folder, tmp_path):
    first = answer("transfer", *given(folder, "scores", "categories"), "--out", tmp_path / "out")
    again = answer("transfer", "--scores", tmp_path / "out" / "scores.csv", *given(folder, "categories"))
    assert again == first


# -- figures from the command line -------------------------------------------------------------------------------------


def drawn(folder: Path) -> set[str]:
    """The figures in a folder, each of them there as PDF and as PNG."""
    names = {path.stem for path in folder.iterdir() if path.suffix == ".pdf"}
    assert names == {path.stem for path in folder.iterdir() if path.suffix == ".png"}
    assert all((folder / f"{name}.pdf").read_bytes().startswith(b"%PDF") for name in names)
    return names


def test_similarity_draws_each_measure_with_its_dendrogram(folder):
    found = answer(
        "similarity", *given(folder, "prompts", "categories"), "--measure", "prompt_cosine", "--out", folder / "out"
    )
    assert drawn(folder / "out") == {"similarity.prompt_cosine"}
    assert found["not_drawn"] == []
    np.savez(folder / "two.npz", ant=np.eye(3), bee=np.eye(3) + 0.1)
    text = run("similarity", "--prompts", folder / "two.npz", "--measure", "prompt_cosine", "--out", folder / "few")
    assert "no figure similarity.prompt_cosine: clusters need at least 3 tasks, found 2" in text


def test_predict_draws_the_measures_against_chance_and_transfer_against_each(folder):
    words = [*given(folder, "scores", "prompts", "categories"), "--measure", "prompt_cosine", "--permutations", 99]
    run("predict", *words, "--out", folder / "out")
    assert drawn(folder / "out") == {"predict", "predict.prompt_cosine"}


def test_subspace_draws_the_spectrum_beside_random_directions(folder):
    run("subspace", *given(folder, "prompts"), "--out", folder / "out")
    assert drawn(folder / "out") == {"spectrum"}


def test_transfer_draws_the_difference_to_another_table(folder):
    table = pd.read_csv(folder / "scores.csv", index_col=0)
    (table - 0.05).to_csv(folder / "other.csv", index_label="source")
    run("transfer", *given(folder, "scores"), "--minus", folder / "other.csv", "--out", folder / "out")
    assert "difference" in drawn(folder / "out")


def test_transfer_draws_how_far_maps_repeat(folder):
    rows = [
        {"source": s, "target": t, "seed": seed, "score": 0.5 + 0.4 * (s == t) + 0.01 * seed + 0.02 * (s < t)}
        for s in TASKS for t in TASKS for seed in (0, 1)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "tidy.csv", index=False)
    run("transfer", "--scores", folder / "tidy.csv", "--out", folder / "out")
    assert "reliability" in drawn(folder / "out")
