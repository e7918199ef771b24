"""What guests do in each mode, what their handlers are to see (Intel SDM Vol. 3, chapter 6), and who is fit to judge.

Not every judge is fit for everything. A KVM on a machine without VMX and SVM interprets its guests: outside of real
mode it knows no INT, in protected mode no IRET and no paging, and of gates and descriptors it checks little. QEMU 7.2
never sets EXT in an error code, does not check the limits of segments, has #TS where the manual has #SS for an absent
stack, takes a gate's place in the IDT for its index (long mode), and forgets the arithmetic flags in SYSCALL.
"""

import attrs
from event_guests import Guest
from event_layout import LONG, PROTECTED, REAL

from anyvisor.exits import Exit, Halted, Shutdown

DE, DB, BP, OF, UD, DF, TS, NP, SS, GP, PF = 0, 1, 3, 4, 6, 8, 10, 11, 12, 13, 14
INT, DONE = 0x20, (UD, 0)
EXT, IN_IDT = 1, 2
KVM, QEMU, BOTH, NOBODY = ("kvm",), ("qemu",), ("kvm", "qemu"), ()


@attrs.frozen
class Case:
    name: str
    guest: Guest
    events: list
    judges: tuple = BOTH
    exit: Exit = attrs.field(factory=Halted)
    left_behind: dict = attrs.field(factory=dict)
    """{address: bytes} that are in RAM at the end."""


def with_end(mode, source):
    register = {REAL: "bx", PROTECTED: "ebx", LONG: "rbx"}[mode]
    return f"{source}\nmov $1, %{register}; ud2\n"


def case(mode, name, source, *events, judges=BOTH, left=None, **fields):
    """A guest that ends with #UD, of which events does not have to tell."""
    left = left or Halted()
    done = [DONE] if left == Halted() else []
    return Case(f"{mode}: {name}", Guest(mode, with_end(mode, source), **fields), [*events, *done], judges, left)


def dying(mode, name, source, *events, judges=BOTH, **fields):
    """A guest that is halted by its first event, or shuts down before."""
    register = {REAL: "bx", PROTECTED: "ebx", LONG: "rbx"}[mode]
    left = Halted() if events else Shutdown()
    return Case(
        f"{mode}: {name}", Guest(mode, f"mov $1, %{register}\n{source}\nhlt\n", **fields), [*events], judges, left
    )


def on(mode, instruction):
    """An instruction that faults, and where to go on."""
    register = {REAL: "bx", PROTECTED: "ebx", LONG: "rbx"}[mode]
    return f"mov $7f, %{register}; {instruction}; hlt\n7: xor %{register}, %{register}\n"


def faults(mode, name, instruction, *events, **options):
    return case(mode, name, on(mode, instruction), *events, **options)
