"""Guest memory: sizes, regions of guest-physical addresses, and the host mappings behind them.

Some facts about guest RAM. A region is one anonymous mapping of the host, asked for with MAP_NORESERVE: the guest's
memory costs the host nothing until it is touched. With `shared=True` the mapping is of a memfd, so another process
(a vhost-user device, a snapshot writer) can map the same pages. Whoever gives the mapping to a hypervisor must take
the hypervisor's slots away before the mapping goes: a slot without its mapping is a fault waiting to happen.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import attrs

from anyvisor.closing import Closing
from anyvisor.errors import GuestMemoryError

PAGE_BYTES = 4096
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Linux's value; the mmap module has the name from Python 3.13 on."""
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"\s*(\d+)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes from `512M`, `2G`, `4096` or an int; units are powers of 1024.

    >>> parse_size("512M") == 512 * 1024 * 1024
    True
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if not found:
        raise ValueError(f"{text!r} is not a size; write bytes or a number with K, M, G or T, such as 512M")
    return int(found[1]) * _UNITS[found[2].upper()]


def format_size(size_bytes: int) -> str:
    """The shortest exact way to write a size: `512M`, `4K`, `123`.

    >>> format_size(3 << 30), format_size(1000)
    ('3G', '1000')
    """
    for unit, scale in reversed(_UNITS.items()):
        if size_bytes and size_bytes % scale == 0:
            return f"{size_bytes // scale}{unit}"
    return str(size_bytes)


def align_up(value: int, alignment: int) -> int:
    """The next multiple of `alignment` (a power of two) at or above `value`."""
    return (value + alignment - 1) & ~(alignment - 1)


def align_down(value: int, alignment: int) -> int:
    """The last multiple of `alignment` (a power of two) at or below `value`."""
    return value & ~(alignment - 1)


