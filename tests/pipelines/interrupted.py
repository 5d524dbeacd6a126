"""Somebody who presses Ctrl-C while a command waits."""

import time


class Interrupted:
    """A clock at which somebody waits, until he presses Ctrl-C."""

    monotonic, time = staticmethod(time.monotonic), staticmethod(time.time)

    @staticmethod
    def sleep(seconds):
        raise KeyboardInterrupt
