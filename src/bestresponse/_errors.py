"""The one exception for bad input."""


class InputError(ValueError):
    """Something the caller passed cannot be used.

    The message is one sentence: what is wrong, then what to do. The command line prints it
    without a traceback and exits with code 2.
    """
