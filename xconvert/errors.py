"""Every error a user can cause: one clause that says what was found, facts below it, and something to paste."""

from __future__ import annotations

from collections.abc import Sequence


class XconvertError(Exception):
    """Base of all errors raised on purpose.

    ``message`` is one clause in lower case without a full stop, literals in backticks; ``facts`` are shown
    indented below it; each of ``hints`` can be pasted or acted on. ``exit_code`` is what the command line returns:
    2, could not work, unless a subclass says otherwise.
    """

    exit_code = 2

    def __init__(self, message: str, *, facts: Sequence[str] = (), hints: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.facts = tuple(facts)
        self.hints = tuple(hints)


class UnreadableError(XconvertError):
    """The file is no checkpoint, is damaged, or asks for something that no checkpoint needs."""


class AmbiguousError(XconvertError):
    """Two readings of the input fit; the message lists them and the hint says how to choose."""


class MappingError(XconvertError):
    """A mapping file or dialect is wrong; ``facts`` lists every problem found."""


class NetworkError(XconvertError):
    """The tensors in the file are not those of a network that any mapping describes."""


class UsageError(XconvertError):
    """An option has a value that cannot be used, or an extra is not installed."""


class RefusedError(XconvertError):
    """The conversion would change the function; nothing was written."""

    exit_code = 1


class VerificationError(XconvertError):
    """What was written does not compute what was read; nothing was left under the asked name."""

    exit_code = 1
