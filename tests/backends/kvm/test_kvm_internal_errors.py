"""Guests that KVM cannot run on: what it says of them, decoded from run pages that tests fill in, and for real."""

import struct

import attrs
import pytest
from tiny_guests import HALT, MMIO, SPIN, Source, long_mode, protected_mode

from anyvisor.exits import FailEntry, GuestException, InternalError, Shutdown
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs
from anyvisor_kvm.x86_64 import reasons
from anyvisor_kvm.x86_64.extension import extension_in, host_extension
from anyvisor_kvm.x86_64.reasons import fail_entry, internal_error
from anyvisor_kvm.x86_64.shutdown import is_reset

EPT_VIOLATION, NPF = 48, 0x400
PAGE_FAULT_INFO = 1 << 31 | 3 << 8 | 14
"""A page fault as processors describe an event: it is valid, of the type exception, with its vector."""


@pytest.fixture(params=["vmx", "svm", "", None])
def extension(request, monkeypatch):
    monkeypatch.setattr(reasons, "host_extension", lambda: request.param)
    return request.param


def emulation(*code, size=15, flags=1, info=(EPT_VIOLATION, 2, 3, 4, 5)):
    """The words of an emulation failure."""
    return (flags, *struct.unpack("<2Q", bytes([size, *code]).ljust(16, b"\x90")), *info)


def test_an_emulation_failure_has_its_instruction_and_why_the_processor_left(extension):
    found = internal_error(1, emulation(0xD9, 0xE8, size=2))
    assert (found.suberror, found.instruction) == (1, b"\xd9\xe8")
    expected = {"flags": 1, "exit_reason": 48, "exit_info_1": 2, "exit_info_2": 3, "intr_info": 4, "error_code": 5}
    assert dict(found.details) == expected
    reason = {
        "vmx": ", exit reason EPT_VIOLATION",
        "svm": ", exit reason WRITE_DR0",
        "": "",
        None: ", exit reason VMX: EPT_VIOLATION, SVM: WRITE_DR0",
    }
    assert found.cause == f"an instruction could not be emulated{reason[extension]}"
    assert "suberror 1, instruction d9 e8, flags 0x1, exit_reason 0x30" in found.describe()


@pytest.mark.parametrize(
    ("words", "instruction", "names"),
    [
        ((), b"", []),
        ((1,), b"", ["flags"]),
        ((1, 0x900F), b"", ["flags", "exit_reason"]),
        ((0, 48, 1), b"", ["flags", "exit_reason", "exit_info_1"]),
        ((1 << 63 | 1, *emulation(0xF4, size=1)[1:3]), b"\xf4", ["flags"]),
        (emulation(*range(15), size=255)[:3], bytes(range(15)), ["flags"]),
        (emulation(size=0)[:3], b"", ["flags"]),
        ((*emulation(0xF4, size=1), 77, 88), b"\xf4", ["flags", *reasons.EXIT_INFO, "word_5", "word_6"]),
    ],
)
def test_words_that_are_missing_strange_or_new_are_taken_for_what_they_are(words, instruction, names):
    found = internal_error(1, words)
    assert (found.data, found.instruction) == (words, instruction)
    assert [name for name, _ in found.details] == names
    assert "\n" not in found.describe()


@pytest.mark.parametrize(
    ("suberror", "words", "names", "cause"),
    [
        (2, (PAGE_FAULT_INFO, PAGE_FAULT_INFO, 5, 1), "vectoring_info intr_info error_code last_entry_cpu",
         "an exception came while another event was delivered, the exception #PF (page fault), the event #PF (page "
         "fault)"),
        (3, (PAGE_FAULT_INFO, 48, 7, 1), "vectoring_info exit_reason exit_qualification last_entry_cpu",
         "the processor left the guest while an event was delivered, the event #PF (page fault), exit reason "
         "EPT_VIOLATION"),
        (3, (1 << 31 | 0x30, 49, 7, 0x1000, 1),
         "vectoring_info exit_reason exit_qualification guest_physical_address last_entry_cpu",
         "the processor left the guest while an event was delivered, the event interrupt 0x30, exit reason "
         "EPT_MISCONFIG"),
        (4, (3, 1), "exit_reason last_entry_cpu",
         "the processor left the guest for a reason that KVM does not handle, exit reason INIT_SIGNAL"),
        (4, (), "", "the processor left the guest for a reason that KVM does not handle"),
        (77, (1, 2), "", ""),
    ],
)  # fmt: skip
def test_each_internal_error_has_words_and_its_data_names(monkeypatch, suberror, words, names, cause):
    monkeypatch.setattr(reasons, "host_extension", lambda: "vmx")
    found = internal_error(suberror, words)
    assert found.cause == cause
    assert found.details == tuple(zip(names.split(), words, strict=False))


def test_a_refused_entry_has_its_cause_in_words(extension):
    found = fail_entry(0x80000021, 3)
    assert found == FailEntry(0x80000021, 3, found.cause)
    assert "the guest's state is invalid: VM-entry failure 33" in found.describe()
    assert fail_entry(0x80007777, 0).cause == ""


