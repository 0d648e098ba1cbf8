"""The page of the families: a row per type of model, with the methods that work on it, and the reasons."""

from pathlib import Path

from family_page import EXPORTED, MERGED, METHODS, Row, page

PAGE = Path(__file__).parent.parent / "docs" / "families.md"


def row_of(row):
    return next(line for line in page([row]) if line.startswith(f"| {row.name}"))


def test_a_type_on_which_everything_works_has_a_row_of_few_words():
    row = Row("bert", "bert", list(METHODS), merged=list(MERGED), exported=list(EXPORTED))
    assert row_of(row) == "| bert | bert | all |  |  |  |  |"


def test_a_row_names_what_is_refused_idle_and_neither_merged_nor_exported():
    acts, merged = list(METHODS)[2:], [name for name in MERGED if name not in ("lora", "bitfit")]
    row = Row("mpt", "mpt", acts, {"lora": "no place"}, ["dora"], merged, ["adapter"])
    cells = row_of(row).split(" | ")
    assert cells[2:5] == [f"{len(METHODS) - 2} of {len(METHODS)}", "lora (1)", "dora does nothing"]
    assert cells[5] == "bitfit", "what is refused is not named again"
    assert cells[6] == "vera, ia3, prompt, p_tuning, prefix, intrinsic_prompt, + adapter |"
    assert list(page([row]))[-1] == "1. no place"


def test_a_type_without_a_table_has_its_reason_alone():
    assert row_of(Row("mamba", "none: no module projects to queries")) == "| mamba | none (1) |  |  |  |  |  |"


def test_the_page_has_the_form_that_the_command_writes():
    head = [line for line in page([]) if line.startswith("|")]
    assert "\n".join(head) in PAGE.read_text(encoding="utf-8")
