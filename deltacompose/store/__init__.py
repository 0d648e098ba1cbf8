"""Finished cells on disk, by content hash, crash-safe."""

from deltacompose.store.store import FORMAT, Damaged, Problem, ReadOnly, Store, Unwritable, alive, machine, open_store

__all__ = ["FORMAT", "Damaged", "Problem", "ReadOnly", "Store", "Unwritable", "alive", "machine", "open_store"]
