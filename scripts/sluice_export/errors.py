"""The one exception that reaches the user as a one-line message."""


class ExportError(Exception):
    """Something the user can act on. Its text says what, where and what to do.

    code is the exit status: 1 for a run that failed (the export disagrees with its source), 2 for wrong usage or input.
    """

    def __init__(self, message, code=2):
        super().__init__(message)
        self.code = code
