"""Every reader takes regular files of bounded size, and answers what is damaged by one sentence."""

import json
import os
import re
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deltacompose.errors import BadInput
from deltacompose.formats import row_files
from deltacompose.formats.array_files import read_arrays
from deltacompose.formats.files import Missing, read_bytes, read_text
from deltacompose.formats.json_files import parsed_json, read_json
from deltacompose.formats.patterns import matches
from deltacompose.formats.row_files import read_csv_rows, read_json_rows
from deltacompose.formats.sheets import read_cells
from deltacompose.formats.tensor_files import TensorEntry, check_shapes, read_header


def test_pipes_folders_devices_and_endless_links_are_refused_before_they_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, message in {"pipe": "a named pipe", ".": "a folder", "zero": "a device", "loop": "symbolic"}.items():
        with pytest.raises(BadInput, match=message):
            read_bytes(tmp_path / name, 10)
    with pytest.raises(BadInput, match="is not a valid path"):
        read_bytes(tmp_path / "a\0b", 10)
    with pytest.raises(Missing):
        read_bytes(tmp_path / "nothing", 10)


def test_a_file_beyond_the_limit_and_one_that_hides_its_size_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(BadInput, match="11 bytes; the limit is 10"):
        read_bytes(tmp_path / "a", 10)
    (tmp_path / "status").symlink_to("/proc/self/status")
    with pytest.raises(BadInput, match="more than 10 bytes"):
        read_bytes(tmp_path / "status", 10)


def test_text_is_utf8_and_loses_its_byte_order_mark(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfab")
    assert read_text(tmp_path / "a", 10) == "ab"
    (tmp_path / "a").write_bytes("ab".encode("utf-16"))
    with pytest.raises(BadInput, match="not UTF-8"):
        read_text(tmp_path / "a", 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": 1e999}', "too large"),
        ("[" * 100_000, "not valid JSON"),
        ("[" * 500 + "]" * 500, "nested more than 100 deep"),
        ('"\\ud800"', "surrogate"),
        ("9" * 10_000, "not valid JSON"),
        ("{", "not valid JSON"),
    ],
)
def test_json_that_is_not_plain_data_is_refused(text, message):
    with pytest.raises(BadInput, match=message):
        parsed_json(text.encode(), "a.json")


def test_json_of_another_type_is_refused_with_the_place(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    with pytest.raises(BadInput, match=r"a.json: a: \[1\]: input should be a valid string"):
        read_json(tmp_path / "a.json", dict[str, str])


def changed_header(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_a_header_that_fits_its_file_gives_dtypes_and_shapes(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "x")
    assert read_header(tmp_path / "x") == {"a": TensorEntry("F32", (2, 3)), "b": TensorEntry("BF16", (4,))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["a"].update(shape=[-1]), "greater than or equal to 0"),
        (lambda h: h["a"].update(shape=[10**30]), "do not agree"),
        (lambda h: h["a"].update(data_offsets=[0, 2**60]), "do not agree"),
        (lambda h: h["b"].update(data_offsets=[0, 4]), "begins at byte 0 of the data; expected 4"),
        (lambda h: h["a"].update(dtype="I64"), "has the dtype 'I64'; expected F64"),
        (lambda h: h.update({"../x": h.pop("a")}), r"'../x' is not a valid name of a tensor"),
        (lambda h: h.update({"a/../../x": h.pop("a")}), "is not a valid name of a tensor"),
        (lambda h: h.update({"x": 1}), "tensor 'x': input should be"),
        (lambda h: h.pop("b"), "8 bytes of data, expected 4"),
    ],
)
def test_a_header_that_lies_is_refused_before_tensors_are_read(tmp_path, change, message):
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "x")
    changed_header(tmp_path / "x", change)
    with pytest.raises(BadInput, match=message):
        read_header(tmp_path / "x")


