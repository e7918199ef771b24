"""By how much a running Linux is moved from the addresses of its symbols, and the names of its code before it moves.

Some facts about KASLR on x86_64. The unpacker in a bzImage picks two places at random: a physical one, anywhere in
RAM, and a virtual one, up to 1 GiB above where the kernel is linked; both in steps of 2 MiB. It then adds the virtual
distance to every address in the kernel that is listed as one. A vmlinux that is entered directly does not move, nor
does a kernel with `nokaslr` on its command line. A kernel for i386 moves its physical and virtual place together, in
steps of 8 KiB at least.

What tells the distance are registers that point to functions with known names: IA32_LSTAR, where SYSCALL leads
(SDM Vol. 2, SYSCALL), and the gates of the IDT (SDM Vol. 3, 6.10 and 6.14.1). Before the kernel has set them, its page
tables do: one of the places that it can be in has the words "Linux version" where `linux_banner` must lie.

The first instructions of a kernel run at physical addresses, in an identity map: an address is that of the symbol less
`__START_KERNEL_map`, and plus how far the physical place was moved.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterator, Mapping

from anyvisor.errors import AnyvisorError
from anyvisor.memory import GIB, KIB, MIB, align_up
from anyvisor.states import VcpuState
from anyvisor.symbols import REACH_BYTES, Symbols
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.page_walk import Read, Walk, walk
from anyvisor.x86_64.paging_modes import paging_of
from anyvisor.x86_64.state import Sregs

States = Mapping[type[VcpuState], VcpuState]

MAX_SLIDE_BYTES = 1 * GIB
STEP_BYTES = {32: 8 * KIB, 64: 2 * MIB}
"""What a slide is a multiple of."""
KERNEL_MAP = {32: 0xC000_0000, 64: 0xFFFF_FFFF_8000_0000}
"""The virtual address of the physical one 0 in the kernel's own map: PAGE_OFFSET, and __START_KERNEL_map."""
SYSCALL_ENTRY = "entry_SYSCALL_64"
IMAGE_END = "_end"
MAX_IMAGE_BYTES = 1 * GIB
"""As much of the address space as a kernel has for its image."""
BANNER, BANNER_STARTS = "linux_banner", b"Linux version "
HANDLERS = {
    0: "divide_error",
    4: "overflow",
    5: "bounds",
    6: "invalid_op",
    7: "device_not_available",
    10: "invalid_tss",
    11: "segment_not_present",
    12: "stack_segment",
    13: "general_protection",
    14: "page_fault",
    17: "alignment_check",
}
"""The handler of each vector, `asm_exc_divide_error` from Linux 5.8 on and `divide_error` before."""
_GATE_BYTES = {32: 8, 64: 16}


def slide(symbols: Symbols, states: States, read: Read) -> int:
    """How many bytes above its symbols a kernel runs; 0 when it has not moved, or nothing is known.

    `states` are those of a vCPU, of which Msrs and Sregs are looked at; `read` gives the guest's memory. Raises nothing
    for what a guest may have in either.
    """
    for witness in (_by_syscall, _by_idt, _by_banner):
        found = witness(symbols, states, read)
        if found is not None:
            return found
    return 0


def kernel_name(symbols: Symbols, address: int, states: States, read: Read) -> str | None:
    """What lies at a linear address, also in the identity map in which a kernel runs its first instructions.

    `startup_64+0x12 (at its physical address)`: it is said so only where the address leads to itself, and the kernel's
    banner lies as far from it as the symbols say. None where there is no name.
    """
    name = symbols.name(address)
    if name is not None or not 0 <= address < 4 * GIB or _physical(states, read, address) != address:
        return name
    for moved in _physical_moves(symbols, address, read):
        if name := symbols.name(address - moved + KERNEL_MAP[_bits(symbols)]):
            return f"{name} (at its physical address)"
    return None


# -- witnesses -------------------------------------------------------------------------------------------------


def _by_syscall(symbols: Symbols, states: States, _: Read) -> int | None:
    msrs, linked = states.get(Msrs), symbols.address(SYSCALL_ENTRY)
    target = msrs.get(Msr.LSTAR) if isinstance(msrs, Msrs) else None
    return _possible(symbols, target - linked) if target and linked else None


