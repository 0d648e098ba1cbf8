"""The work of each kind of cell, as a worker process carries it out.

`carry_out` finds the module of a cell's kind: `train`, `evaluate_delta`, `select`, `search`, `probe`, `subspace`,
`reconstruct`, `tune`, `swap`, `cluster`, `merging`, `reusing`, `efficiency` (with `use_cost`).

These read their inputs by `context`, `task_data`, `loaded`, `worker_sources` and `stored_evidence`, and write
`training_state` and `scored_answers`. For a plan, `grouping` decides which cells go to a worker together, `study_facts`
and `shapes` describe the study, `calibration`, `step_memory` and `process_memory` time and memory. `pass_size` chooses
how many deltas of a bank pass at once.
"""
