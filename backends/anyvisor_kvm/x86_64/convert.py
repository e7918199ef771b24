"""The same fields in two worlds: an attrs value of core's and a ctypes structure of KVM's."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import attrs

from anyvisor_kvm.abi import Struct

T = TypeVar("T")


def same(*names: str) -> dict[str, str]:
    """Fields that have one name in both worlds."""
    return {name: name for name in names}


class Fields(Generic[T]):
    """Which field of `kind` lies where in a structure (a dotted path); without `paths`, all by name."""

    def __init__(self, kind: type[T], paths: Mapping[str, str] | None = None):
        declared = {each.name: each for each in attrs.fields(kind)}  # type: ignore[arg-type]
        self._kind = kind
        self._paths = same(*declared) if paths is None else paths
        self._values = operator.attrgetter(*self._paths.values())
        self._flags = [name for name in self._paths if isinstance(declared[name].default, bool)]

    def take(self, source: Struct, **others: Any) -> T:
        """A `kind` with the fields that `source` has, and the others as given."""
        found = dict(zip(self._paths, self._values(source), strict=True))
        for name in self._flags:
            found[name] = bool(found[name])
        return self._kind(**found, **others)

    def fill(self, target: Struct, value: T) -> None:
        """Set the fields of `target`; HypervisorError for a number that does not fit."""
        for name, path in self._paths.items():
            parent, _, last = path.rpartition(".")
            setattr(operator.attrgetter(parent)(target) if parent else target, last, getattr(value, name))
