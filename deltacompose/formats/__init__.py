"""One reader for each format of the files that come from outside: a size limit, a type check, and one sentence.

`limits` states the limits; `files` opens regular files only. The readers are `yaml_files`, `json_files`, `tensor_files`
(safetensors), `array_files` (npz), `row_files` (CSV and JSON lines), `parquet_files`, `sheets` (tables of any format),
`patterns` (regular expressions) and `urls` (folders at fsspec URLs).
"""
