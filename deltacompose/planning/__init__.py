"""From a study to a plan: its cells, their order and their cost.

`plan` expands a study into a graph of cells from its `facts`; `analysis_cells` adds those of similarity, subspaces and
swaps, `search_cells` those of a search for the intrinsic dimension, `new_task_cells` those of clusters and reuse.
`flops` counts operations and memory, `cost` turns them into seconds, `fitting` compares memory with the machine's.
"""
