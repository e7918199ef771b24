"""What KVM says of a guest that it cannot run on, in words.

Some facts about internal errors. All have a code and a count of 64-bit words; what the words are follows from the code
and from nothing else, and differs between kernels by its end. The one for an instruction that could not be emulated is
described in linux/kvm.h (since Linux 5.15): a word of flags, then, if bit 0 of those is set, the instruction in two
words: a byte that says how many bytes of code KVM had fetched, which are more than the instruction has, and 15 bytes
of code. When KVM could not fetch any, they are missing. Behind that stands why the processor left the guest, in five
words that linux/kvm.h says nothing of. Linux before 5.15 tells no words at all.
"""

from __future__ import annotations

import ctypes

from anyvisor.exits import FailEntry, InternalError
from anyvisor.x86_64.exceptions import exception_kind
from anyvisor.x86_64.hardware_reasons import entry_failure, exit_reason
from anyvisor_kvm.exit_abi import KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as HAS_INSTRUCTION
from anyvisor_kvm.exit_abi import kvm_run_emulation_failure
from anyvisor_kvm.x86_64.extension import host_extension

EMULATION, SIMULTANEOUS_EXCEPTIONS, DELIVERY, UNEXPECTED_EXIT = 1, 2, 3, 4
"""KVM_INTERNAL_ERROR_..."""
CAUSES = {
    EMULATION: "an instruction could not be emulated",
    SIMULTANEOUS_EXCEPTIONS: "an exception came while another event was delivered",
    DELIVERY: "the processor left the guest while an event was delivered",
    UNEXPECTED_EXIT: "the processor left the guest for a reason that KVM does not handle",
}
EXIT_INFO = ("exit_reason", "exit_info_1", "exit_info_2", "intr_info", "error_code")
WORDS = {
    SIMULTANEOUS_EXCEPTIONS: ("vectoring_info", "intr_info", "error_code", "last_entry_cpu"),
    DELIVERY: ("vectoring_info", "exit_reason", "exit_qualification", "last_entry_cpu"),
    UNEXPECTED_EXIT: ("exit_reason", "last_entry_cpu"),
}
WORDS_OF_DELIVERY_WITH_ADDRESS = (*WORDS[DELIVERY][:3], "guest_physical_address", "last_entry_cpu")
INSTRUCTION_BYTES = kvm_run_emulation_failure.insn_bytes.size
INSTRUCTION_WORDS = (1 + INSTRUCTION_BYTES) // ctypes.sizeof(ctypes.c_uint64)
EVENT_KINDS = {0: "interrupt", 2: "NMI", 3: "", 4: "INT", 5: "INT1", 6: ""}
"""Types of an event in a processor's description of one; the same in SDM Vol. 3, 25.9.2, and APM Vol. 2, 15.20."""
EVENT_VALID = 1 << 31


def fail_entry(hardware_reason: int, cpu: int) -> FailEntry:
    """A refused entry, with the processor's reason in words."""
    return FailEntry(hardware_reason, cpu, entry_failure(hardware_reason, host_extension()))


def internal_error(suberror: int, words: tuple[int, ...]) -> InternalError:
    """An internal error, with the instruction and the meaning of its words, as far as those go."""
    instruction, details = b"", _named(_names(suberror, len(words)), words)
    if suberror == EMULATION:
        instruction, details = _emulation_failure(words)
    return InternalError(suberror, words, _cause(suberror, dict(details)), instruction, details)


def _names(suberror: int, count: int) -> tuple[str, ...]:
    if suberror == DELIVERY and count >= len(WORDS_OF_DELIVERY_WITH_ADDRESS):
        return WORDS_OF_DELIVERY_WITH_ADDRESS
    return WORDS.get(suberror, ())


def _emulation_failure(words: tuple[int, ...]) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """The bytes of the instruction, and the rest by name."""
    flags, rest, instruction = words[:1], words[1:], b""
    if flags and flags[0] & HAS_INSTRUCTION and len(rest) >= INSTRUCTION_WORDS:
        raw = b"".join(word.to_bytes(8, "little") for word in rest[:INSTRUCTION_WORDS])
        instruction, rest = raw[1 : 1 + min(raw[0], INSTRUCTION_BYTES)], rest[INSTRUCTION_WORDS:]
    return instruction, _named(("flags",), flags) + _named(EXIT_INFO, rest)


def _named(names: tuple[str, ...], words: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    """Words by name, those beyond the names by their number; nothing where no name is known."""
    if not names:
        return ()
    others = (f"word_{number}" for number in range(len(names), len(words)))
    return tuple(zip((*names, *others), words, strict=False))


def _cause(suberror: int, details: dict[str, int]) -> str:
    said = CAUSES.get(suberror, "")
    if not said:
        return ""
    for name, word in (("intr_info", "the exception"), ("vectoring_info", "the event")):
        event = _event(details.get(name, 0))
        said += f", {word} {event}" if event and suberror != EMULATION else ""
    reason = _exit_reason(details.get("exit_reason"))
    return f"{said}, exit reason {reason}" if reason else said


def _exit_reason(number: int | None) -> str:
    """In words; software KVM has numbers of its own, and what they mean is not known."""
    extension = host_extension()
    return "" if number is None or extension == "" else exit_reason(number, extension)


def _event(info: int) -> str:
    """An event as processors describe it: its vector, its type, and whether there is one."""
    if not info & EVENT_VALID:
        return ""
    kind, vector = EVENT_KINDS.get(info >> 8 & 7), info & 0xFF
    return str(exception_kind(vector)) if not kind else f"{kind} {vector:#x}"
