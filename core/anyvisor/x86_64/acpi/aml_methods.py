"""Methods in AML: what the guest's interpreter carries out when it is asked for an object.

>>> Method("_STA", Return(0x0F)).hex(" ")
'14 09 5f 53 54 41 00 a4 0a 0f'
"""

from __future__ import annotations

from typing import Self

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.aml import Data, Path, Term, Value, data, packed

METHOD, STORE, RETURN = b"\x14", b"\x70", b"\xa4"
LOCAL, ARGUMENT = 0x60, 0x68
SERIALIZED = 0x08


class Local(Data):
    """One of a method's eight variables, Local0 to Local7 (20.2.6.2)."""

    __slots__ = ()

    def __new__(cls, number: int) -> Self:
        """PlanError when there is no such one."""
        _check_number("Local", number, 7)
        return cls._of(bytes([LOCAL + number]))


class Arg(Data):
    """One of a method's seven arguments, Arg0 to Arg6 (20.2.6.1)."""

    __slots__ = ()

    def __new__(cls, number: int) -> Self:
        """PlanError when there is no such one."""
        _check_number("Arg", number, 6)
        return cls._of(bytes([ARGUMENT + number]))


class Method(Term):
    """Statements that the guest's interpreter carries out, with up to seven arguments (20.2.5.2, DefMethod)."""

    __slots__ = ()

    def __new__(cls, path: str, *terms: Term, arguments: int = 0, serialized: bool = False) -> Self:
        """PlanError when the path is none, or the arguments are too many."""
        _check_number("Method with arguments", arguments, 7)
        return cls._of(METHOD, packed(Path(path), bytes([arguments | SERIALIZED * serialized]), *terms))


class Return(Term):
    """Ends a method with a value (20.2.5.3, DefReturn)."""

    __slots__ = ()

    def __new__(cls, value: Value) -> Self:
        """PlanError when the value cannot be encoded."""
        return cls._of(RETURN, data(value))


class Store(Term):
    """Puts a value into a variable or an object with a name (20.2.5.4, DefStore)."""

    __slots__ = ()

    def __new__(cls, value: Value, target: Local | Arg | Path) -> Self:
        """PlanError when the value cannot be encoded."""
        return cls._of(STORE, data(value), target)


def _check_number(what: str, number: int, highest: int) -> None:
    if not 0 <= number <= highest:
        raise PlanError(f"AML {what} {number}: it goes from 0 to {highest}")
