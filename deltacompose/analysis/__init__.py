"""Analyses: pure functions of arrays, frames and records, without torch.

`matrix` is the transfer matrix; `units` the values derived from it; `statistics` has estimates, intervals and tests.
Each package answers one question: `transfer`, `similarity`, `prediction`, `subspace`, `graph`, `interaction`.
"""
