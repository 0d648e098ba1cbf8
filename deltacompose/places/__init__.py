"""Places of a backbone: their notation, and the tables that map them to module paths.

`notation` reads places, `table` tables, `numbers` the numbers of a table.
"""

from deltacompose.places.notation import KINDS, FusedPart, Place, Spot, read_spot, split_name

__all__ = ["FusedPart", "KINDS", "Place", "Spot", "read_spot", "split_name"]
