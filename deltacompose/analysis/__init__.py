"""Analyses: pure functions of arrays, frames and records, without torch.

`matrix` is the transfer matrix, `matrix_tables` writes it as tables, `example_scores` collects its scores by example,
`limitations` says what limits its reading; `units` has the values derived from it; `statistics` has estimates,
intervals and tests, `permutation` the permutation tests, `attenuation` a correction for seed noise. `arrays`,
`labelled` and `delta_tensors` are kinds of input; `environments` compares libraries and machines.

Each package answers one question: `transfer`, `similarity`, `prediction`, `subspace`, `graph`, `interaction`,
`recommendation`.
"""
