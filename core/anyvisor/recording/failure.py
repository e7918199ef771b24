"""Errors as values: written down where they were raised, raised again elsewhere as what they were."""

from __future__ import annotations

import builtins
from typing import Any

import attrs

from anyvisor import errors
from anyvisor.errors import HypervisorError

_BUILTIN = ("OSError", "OverflowError", "RuntimeError", "TypeError", "ValueError", "Exception")
KINDS: dict[str, type[Exception]] = {
    **{name: getattr(builtins, name) for name in _BUILTIN},
    **{name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)},
}
"""The classes that a failure can be of, by name: those of `anyvisor.errors` and a few of Python's."""


@attrs.frozen
class Failure:
    """An error: the name of its class, what it says, and for a `HypervisorError` and an `OSError` their parts.

    An error of a class that is not among `KINDS` is kept as the nearest class above it that is.
    """

    kind: str = attrs.field(validator=attrs.validators.in_(KINDS))
    text: str = ""
    errno: int | None = None
    operation: str = ""
    detail: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The error as a value."""
        kind = next((each.__name__ for each in type(error).__mro__ if KINDS.get(each.__name__) is each), "Exception")
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, HypervisorError):
            return cls(kind, "", number, error.operation, error.detail)
        text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return cls(kind, text or type(error).__name__, number)

    def error(self) -> Exception:
        """The error itself, new."""
        kind: Any = KINDS[self.kind]
        if kind is HypervisorError:
            return HypervisorError(self.operation, self.errno or 0, self.detail)
        made: Exception = kind(self.text) if self.errno is None else kind(self.errno, self.text)
        return made

    def __str__(self) -> str:
        return f"{self.kind}: {self.error()}"