@pytest.mark.parametrize("data", [b"", b"123", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadInput, match=r"(truncated or not a safetensors file|input should be)"):
        read_header(tmp_path / "x")


def test_tensors_missing_too_many_and_of_other_shapes_are_named():
    with pytest.raises(BadInput, match=r"x: the tensor 'a' is missing \(3 such tensors\)"):
        check_shapes("x", {"b": (1,), "c": (2,)}, {"a": (1,), "b": (2,)})


def npy(shape, data=b""):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def packed(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_arrays_are_read_and_checked_before_the_first_is_decompressed(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.ones((2, 3)), b=np.zeros(4, dtype=np.float32))
    seen = []
    arrays = read_arrays(tmp_path / "a.npz", lambda name, shape, dtype: seen.append((name, shape, str(dtype))))
    assert seen == [("a", (2, 3), "float64"), ("b", (4,), "float32")]
    np.testing.assert_array_equal(arrays["a"], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.npy": npy((100_000, 100_000), bytes(100))}, "takes 40000000000 bytes, and there are 100"),
        ({"a.npy": npy("(" * 5000)}, "cannot read .* as an npz file"),
        ({"a.txt": b"hello, this is text"}, "the magic string is not correct"),
        ({"a.npy": b"x"}, "cannot read .* as an npz file"),
        ({"a.npy": npy((2**20,), bytes(2**22))}, "its arrays take .* bytes; the limit is 1000000"),
    ],
)
def test_a_bomb_or_a_member_that_is_no_array_is_refused(tmp_path, members, message):
    with pytest.raises(BadInput, match=message):
        read_arrays(packed(tmp_path / "a.npz", members), lambda *of: None, limit=1_000_000)


def test_a_zip_that_is_damaged_is_one_sentence(tmp_path):
    data = packed(tmp_path / "a.npz", {"a.npy": npy((2, 3), np.ones(6, "<f4").tobytes())}).read_bytes()
    (tmp_path / "b.npz").write_bytes(data[:50] + b"\xff" * 20 + data[70:])
    with pytest.raises(BadInput, match="as an npz file"):
        read_arrays(tmp_path / "b.npz", lambda *of: None)


def test_rows_are_bounded_in_length_and_columns(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n\n3,4\n")
    assert read_csv_rows(tmp_path / "a.csv") == [(1, ["a", "b"]), (2, ["1", "2"]), (4, ["3", "4"])]
    (tmp_path / "a.csv").write_text("a," * 20_000)
    with pytest.raises(BadInput, match="20001 columns; the limit is 10000"):
        read_csv_rows(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text('{"a": "' + "x" * 2**21 + '"}')
    with pytest.raises(BadInput, match="line 1: the row has more than 1048576 characters"):
        read_json_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(BadInput, match=r"line 2: a row is a JSON object"):
        read_json_rows(tmp_path / "a.jsonl")


LINES = st.lists(
    st.one_of(
        st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.floats() | st.text()).map(
            json.dumps
        ),
        st.sampled_from(
            ['{"a":1,"a":2}', '{"a":1},{"b":2}', '{"a":1e999}', '{"a":\t1}', "", "[1]", '{"a"', ":1}", '{"a": [{}]}']
        ),
        st.sampled_from(['{"a": "\\ud800"}', '{"a": "x', 'y"}', ' {"a": 1}', "{}", '{"a" :1, "b":"x:"}', "1", "{}{}"]),
    ),
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_a_short_file_of_rows_is_what_its_lines_are(lines, end, ended):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes((end.join(lines) + (end if ended else "")).encode())
        try:
            expected = list(row_files._json_rows(path))
        except BadInput as error:
            with pytest.raises(BadInput, match=re.escape(str(error))):
                read_json_rows(path)
        else:
            assert read_json_rows(path) == expected


def test_rows_of_a_store_are_read_with_one_decoder(tmp_path, monkeypatch):
    rows = [{"id": str(i), "prediction": "yes", "target": "no", "score": i / 7} for i in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(row_files, "parsed_json", lambda *args: pytest.fail("a decoder for each line"))
    assert read_json_rows(tmp_path / "a.jsonl") == rows


def test_a_pattern_that_takes_exponential_time_or_is_not_valid_is_refused():
    assert matches(r"(.*\.)?(q|v)_proj", "model.layers.0.q_proj")
    assert not matches("q_proj", "v_proj")
    with pytest.raises(BadInput, match="is not a valid regular expression"):
        matches("(", "x")
    with pytest.raises(BadInput, match="1001 characters; the limit is 1000"):
        matches("x" * 1001, "x")
    with pytest.raises(BadInput, match="takes more than 1 s to match"):
        matches("(a|a|b)+(a|a)+x", "a" * 60)


def test_a_table_of_a_country_with_decimal_commas_is_that_of_one_with_points(tmp_path):
    comma, point = tmp_path / "comma.csv", tmp_path / "point.csv"
    comma.write_bytes("\ufeffsource;SST-2 ;a,b;MNLI\nSST-2;95,2;88,1 %;,5\na,b;90;;-0,3\n".encode())
    point.write_text('source,SST-2,"a,b",MNLI\nSST-2,95.2,88.1 %,.5\n"a,b",90,,-0.3\n')
    assert read_cells(comma) != read_cells(point)  # a comma in the header leaves the file one of commas
    comma.write_bytes("\ufeffsource;SST-2 ;ab;MNLI\nSST-2;95,2;88,1 %;,5\na,b;90;;-0,3\n".encode())
    assert read_cells(comma) == [
        ["source", "SST-2", "ab", "MNLI"], ["SST-2", "95.2", "88.1 %", ".5"], ["a,b", "90", "", "-0.3"],
    ]  # fmt: skip