def test_a_processor_has_one_extension_or_none(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert extension_in(cpuinfo) is None
    for flags, extension in (("fpu vmx", "vmx"), ("svm fpu", "svm"), ("fpu", "")):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        assert extension_in(cpuinfo) == extension


# -- for real ----------------------------------------------------------------------------------------------------------


def bench(guest, code, *, mode=long_mode):
    """A guest at a NOP before `code`, that RBX leads to MMIO."""
    made = guest(b"\x90" + code + HALT)
    if mode is long_mode:
        long_mode(made.vcpu, made.memory)
        sregs = made.vcpu.get(Sregs)
        made.vcpu.put(attrs.evolve(sregs, cr4=sregs.cr4.replace(osfxsr=True)))
    elif mode is protected_mode:
        protected_mode(made.vcpu)
    return made


@pytest.mark.parametrize(
    "code",
    [
        bytes([0xDD, 0x03]),                    # fldl (%rbx)
        bytes([0x66, 0x0F, 0xFE, 0x03]),        # paddd (%rbx), %xmm0
        bytes([0xF3, 0x0F, 0xB8, 0x03]),        # popcnt (%rbx), %eax
    ],
    ids=["fldl", "paddd", "popcnt"],
)  # fmt: skip
def test_an_instruction_on_mmio_that_kvm_cannot_emulate_is_told_byte_for_byte(guest, code):
    made = bench(guest, code)
    found = made.run(rbx=MMIO)
    assert isinstance(found, InternalError)
    assert found.suberror == 1
    assert found.cause.startswith("an instruction could not be emulated")
    assert made.vcpu.get(Regs).rip == 1
    assert found.instruction.startswith(code + HALT)
    assert f"instruction {code.hex(' ')}" in found.describe()
    details = dict(found.details)
    if host_extension() == "svm":
        assert (details["exit_reason"], details["exit_info_2"]) == (NPF, MMIO)
        assert "exit reason NPF" in found.cause


def test_code_where_there_is_no_ram_is_told_without_an_instruction(guest):
    made = bench(guest, bytes([0xFF, 0xE3]))  # jmp *%rbx
    found = made.run(rbx=MMIO)
    assert isinstance(found, InternalError)
    assert (found.suberror, found.instruction) == (1, b"")
    assert made.vcpu.get(Regs).rip == MMIO


UD2, DIV0 = bytes([0x0F, 0x0B]), bytes([0xF6, 0xF1])  # ud2; div %cl
LOAD_UNMAPPED = bytes([0x48, 0xA1, *struct.pack("<Q", 0x5555_0000_1000)])  # movabs 0x555500001000, %rax


@pytest.mark.parametrize(
    ("mode", "code", "exception"),
    [
        (protected_mode, UD2, GuestException(6, rip=1)),
        (long_mode, UD2, GuestException(6, rip=1)),
        (long_mode, DIV0, GuestException(0, rip=1)),
        (long_mode, LOAD_UNMAPPED, GuestException(14, 0, 0x5555_0000_1000, 1)),
    ],
    ids=["#UD, protected mode", "#UD", "#DE", "#PF"],
)
def test_after_a_triple_fault_it_is_told_whether_the_state_is_lost_and_else_the_exception(guest, mode, code, exception):
    """SVM resets the vCPU; software KVM, and Intel's processors, leave it at the instruction."""
    made = bench(guest, code, mode=mode)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(limit=0)))
    found = made.run(rbx=0x1234)
    assert isinstance(found, Shutdown)
    regs, sregs = made.vcpu.get(Regs), made.vcpu.get(Sregs)
    assert found.state_is_lost == (host_extension() == "svm")
    if found.state_is_lost:
        assert (regs.rip, regs.rbx, sregs.cr0.pe, sregs.cs.base) == (0xFFF0, 0, False, 0xFFFF0000)
    else:
        assert (regs.rip, regs.rbx, sregs.cr0.pe) == (1, 0x1234, True)
        assert sregs.cr2 == (exception.address or 0)
    assert found.exceptions == ((exception,) if host_extension() == "" else ())


def test_an_interrupt_that_kills_is_not_taken_for_the_exception_before_it(guest):
    made = guest(bytes([0xFB, 0x90, *SPIN]), source=Source(0x40))  # sti; nop; jmp .
    long_mode(made.vcpu, made.memory)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(limit=0)))
    found = made.run()
    assert isinstance(found, Shutdown)
    assert found.exceptions == ()


def test_the_state_after_init_is_told_by_more_than_rip():
    regs = Regs(rip=0xFFF0, rdx=0x600)
    sregs = next(state for state in reset_states() if isinstance(state, Sregs))
    assert is_reset(regs, sregs)
    assert not is_reset(attrs.evolve(regs, rsp=8), sregs)
    assert not is_reset(attrs.evolve(regs, rip=0xFFF2), sregs)
    assert not is_reset(regs, attrs.evolve(sregs, cs=attrs.evolve(sregs.cs, base=0xF0000)))
    assert not is_reset(regs, attrs.evolve(sregs, cr0=sregs.cr0.replace(pe=True)))


def test_a_state_that_the_processor_refuses_is_a_failed_entry_in_words(guest):
    """Code that is of 64 and of 32 bits at once. Software KVM checks no such thing."""
    made = bench(guest, b"")
    sregs = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(sregs, cs=attrs.evolve(sregs.cs, db=True)))
    found = made.run()
    if host_extension() == "":
        assert not isinstance(found, FailEntry)
    else:
        assert isinstance(found, FailEntry)
        assert "is invalid: VM" in found.cause
