"""One reader for each format of the files that come from outside: a size limit, a type check, and one sentence.

`limits` states the limits; `files` opens regular files only; the other modules read YAML, JSON, tensors (safetensors),
arrays (npz), rows (CSV and JSON lines) and regular expressions.
"""