@attrs.frozen(order=True)
class Region:
    """A run of guest-physical addresses with a name: `start`, `size_bytes`, and `end` one past the last byte."""

    start: int
    size_bytes: int
    name: str = ""

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.start + self.size_bytes

    def contains(self, start: int, size_bytes: int = 1) -> bool:
        """Whether `size_bytes` bytes from `start` all lie in here."""
        return self.start <= start and start + size_bytes <= self.end

    def overlaps(self, other: Region) -> bool:
        """Whether the two share a byte."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        addresses = f"{self.start:#x}-{max(self.end - 1, self.start):#x}"
        return f"{self.name} {addresses}" if self.name else addresses


class RamRegion:
    """One region of guest RAM and the host mapping behind it.

    `data` is all of it, for who only reads it, or tells by `wrote` when it has written.
    """

    def __init__(self, region: Region, *, shared: bool = False):
        self.region = region
        self.fd = -1
        self.host_writes: int | None = None if shared else 0
        """How often the host has written to it; None where that cannot be known: somebody has a view, or a file."""
        if shared and not hasattr(os, "memfd_create"):
            raise GuestMemoryError(
                f"cannot map shared guest RAM at {region}: this system ({sys.platform}) has no memfd_create, "
                "which Linux has; leave out shared=True"
            )
        try:
            if shared:
                self.fd = os.memfd_create(f"anyvisor-ram-{region.start:#x}", os.MFD_CLOEXEC)
                os.ftruncate(self.fd, region.size_bytes)
            self.mapping = mmap.mmap(self.fd, region.size_bytes, **_mapping_flags(shared))
        except (OSError, ValueError, OverflowError) as error:
            self._close_fd()
            raise GuestMemoryError(
                f"cannot map {format_size(region.size_bytes)} of guest RAM at {region}: {error}; ask for less memory"
            ) from error
        self.host_address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        self.data = memoryview(self.mapping)

    @property
    def view(self) -> memoryview:
        """All of it, to be read and written at any time."""
        self.host_writes = None
        return self.data

    def wrote(self) -> None:
        """Count a write of the host's, once it is done."""
        if self.host_writes is not None:
            self.host_writes += 1

    def close(self) -> None:
        """Give the mapping back. One that a caller still holds a view of goes with that view."""
        self.data.release()
        with contextlib.suppress(BufferError):
            self.mapping.close()
        self._close_fd()

    def _close_fd(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _mapping_flags(shared: bool) -> dict[str, int]:
    """Keyword arguments for mmap on this system (Windows takes none of them)."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return {}
    if shared:
        return {"flags": mmap.MAP_SHARED | _MAP_NORESERVE}
    return {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE}


class GuestMemory(Closing):
    """The guest's RAM: one host mapping per region, read and written by guest-physical address.

    Every access is checked: it lies within one region or raises `GuestMemoryError`. A context manager; `close` may
    be called twice.
    """

    def __init__(self, regions: Iterable[Region], *, shared: bool = False):
        wanted = sorted(regions)
        _check_regions(wanted)
        self.shared = shared
        self.regions: list[RamRegion] = []
        try:
            for region in wanted:
                self.regions.append(RamRegion(region, shared=shared))
        except GuestMemoryError:
            self.close()
            raise

    def view(self, guest_address: int, size_bytes: int) -> memoryview:
        """A writable window on `size_bytes` bytes at `guest_address`; no copy. Release it before closing the memory."""
        ram, offset = self._find(guest_address, size_bytes)
        return ram.view[offset : offset + size_bytes]

    def read(self, guest_address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes of guest RAM."""
        ram, offset = self._find(guest_address, size_bytes)
        with ram.data[offset : offset + size_bytes] as window:
            return bytes(window)

    def write(self, guest_address: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` into guest RAM."""
        ram, offset = self._find(guest_address, len(data))
        ram.data[offset : offset + len(data)] = data
        ram.wrote()

    def load(self, guest_address: int, file: BinaryIO, size_bytes: int) -> None:
        """Read exactly `size_bytes` bytes of `file` straight into guest RAM; no copy in between."""
        ram, offset = self._find(guest_address, size_bytes)
        with ram.data[offset : offset + size_bytes] as window, contextlib.ExitStack() as end:
            end.callback(ram.wrote)
            done = 0
            while done < size_bytes:
                with window[done:] as rest:
                    count = file.readinto(rest)  # type: ignore[attr-defined]
                if not count:
                    name = getattr(file, "name", "file")
                    raise GuestMemoryError(
                        f"{name} ends after {done} of the {size_bytes} bytes that belong at {guest_address:#x}"
                    )
                done += count

    @property
    def size_bytes(self) -> int:
        """All of the guest's RAM."""
        return sum(ram.region.size_bytes for ram in self.regions)

    def close(self) -> None:
        """Give every mapping back to the host."""
        while self.regions:
            self.regions.pop().close()

    def _find(self, guest_address: int, size_bytes: int) -> tuple[RamRegion, int]:
        """The region that holds these bytes, and where in it."""
        for ram in self.regions:
            offset = guest_address - ram.region.start
            if offset >= 0 and size_bytes >= 0 and offset + size_bytes <= ram.region.size_bytes:
                return ram, offset
        raise GuestMemoryError(self._outside(guest_address, size_bytes))

    def _outside(self, guest_address: int, size_bytes: int) -> str:
        have = ", ".join(str(ram.region) for ram in self.regions) or "nothing (closed)"
        return f"guest memory access of {size_bytes} byte(s) at {guest_address:#x} is outside one region of RAM: {have}"

    def __iter__(self) -> Iterator[RamRegion]:
        return iter(self.regions)


def _check_regions(regions: list[Region]) -> None:
    for region in regions:
        if region.size_bytes <= 0 or region.start % PAGE_BYTES or region.size_bytes % PAGE_BYTES:
            raise GuestMemoryError(f"RAM region {region} is not a whole number of {PAGE_BYTES}-byte pages")
    for first, second in itertools.pairwise(regions):
        if first.overlaps(second):
            raise GuestMemoryError(f"RAM region {first} overlaps {second}")
