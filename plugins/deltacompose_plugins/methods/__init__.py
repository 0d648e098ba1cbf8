"""The built-in methods, by category."""
