"""The one exception a user's mistake ends in: shown as its message, never as a traceback."""


class UserError(ValueError):
    """Bad input; the message says what was seen, what was expected and what to do."""
