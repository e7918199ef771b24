"""From linear to guest-physical addresses, for what the processor itself reads and writes while it delivers an event.

These are supervisor accesses (Intel SDM Vol. 3, 4.6): they go through the page tables as the guest's own do, set the
accessed and dirty flags, and may fault. SMAP and protection keys are not looked at: a kernel keeps its tables and
stacks in pages of its own.
"""

from __future__ import annotations

from anyvisor_unicorn import layout
from anyvisor_unicorn.faults import GP, PF, Fault
from anyvisor_unicorn.processor import Processor

PRESENT, WRITABLE, ACCESSED, DIRTY, LARGE = 1, 2, 1 << 5, 1 << 6, 1 << 7
ADDRESS = 0x000F_FFFF_FFFF_F000
PAGE_BYTES, PAGE_MASK, LINEAR_MASK = 0x1000, 0xFFF, (1 << 64) - 1
CR0_WP, CR0_PG = 1 << 16, 1 << 31
CR4_PSE, CR4_PAE = 1 << 4, 1 << 5
LONG_MODE, PAE = (39, 30, 21, 12), (30, 21, 12)
WRITE_ERROR = 2


def read_u64(cpu: Processor, linear: int, what: str) -> int:
    """The 64-bit word at a linear address."""
    return int.from_bytes(read(cpu, linear, 8, what), "little")


def read(cpu: Processor, linear: int, size_bytes: int, what: str) -> bytes:
    """Bytes at a linear address; Fault, telling `what` they are, when one cannot be read."""
    try:
        return _read(cpu, linear, size_bytes)
    except Fault as fault:
        fault.reason = f"{what} at {linear:#x} cannot be read: {fault.reason}"
        raise


def _read(cpu: Processor, linear: int, size_bytes: int) -> bytes:
    room = PAGE_BYTES - (linear & PAGE_MASK)
    if size_bytes > room:
        return _read(cpu, linear, room) + _read(cpu, linear + room, size_bytes - room)
    return bytes(_window(cpu, linear, size_bytes, write=False))


def write(cpu: Processor, linear: int, data: bytes, word_bytes: int = 8) -> None:
    """Put bytes at a linear address; Fault, and nothing is written, when one cannot be.

    They are words that are pushed: from the top down, and it is a word's address that a page fault tells.
    """
    try:
        _write(cpu, linear, data, word_bytes)
    except Fault as fault:
        fault.reason = f"the stack at {linear:#x} cannot be written: {fault.reason}"
        raise


def _write(cpu: Processor, linear: int, data: bytes, word_bytes: int) -> None:
    windows, end = [], linear + len(data)
    while end > linear:
        start = max(linear, end - 1 & ~PAGE_MASK)
        windows.append(_window(cpu, start, end - start, write=True, touched=max(0, end - start - word_bytes)))
        end = start
    for window in reversed(windows):
        window[:], data = data[: len(window)], data[len(window) :]


def _window(cpu: Processor, linear: int, size_bytes: int, *, write: bool, touched: int = 0) -> memoryview:
    """A window on bytes within one page; `touched` is the one among them that is accessed first."""
    linear = linear + touched & LINEAR_MASK
    try:
        return cpu.ram.window(translate(cpu, linear, write=write) - touched, size_bytes)
    except LookupError:
        raise Fault(PF, WRITE_ERROR if write else 0, linear, reason=f"{linear:#x} leads outside RAM") from None


def translate(cpu: Processor, linear: int, *, write: bool) -> int:
    """The guest-physical address behind a linear one; Fault when there is none, LookupError for tables outside RAM."""
    if not cpu.u64[layout.CR0] & CR0_PG:
        return linear & 0xFFFFFFFF
    if not cpu.u64[layout.CR4] & CR4_PAE:
        return _translate_32_bit(cpu, linear & 0xFFFFFFFF, write=write)
    if cpu.u32[layout.HFLAGS] & layout.H_LMA:
        if not is_canonical(linear):
            raise Fault(GP, reason=f"{linear:#x} is not canonical")
        return _translate(cpu, linear, LONG_MODE, cpu.u64[layout.CR3] & ADDRESS, write=write)
    return _translate(cpu, linear & 0xFFFFFFFF, PAE, cpu.u64[layout.CR3] & 0xFFFFFFE0, write=write)


def _translate(cpu: Processor, linear: int, shifts: tuple[int, ...], table: int, *, write: bool) -> int:
    """Tables of 512 entries of 8 bytes; at the top of PAE paging there are four entries, without flags."""
    ram, rights = cpu.ram, WRITABLE
    for shift in shifts:
        place = table + (linear >> shift & 0x1FF) * 8
        entry = ram.read_u64(place)
        if not entry & PRESENT:
            raise _not_mapped(linear, write=write)
        has_flags = shift != 30 or shifts is LONG_MODE
        is_page = shift == 12 or (entry & LARGE and shift < 39 and has_flags)
        if has_flags:
            rights &= entry
        if is_page and write:
            _check_writable(cpu, linear, rights)
        flags = (ACCESSED | (DIRTY if is_page and write else 0)) if has_flags else 0
        if flags & ~entry:
            ram.write_u64(place, entry | flags)
        if is_page:
            offset = (1 << shift) - 1
            return entry & ADDRESS & ~offset | linear & offset
        table = entry & ADDRESS
    raise AssertionError("the last level is a page")


def _translate_32_bit(cpu: Processor, linear: int, *, write: bool) -> int:
    """Two levels of 1024 entries of 4 bytes; with CR4.PSE, large pages of 4 MiB."""
    rights, table = WRITABLE, cpu.u64[layout.CR3] & 0xFFFFF000
    for shift in (22, 12):
        window = cpu.ram.window(table + (linear >> shift & 0x3FF) * 4, 4)
        entry = int.from_bytes(window, "little")
        if not entry & PRESENT:
            raise _not_mapped(linear, write=write)
        rights &= entry
        is_page = shift == 12 or (entry & LARGE and cpu.u64[layout.CR4] & CR4_PSE)
        if is_page and write:
            _check_writable(cpu, linear, rights)
        window[:] = (entry | ACCESSED | (DIRTY if is_page and write else 0)).to_bytes(4, "little")
        table = entry & 0xFFFFF000
        if shift == 22 and is_page:
            return (entry >> 13 & 0xFF) << 32 | entry & 0xFFC00000 | linear & 0x3FFFFF
    return table | linear & PAGE_MASK


def _check_writable(cpu: Processor, linear: int, rights: int) -> None:
    if not rights & WRITABLE and cpu.u64[layout.CR0] & CR0_WP:
        raise Fault(PF, PRESENT | WRITE_ERROR, linear, reason=f"{linear:#x} is mapped read-only")


def _not_mapped(linear: int, *, write: bool) -> Fault:
    return Fault(PF, WRITE_ERROR if write else 0, linear, reason=f"{linear:#x} is not mapped")


def is_canonical(linear: int) -> bool:
    """Whether a 64-bit address is one that four levels of tables can translate."""
    return linear >> 47 in (0, 0x1FFFF)
