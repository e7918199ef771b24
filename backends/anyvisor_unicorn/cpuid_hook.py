"""What CPUID answers, from the vCPU's own table."""

from __future__ import annotations

from unicorn import x86_const as x86

from anyvisor.x86_64.cpuid import Cpuid
from anyvisor_unicorn.engine import Engine

REGISTERS = (x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX)
OSXSAVE = 1 << 27
"""Bit of leaf 1, ECX, that shows what CR4 says of XSAVE."""
CR4_OSXSAVE = 1 << 18


class CpuidHook:
    """Answers from `table`; the engine answers itself as long as there is none."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._table: Cpuid | None = None
        self._answers: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    @property
    def table(self) -> Cpuid:
        """The vCPU's CPUID table; empty when none was put."""
        return self._table or Cpuid()

    @table.setter
    def table(self, table: Cpuid) -> None:
        self._table = table
        self._answers.clear()

    def answer(self) -> bool:
        """Set the registers as CPUID does; False when the engine is to do it."""
        if self._table is None:
            return False
        engine = self._engine
        leaf, subleaf = (engine.read(register) & 0xFFFFFFFF for register in (REGISTERS[0], REGISTERS[2]))
        answer = self._answers.get((leaf, subleaf))
        if answer is None:
            answer = self._answers[leaf, subleaf] = self._table[leaf, subleaf].registers
        for register, value in zip(REGISTERS, answer, strict=True):
            engine.write(register, value)
        if leaf == 1:
            on = engine.read(x86.UC_X86_REG_CR4) & CR4_OSXSAVE
            engine.write(REGISTERS[2], answer[2] | OSXSAVE if on else answer[2] & ~OSXSAVE)
        return True
