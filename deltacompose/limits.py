"""The limits on files that come from outside. `docs/limits.md` states them for users."""

from __future__ import annotations

MIB = 2**20

YAML_BYTES = 1 * MIB
"""Size of a YAML document: a study, a table of places, a task description."""
YAML_NODES = 100_000
"""Values in a YAML document, those that its aliases stand for counted each time."""
YAML_DEPTH = 50
"""Lists and mappings within each other in a YAML document."""
YAML_DIGITS = 40
"""Characters of a number in a YAML document."""

JSON_BYTES = 8 * MIB
"""Size of a JSON file: a delta's record, peft's configuration, categories."""
JSON_DEPTH = 100
"""Lists and objects within each other in a JSON file."""
STORED_BYTES = 256 * MIB
"""Size of a JSON file that a store keeps."""
EVENT_BYTES = 1 * MIB
"""Size of one line of a store's log of events."""

HEADER_BYTES = 16 * MIB
"""Size of the header of a safetensors file."""
TENSOR_NAME = 500
"""Characters of a tensor's name."""

ARRAY_BYTES = 512 * MIB
"""Size of all arrays of an npz file together, uncompressed."""
ARRAYS = 10_000
"""Arrays in an npz file."""

ROWS_BYTES = 512 * MIB
"""Size of a file of rows, CSV or JSON lines."""
ROW_CHARACTERS = 1 * MIB
"""Characters of one row, and of one example's input."""
COLUMNS = 10_000
"""Columns of a file of rows."""
SHEET_BYTES = 256 * MIB
"""Size of an Excel workbook, unpacked."""
SHEET_ROWS = 300_000
"""Rows of a sheet."""
SCORES = 500
"""Sources, and targets, of a table of scores."""

PATTERN_CHARACTERS = 1000
"""Characters of a regular expression."""
PATTERN_SECONDS = 1.0
"""Seconds that matching a regular expression may take."""

NAME_CHARACTERS = 200
"""Characters of the name of a study or a task."""
EXPRESSION_CHARACTERS = 10_000
"""Characters of a composition as text."""
PARTS = 1000
"""Methods in a composition."""
INTEGER = 2**63
"""Integers in a composition are smaller, and so are seeds."""
ENTRIES = 10_000
"""Tasks, compositions, seeds and factors of a study."""
COUNT = 10**9
"""Steps, examples per step, rows, dimensions of a study."""
PROCESSES = 10_000
"""Processes that train one delta together."""

LEAST_NUMBERS = 30_000_000
"""Numbers that a method's trainable tensors may have on any backbone, and ..."""
TIMES_BACKBONE = 4
"""... so many times the backbone's parameters on a large one."""

CARD_TEXT = 2000
"""Characters of a text in a card of a library."""
CARD_RESULTS = 10_000
"""Scores in a card of a library."""
LIBRARY_DELTAS = 100_000
"""Deltas in a library."""
FEATURE_BYTES = 512 * MIB
"""Size of the features of a delta in a library."""
