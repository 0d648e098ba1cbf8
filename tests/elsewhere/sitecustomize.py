"""Lets every process of Python that has this folder on its path believe that it is elsewhere, or at another time.

PRETENDED_CLOCK: a file with the seconds by which the clock is wrong; what stands there counts at once, as on a machine
whose clock is set while it runs. PRETENDED_HOST: the machine's name. PRETENDED_LOCKS: `none` for a file system that
knows no locks.
"""

import datetime
import errno
import fcntl
import os
import socket
import time

real_datetime, real_time, real_time_ns = datetime.datetime, time.time, time.time_ns


def wrong():
    """Seconds by which the clock is wrong now."""
    try:
        with open(os.environ["PRETENDED_CLOCK"]) as file:
            return float(file.read())
    except OSError:
        return 0.0


class WrongDatetime(real_datetime):
    """A datetime of the wrong clock."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=wrong())

    @classmethod
    def today(cls):
        return cls.now()

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)


def no_locks(*given):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


if "PRETENDED_CLOCK" in os.environ:
    datetime.datetime = WrongDatetime
    time.time = lambda: real_time() + wrong()
    time.time_ns = lambda: real_time_ns() + int(wrong() * 10**9)
if "PRETENDED_HOST" in os.environ:
    socket.gethostname = lambda: os.environ["PRETENDED_HOST"]
if os.environ.get("PRETENDED_LOCKS") == "none":
    fcntl.lockf = no_locks
