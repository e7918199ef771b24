"""Bit-fields: declare one once, read and write it by name.

>>> class Cr0(Bits):
...     pe = bit(0)
...     pg = bit(31)
>>> Cr0(pe=True, pg=True)
Cr0(0x80000001: pe|pg)
>>> Cr0(0x80000001).replace(pg=False) == 1
True

A `Bits` *is* an int, so it goes wherever the register's raw value goes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

T = TypeVar("T")


class Field(Generic[T]):
    """Some neighbouring bits of a register: the lowest bit, how many, and the type they are read as."""

    def __init__(self, low: int, width: int, kind: Callable[[int], T]):
        self.low = low
        self.width = width
        self.kind = kind
        self.mask = ((1 << width) - 1) << low
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Bits, owner: type) -> T: ...
    def __get__(self, instance: Bits | None, owner: type) -> Self | T:
        """The field of a value, or the `Field` itself when asked of the class."""
        return self if instance is None else self.kind((int(instance) & self.mask) >> self.low)

    def place(self, value: Any) -> int:
        """`value` moved to this field's bits; ValueError when it does not fit."""
        number = int(value)
        if not 0 <= number < 1 << self.width:
            raise ValueError(f"{self.name}={number:#x} does not fit in {self.width} bit(s)")
        return number << self.low


def bit(position: int) -> Field[bool]:
    """One bit, read as a bool."""
    return Field(position, 1, bool)


@overload
def field(low: int, width: int) -> Field[int]: ...
@overload
def field(low: int, width: int, kind: Callable[[int], T]) -> Field[T]: ...
def field(low: int, width: int, kind: Callable[[int], Any] = int) -> Field[Any]:
    """`width` bits from bit `low` up, read as `kind` (int, or an IntEnum)."""
    return Field(low, width, kind)


class Bits(int):
    """An integer whose bit-fields have names; subclass it and declare them with `bit` and `field`."""

    fields: ClassVar[dict[str, Field[Any]]] = {}

    def __init_subclass__(cls) -> None:
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        cls.fields = {**cls.fields, **declared}

    def __new__(cls, value: int = 0, /, **fields: Any) -> Self:
        """`value` with the named fields set."""
        return int.__new__(cls, cls._with(int(value), fields))

    @classmethod
    def _with(cls, value: int, fields: dict[str, Any]) -> int:
        for name, wanted in fields.items():
            if name not in cls.fields:
                raise TypeError(f"{cls.__name__} has no field {name!r}; it has {', '.join(cls.fields)}")
            value = value & ~cls.fields[name].mask | cls.fields[name].place(wanted)
        return value

    def replace(self, **fields: Any) -> Self:
        """The same value with the named fields changed."""
        return type(self)(self._with(int(self), fields))

    def words(self) -> str:
        """The set fields in words: `pe|et|pg`, and `name=value` for fields wider than a bit."""
        set_fields = [(name, each) for name, each in self.fields.items() if int(self) & each.mask]
        parts = [name if each.width == 1 else f"{name}={_word(getattr(self, name))}" for name, each in set_fields]
        unnamed = int(self) & ~sum({each.mask for each in self.fields.values()})
        return "|".join([*parts, *([f"{unnamed:#x}"] if unnamed else [])])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({int(self):#x}: {self.words()})" if self else f"{type(self).__name__}(0)"


def _word(value: object) -> str:
    return value.name.lower().replace("_", "-") if isinstance(value, enum.Enum) else str(value)
