"""The names of a kernel's addresses: from a System.map, a vmlinux, or the very bzImage that a distribution ships.

Some facts about symbols. A linked kernel has a table of them (`.symtab`), which distributions strip; `nm` writes it as
text, the System.map. Linux can name its own functions all the same, in an oops and in /proc/kallsyms: it carries a
packed table of names inside its image, so an image that has no symbols has its symbols in it (see `kallsyms`).

Addresses are those for which the kernel was linked. One that moves itself at boot (KASLR) runs elsewhere: find out by
how much, and ask `moved`. Symbols in the other half of the address space than the kernel are no places in it: offsets
into per-CPU areas, constants. They keep their value, and no address is named after them.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Self

import attrs

from anyvisor.memory import MIB

REACH_BYTES = 1 * MIB
"""How far from a symbol an address is still named after it."""
_WEAK = "vVwW"
_MARKS_A_SECTION = ("__start_", "__stop_", "__end_", "__irf_")

Row = tuple[int, str, str]
"""A symbol: its address, its type as `nm` writes it, its name."""


@attrs.frozen(eq=False)
class Symbols:
    """The symbols of a kernel, by address and by name. `slide` is by how many bytes it was moved from its symbols.

    `addresses` are those before the move, in ascending order; `names` go with them, of several at an address the one
    first by which it is to be called. A module's have a name such as `virtio_init [virtio]`.

    >>> symbols = Symbols.of([(0x1000, "T", "start"), (0x1040, "T", "main")])
    >>> symbols.name(0x1012), symbols.address("main"), symbols.moved(0x2000).name(0x3040)
    ('start+0x12', 4160, 'main')
    """

    addresses: Sequence[int] = attrs.field(repr=False)
    names: Sequence[str] = attrs.field(repr=False)
    slide: int = 0
    _index: dict[str, int] = attrs.field(factory=dict, repr=False, alias="_index")
    """The index of each name, worked out when it is first asked for; the same dict in all that are `moved`."""

    @classmethod
    def load(cls, path: os.PathLike[str] | str) -> Symbols:
        """The symbols that a file has: a System.map, a copy of /proc/kallsyms, an ELF kernel, or a bzImage.

        Linux has its symbols in it also where it was stripped of its symbol table, as in every bzImage.
        KernelImageError for a file that has none, saying where there are some.
        """
        from anyvisor.symbols.files import load  # noqa: PLC0415 - who is given symbols need not read files

        return load(path)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Symbols from their addresses, types and names, in any order."""
        ordered = sorted(rows, key=_rank)
        return cls([address for address, _, _ in ordered], [name for _, _, name in ordered])

    def name(self, address: int) -> str | None:
        """What lies at an address, such as `start_kernel+0x12`; None outside of the kernel.

        The offset is left out where it is 0.
        """
        wanted = address - self.slide
        after = bisect.bisect_right(self.addresses, wanted)
        if after <= self._first_place:
            return None
        start = self.addresses[after - 1]
        if wanted - start >= REACH_BYTES:
            return None
        name, space, module = self.names[bisect.bisect_left(self.addresses, start)].partition(" ")
        return f"{name}{f'+{wanted - start:#x}' if wanted > start else ''}{space}{module}"

    def address(self, name: str) -> int | None:
        """Where the symbol of that name lies, the lowest where there are several; None where there is none."""
        index = self._indices.get(name)
        return None if index is None else self._moved_address(index)

    def moved(self, slide: int) -> Symbols:
        """The same symbols of a kernel that runs `slide` bytes further up than these say."""
        return attrs.evolve(self, slide=self.slide + slide)

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Address and name of each, in the order of addresses."""
        return ((self._moved_address(index), name) for index, name in enumerate(self.names))

    def _moved_address(self, index: int) -> int:
        return self.addresses[index] + (self.slide if index >= self._first_place else 0)

    @cached_property
    def _first_place(self) -> int:
        """The index of the first symbol in the kernel's half of the address space."""
        highest = self.addresses[-1] if self.addresses else 0
        half = 1 << 63 if highest >> 32 else 1 << 31
        return bisect.bisect_left(self.addresses, half) if highest >= half else 0

    @property
    def _indices(self) -> dict[str, int]:
        if not self._index:
            names = [name.partition(" ")[0] for name in self.names] if self._has_modules else self.names
            self._index.update({name: len(names) - 1 - index for index, name in enumerate(reversed(names))})
        return self._index

    @cached_property
    def _has_modules(self) -> bool:
        return any(" " in name for name in self.names)


def _rank(row: Row) -> tuple[int, bool, bool, int]:
    """By address; then the name that the kernel itself prefers: not weak, no section's border, few underscores."""
    address, kind, name = row
    return address, kind in _WEAK, name.startswith(_MARKS_A_SECTION), len(name) - len(name.lstrip("_"))
