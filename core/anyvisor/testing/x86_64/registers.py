"""The general-purpose registers, RIP and the flags: what is put is the guest's, and what the guest has is got."""

from __future__ import annotations

import struct

from anyvisor.exits import Halted
from anyvisor.testing.bench import CODE, DATA, STACK
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.guests import by_mode, in_every_mode
from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.modes import LONG
from anyvisor.x86_64.state import Regs

EIGHT = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
"""As PUSHA pushes them, and as they are numbered."""
SIXTEEN = (*EIGHT, *(f"r{number}" for number in range(8, 16)))
FLAGS = Rflags(fixed=True, cf=True, pf=True, sf=True, df=True, of=True, iopl=3, id=True)
OTHER_FLAGS = Rflags(fixed=True, af=True, zf=True, nt=True)

# fmt: off
PUSH_ALL = by_mode(
    bytes([0x66, 0x60,  # pushad
           0x66, 0x9C,  # pushfd
           0xF4]),      # hlt
    bytes([0x60,    # pushad
           0x9C,    # pushfd
           0xF4]),  # hlt
    bytes([0x50, 0x51, 0x52, 0x53,                          # push rax; push rcx; push rdx; push rbx
           0x54, 0x55, 0x56, 0x57,                          # push rsp; push rbp; push rsi; push rdi
           0x41, 0x50, 0x41, 0x51, 0x41, 0x52, 0x41, 0x53,  # push r8; push r9; push r10; push r11
           0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57,  # push r12; push r13; push r14; push r15
           0x9C,                                            # pushfq
           0xF4]))                                          # hlt

POP_ALL = by_mode(
    bytes([0x66, 0x9D,  # popfd
           0x66, 0x61,  # popad
           0x66, 0x5C,  # pop esp
           0xF4]),      # hlt
    bytes([0x9D,    # popfd
           0x61,    # popad
           0x5C,    # pop esp
           0xF4]),  # hlt
    bytes([0x9D,                                            # popfq
           0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C,  # pop r15; pop r14; pop r13; pop r12
           0x41, 0x5B, 0x41, 0x5A, 0x41, 0x59, 0x41, 0x58,  # pop r11; pop r10; pop r9; pop r8
           0x5F, 0x5E, 0x5D, 0x5B,                          # pop rdi; pop rsi; pop rbp; pop rbx
           0x5B, 0x5A, 0x59, 0x58,                          # pop rbx; pop rdx; pop rcx; pop rax
           0x5C,                                            # pop rsp
           0xF4]))                                          # hlt
# fmt: on


def names_of(mode: str) -> tuple[str, ...]:
    """The general-purpose registers of a mode."""
    return SIXTEEN if mode == LONG else EIGHT


def different_values(mode: str) -> dict[str, int]:
    """A value for each register, as wide as the guest can see in that mode."""
    width = 64 if mode == LONG else 32
    return {name: (index + 1) * 0x9182_7364_5546_3728 & (1 << width) - 1 for index, name in enumerate(names_of(mode))}


@needs(architecture="x86_64")
class RegistersContract(Contract):
    """`Regs` from both sides."""

    @in_every_mode
    def test_the_guest_has_the_registers_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """Each of the 8 or 16 registers holds its own value, of full width, at the first instruction."""
        wanted = different_values(mode) | {"rsp": STACK}
        made = bench()
        made.enter(PUSH_ALL, mode, **wanted)
        assert made.run() == Halted()
        size = 8 if mode == LONG else 4
        found = {
            name: int.from_bytes(made.memory.read(STACK - size * number, size), "little")
            for number, name in enumerate(names_of(mode), start=1)
        }
        pushed_before_rsp = size * EIGHT.index("rsp") if mode == LONG else 0
        wanted["rsp"] -= pushed_before_rsp
        assert {name: hex(value) for name, value in found.items()} == {name: hex(each) for name, each in wanted.items()}

    @in_every_mode
    def test_the_guest_has_the_flags_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """PUSHF at the first instruction pushes what `Regs.rflags` said."""
        made, size = bench(), 8 if mode == LONG else 4
        for wanted in (FLAGS, OTHER_FLAGS):
            made.enter(PUSH_ALL, mode, rflags=wanted)
            assert made.run() == Halted()
            at = STACK - size * (len(names_of(mode)) + 1)
            found = Rflags(int.from_bytes(made.memory.read(at, size), "little"))
            assert found == wanted, f"the guest's flags are {found.words()}, put were {wanted.words()}"

    @in_every_mode
    def test_get_gives_the_registers_that_the_guest_has_set(self, bench: MakeBench, mode: str) -> None:
        """When `run` returns, `get(Regs)` has each register as the guest left it, and RIP behind the HLT."""
        wanted, size = different_values(mode), 8 if mode == LONG else 4
        popped = [int(OTHER_FLAGS), *(wanted[name] for name in reversed(names_of(mode))), wanted["rsp"]]
        made = bench()
        made.memory.write(DATA, b"".join(value.to_bytes(size, "little") for value in popped))
        made.enter(POP_ALL, mode, rsp=DATA, rflags=FLAGS)
        assert made.run() == Halted()
        regs = made.vcpu.get(Regs)
        found = {name: hex(getattr(regs, name)) for name in names_of(mode)}
        assert found == {name: hex(value) for name, value in wanted.items()}
        assert regs.rflags == OTHER_FLAGS, f"flags are {regs.rflags.words()}, and the guest's {OTHER_FLAGS.words()}"
        assert regs.rip == CODE + len(POP_ALL.code[mode]), "RIP is behind the HLT"

    @in_every_mode
    def test_registers_that_are_got_can_be_put_back(self, bench: MakeBench, mode: str) -> None:
        """A guest whose registers are read and written back, unchanged, goes on as if nothing had been."""
        made, values = bench(), different_values(mode)
        made.enter(PUSH_ALL, mode, **values | {"rsp": STACK})
        before = made.vcpu.get(Regs)
        made.vcpu.put(before)
        assert made.vcpu.get(Regs) == before
        assert made.run() == Halted()
        size = 8 if mode == LONG else 4
        assert made.memory.read(STACK - size, size) == struct.pack("<Q", values["rax"])[:size]
