"""The work of each kind of cell, as a worker process carries it out."""
