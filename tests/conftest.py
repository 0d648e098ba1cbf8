"""What holds for all tests: laws are tried on the same examples in every run, however busy the machine is."""

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")
