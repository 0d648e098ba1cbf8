"""Finished cells on disk, by content hash, crash-safe.

`store` is the folder; `atomic` writes files so that a reader sees all or nothing; `reading` checks what is read;
`checkpoints` holds unfinished trainings; `record` describes a finished cell; `environment` has libraries and processor,
`notes` keeps environments and categories; `export` writes a table.
"""

from deltacompose.store.store import FORMAT, Damaged, Problem, ReadOnly, Store, Unwritable, alive, machine, open_store

__all__ = ["FORMAT", "Damaged", "Problem", "ReadOnly", "Store", "Unwritable", "alive", "machine", "open_store"]
