"""From a study to a plan: its cells, their order and their cost."""
