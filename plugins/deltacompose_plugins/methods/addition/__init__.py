"""Methods that add modules or tokens."""
