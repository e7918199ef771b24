"""A CPU template as a value: what the TOML files of CPU models say, and how one that extends another adds to it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from anyvisor.x86_64.features import Feature, Register
from anyvisor.x86_64.msrs import MsrEntry

HOST = "host"
"""As a value: whatever the host has."""
CACHE_TYPES = {"data": 1, "instruction": 2, "unified": 3}
"""The kinds of caches as leaves 4 and 0x8000001D number them."""


@attrs.frozen
class Cache:
    """A cache of a core or, from level 3 up, of a package: its size, its associativity, the bytes of a line."""

    level: int
    type: str
    size_bytes: int
    ways: int
    line_bytes: int = 64
    inclusive: bool = False

    @property
    def sets(self) -> int:
        """How many sets it has."""
        return self.size_bytes // (self.ways * self.line_bytes)


@attrs.frozen
class RegisterBits:
    """Some bits of a register, those of `mask`, and what they are to be."""

    mask: int
    value: int

    def applied(self, register: int) -> int:
        """The register with those bits so."""
        return register & ~self.mask | self.value


@attrs.frozen
class LeafPatch:
    """Raw bits of a CPUID entry, register by register."""

    leaf: int
    subleaf: int
    registers: Mapping[Register, RegisterBits] = attrs.field(hash=False)


@attrs.frozen
class Template:
    """What a template says; None, or nothing in a list, for what it does not."""

    description: str | None = None
    from_host: bool | None = None
    vendor: str | None = None
    brand: str | None = None
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    physical_bits: int | None = None
    linear_bits: int | None = None
    max_leaf: int | None = None
    max_extended_leaf: int | None = None
    hypervisor_leaves: str | None = None
    timing_leaf: bool | None = None
    features: frozenset[Feature] = frozenset()
    optional: frozenset[Feature] = frozenset()
    removed: frozenset[Feature] = frozenset()
    caches: tuple[Cache, ...] = ()
    leaves: tuple[LeafPatch, ...] = ()
    msrs: tuple[MsrEntry, ...] = ()

    def extended(self, child: Template) -> Template:
        """This template with what `child` says over it: lists grow, caches and single values are replaced."""
        said = attrs.asdict(child, recurse=False)
        changes = {name: value for name, value in said.items() if value not in (None, (), frozenset())}
        features = (self.features | child.features) - child.removed
        return attrs.evolve(
            self,
            **changes
            | {
                "features": features,
                "optional": (self.optional | child.optional) - child.removed - features,
                "removed": (self.removed | child.removed) - child.features - child.optional,
                "leaves": self.leaves + child.leaves,
                "msrs": _merged(self.msrs, child.msrs),
            },
        )

    @property
    def is_vendor_of_host(self) -> bool:
        """Whether the guest sees the host's own maker and, unless it says otherwise, its family and model."""
        return self.vendor in (None, HOST)


def _merged(first: tuple[MsrEntry, ...], second: tuple[MsrEntry, ...]) -> tuple[MsrEntry, ...]:
    return tuple(({each.index: each for each in first} | {each.index: each for each in second}).values())
