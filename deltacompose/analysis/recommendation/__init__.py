"""Which trained delta to start from on a new task, and how good that advice is on tasks left out.

`evidence` collects scores and similarities; `few_examples` splits scores into a few examples and the rest; `model` fits
and predicts; `quality` compares recommendations with baselines.
"""
