"""Which trained delta to start from on a new task, and how good that advice is on tasks left out."""
