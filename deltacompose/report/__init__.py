"""The report of a study: one HTML page, its figures and its tables.

`report` writes everything; `analysed` computes each statement once. Text: `headline`, `statements`, `methods_text`,
`citations`. Tables: `tables`, `scores`, `result_tables`, `paper_tables`, `interaction_tables`. Figures: `figures` for
files, `page_data` for the page, `advice` for the quality of recommendations. `html` makes the page from `templates`.
"""
