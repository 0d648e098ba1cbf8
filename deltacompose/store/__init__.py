"""Finished cells on disk, by content hash, crash-safe."""

from deltacompose.store.store import FORMAT, Damaged, Problem, Store, Unwritable, alive, machine, open_store

__all__ = ["Damaged", "FORMAT", "Problem", "Store", "Unwritable", "alive", "machine", "open_store"]
