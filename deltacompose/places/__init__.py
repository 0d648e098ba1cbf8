"""Places of a backbone: their notation, and the tables that map them to module paths."""

from deltacompose.places.notation import KINDS, Part, Place, Spot, read_spot, split_name

__all__ = ["KINDS", "Part", "Place", "Spot", "read_spot", "split_name"]
