"""One row of a model's input."""


class Row(list):
    """Token ids of a text or a pair. types: the token type of each; None where all are 0."""

    def __init__(self, ids, types=None):
        super().__init__(ids)
        self.types = types
