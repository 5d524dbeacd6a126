"""Errors that are no fault of the input."""


class ServerError(Exception):
    """A server failed, or did not answer in time; it may go better later. The command line exits with code 1."""
