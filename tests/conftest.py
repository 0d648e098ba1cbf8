"""What holds for all tests, wherever they run.

Laws are tried on the same examples in every run, however busy the machine is. Ctrl-C is heard also where the shell that
started the tests in the background had it ignored: what they start would inherit that.
"""

import signal

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
