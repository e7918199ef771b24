"""Events into the guest: exceptions, interrupts and SYSCALL, which the engine reports and does not deliver.

Some facts about what the engine leaves behind. For a fault RIP is at the instruction, for a software interrupt behind
it. The last exception is remembered and never forgotten, so that the second page fault would be reported as a double
fault: every delivery clears it.
"""

from __future__ import annotations

from anyvisor.exits import GuestException
from anyvisor.x86_64.exceptions import exception_kind
from anyvisor_unicorn import layout, long_mode, protected_mode, real_mode
from anyvisor_unicorn.faults import BP, OF, PF, UD, WITH_ERROR_CODE, Fault, TripleFault, during
from anyvisor_unicorn.long_mode import FLAG_RF
from anyvisor_unicorn.processor import Processor

SYSCALL_BYTES = 2
ADDRESS_MASK = (1 << 64) - 1


def deliver_exception(cpu: Processor, vector: int) -> None:
    """Deliver what the engine has just reported; within its hook. TripleFault when that cannot be done."""
    cpu.engine.save()
    software = bool(cpu.u32[layout.IS_SOFTWARE])
    has_error_code = vector in WITH_ERROR_CODE and not software
    _deliver(cpu, vector, cpu.u32[layout.ERROR_CODE] if has_error_code else None, software=software)
    cpu.engine.restore()


def deliver_invalid_opcode(cpu: Processor) -> None:
    """Deliver #UD; within the hook for invalid instructions."""
    cpu.engine.save()
    _deliver(cpu, UD, None, software=False)
    cpu.engine.restore()


def deliver_interrupt(cpu: Processor, vector: int) -> None:
    """Deliver an external interrupt into the state that was just saved, between two instructions."""
    _deliver(cpu, vector, None, software=False, reason="an interrupt from outside")
    cpu.engine.restore()


def _deliver(cpu: Processor, vector: int, error_code: int | None, *, software: bool, reason: str = "") -> None:
    """Enter the handler, or that of the fault which this meets, and so on. `reason` is why the event came.

    TripleFault, with the processor at the instruction that it began with and nothing delivered.
    """
    rflags, first, cr2 = cpu.rflags(), (vector, error_code), cpu.u64[layout.CR2]
    hflags = cpu.u32[layout.HFLAGS]
    mode = long_mode if hflags & layout.H_LMA else protected_mode if hflags & layout.H_PE else real_mode
    met: list[GuestException] = []
    while True:
        try:
            mode.enter(cpu, vector, error_code, software=software, rflags=rflags)
        except Fault as fault:
            if software:
                cpu.u64[layout.RIP] -= 1 if vector in (BP, OF) else 2
                software, reason = False, "a software interrupt"
            met.append(fault.told())
            instead = during(vector, fault)
            if instead is None:
                raise _triple_fault(cpu, first, cr2, reason, met) from None
            if instead is not fault:
                met.append(instead.told())
            vector, error_code = instead.vector, instead.error_code
            if fault.linear is not None:
                cpu.u64[layout.CR2] = fault.linear
        else:
            cpu.u32[layout.OLD_EXCEPTION] = layout.NO_EXCEPTION
            return


def _triple_fault(
    cpu: Processor, first: tuple[int, int | None], cr2: int, reason: str, met: list[GuestException]
) -> TripleFault:
    """Put the processor back to the event that could not be delivered, and say what led from it to here."""
    vector, error_code = first
    cpu.u64[layout.CR2] = cr2
    cpu.u32[layout.OLD_EXCEPTION] = layout.NO_EXCEPTION
    cpu.engine.restore()
    address = cr2 if vector == PF and not reason else None
    name = exception_kind(vector).mnemonic
    return TripleFault((GuestException(vector, error_code, address, cpu.u64[layout.RIP], reason, name), *met))


def enter_syscall(cpu: Processor) -> None:
    """SYSCALL: to the kernel's entry that the MSRs name. AMD APM Vol. 3, "SYSCALL"; the engine adds its length."""
    cpu.engine.save()
    u64, rflags = cpu.u64, cpu.rflags()
    star = u64[layout.STAR]
    in_long_mode = cpu.u32[layout.HFLAGS] & layout.H_LMA
    next_rip = u64[layout.RIP] + SYSCALL_BYTES & ADDRESS_MASK
    u64[layout.RCX] = next_rip
    if not in_long_mode:
        _enter_legacy_syscall(cpu, star)
    else:
        from_64_bit = cpu.u32[layout.HFLAGS] & layout.H_CS64
        u64[layout.R11] = rflags & ~FLAG_RF
        selector = star >> 32 & 0xFFFC
        cpu.set_segment(layout.CS, selector, 0, 0xFFFFFFFF, layout.F_64_BIT_CODE)
        cpu.set_segment(layout.SS, selector + 8, 0, 0xFFFFFFFF, layout.F_FLAT_DATA)
        long_mode.enter_64_bit_code(cpu, 0)
        mask = u64[layout.FMASK] & 0xFFFFFFFF
        u64[layout.RFLAGS] &= ~(mask | FLAG_RF)
        u64[layout.CC_SRC] = rflags & ~mask & layout.ARITHMETIC_FLAGS
        cpu.u32[layout.CC_OP] = layout.CC_OP_FLAGS
        if mask & 1 << 10:
            cpu.u32[layout.DF] = 1
        u64[layout.RIP] = u64[layout.LSTAR if from_64_bit else layout.CSTAR] - SYSCALL_BYTES & ADDRESS_MASK
    cpu.engine.restore()


def _enter_legacy_syscall(cpu: Processor, star: int) -> None:
    """SYSCALL in protected mode: EIP from STAR, interrupts off."""
    selector = star >> 32 & 0xFFFC
    cpu.set_segment(layout.CS, selector, 0, 0xFFFFFFFF, 0x00CF9B00)
    cpu.set_segment(layout.SS, selector + 8, 0, 0xFFFFFFFF, layout.F_FLAT_DATA)
    cpu.u32[layout.HFLAGS] = cpu.u32[layout.HFLAGS] & ~layout.H_CPL | layout.H_CS32 | layout.H_SS32
    cpu.u64[layout.RFLAGS] &= ~(long_mode.FLAG_IF | long_mode.FLAG_VM | FLAG_RF)
    cpu.u64[layout.RIP] = (star & 0xFFFFFFFF) - SYSCALL_BYTES & ADDRESS_MASK
