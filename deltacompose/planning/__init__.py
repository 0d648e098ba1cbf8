"""From a study to a plan: its cells, their order and their cost.

`plan` expands a study into a graph of cells; `analysis_cells` adds those of similarity, subspaces and swaps;
`dimension_search` those of a search; `flops` counts operations and memory; `cost` turns them into seconds.
"""