def _by_idt(symbols: Symbols, states: States, read: Read) -> int | None:
    """What most of the handlers say."""
    votes: collections.Counter[int] = collections.Counter()
    for vector, name in HANDLERS.items():
        linked = symbols.address(f"asm_exc_{name}") or symbols.address(name)
        handler = _handler(states, read, vector)
        found = _possible(symbols, handler - linked) if handler and linked else None
        if found is not None:
            votes[found] += 1
    (most, count), *_ = votes.most_common(1) or [(0, 0)]
    return most if count > len(HANDLERS) // 4 else None


def _handler(states: States, read: Read, vector: int) -> int | None:
    """The offset in the gate of a vector."""
    sregs = states.get(Sregs)
    if not isinstance(sregs, Sregs):
        return None
    bits = 64 if sregs.efer.lma else 32
    start = vector * _GATE_BYTES[bits]
    gate = b""
    if start + _GATE_BYTES[bits] <= sregs.idt.limit + 1:
        gate = _linear(states, read, sregs.idt.base + start, _GATE_BYTES[bits])
    return int.from_bytes(gate[0:2] + gate[6:8] + gate[8:12], "little") if gate else None


def _by_banner(symbols: Symbols, states: States, read: Read) -> int | None:
    linked, sregs = symbols.address(BANNER), states.get(Sregs)
    if linked is None or not isinstance(sregs, Sregs):
        return None
    step_bytes, found = _banner_step(symbols), 0
    while found < MAX_SLIDE_BYTES:
        led = walk(read, sregs, linked + found)
        if led.guest_address is not None and _is_banner(read, led.guest_address):
            return found
        found += align_up(_hole_bytes(led, sregs), step_bytes) or step_bytes
    return None


def _hole_bytes(led: Walk, sregs: Sregs) -> int:
    """How many addresses from the one that was walked on lead nowhere as it does; 0 where it leads somewhere."""
    paging = paging_of(sregs)
    if led.guest_address is not None or paging is None:
        return 0
    if not led.steps:
        return MAX_SLIDE_BYTES
    covers_bytes = paging.covers_bytes(led.steps[-1].level)
    return covers_bytes - led.address % covers_bytes


def _physical_moves(symbols: Symbols, address: int, read: Read) -> Iterator[int]:
    """How far from its physical place a kernel lies that reaches `address`, as its banner shows.

    Several where there are several copies. As many places are looked at as the kernel is big, in steps.
    """
    banner, kernel_map = symbols.address(BANNER), KERNEL_MAP[_bits(symbols)]
    if banner is None or banner < kernel_map:
        return
    start, end = (each - kernel_map for each in _image(symbols))
    step_bytes = _banner_step(symbols)
    for moved in range(align_up(max(address - end, -start), step_bytes), address - start + 1, step_bytes):
        if _is_banner(read, banner - kernel_map + moved):
            yield moved


def _image(symbols: Symbols) -> tuple[int, int]:
    """The addresses of a kernel, modules not counted: that of its first symbol, and one that no name reaches."""
    first = bisect.bisect_left(symbols.addresses, KERNEL_MAP[_bits(symbols)] - symbols.slide)
    start = symbols.addresses[first] + symbols.slide
    last = symbols.address(IMAGE_END) or symbols.addresses[-1] + symbols.slide
    return start, min(last + REACH_BYTES, start + MAX_IMAGE_BYTES)


# -- reading ---------------------------------------------------------------------------------------------------


def _is_banner(read: Read, guest_address: int) -> bool:
    try:
        return read(guest_address, len(BANNER_STARTS)) == BANNER_STARTS
    except AnyvisorError:
        return False


def _banner_step(symbols: Symbols) -> int:
    """How far apart the places are that a kernel is looked for in: more than its steps, where those are many."""
    return max(STEP_BYTES[_bits(symbols)], MIB)


def _bits(symbols: Symbols) -> int:
    """Whether it is a kernel for x86_64 or for i386."""
    return 64 if symbols.addresses and symbols.addresses[-1] >> 32 else 32


def _possible(symbols: Symbols, distance: int) -> int | None:
    """The distance, if a kernel can have moved so far."""
    return distance if 0 <= distance < MAX_SLIDE_BYTES and distance % STEP_BYTES[_bits(symbols)] == 0 else None


def _physical(states: States, read: Read, address: int) -> int | None:
    sregs = states.get(Sregs)
    return walk(read, sregs, address).guest_address if isinstance(sregs, Sregs) else None


def _linear(states: States, read: Read, address: int, size_bytes: int) -> bytes:
    """What is at a linear address, within a page; empty where there is no memory."""
    place = _physical(states, read, address)
    try:
        return read(place, size_bytes) if place is not None else b""
    except AnyvisorError:
        return b""
