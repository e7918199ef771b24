"""In real mode an event without a handler goes on at address 0; what came before is read off the stack."""

import time

import attrs
import pytest
from dead_guests import RAM, RESET, UD2, reader

from anyvisor import GuestError, MachineConfig, boot
from anyvisor.config import Raw
from anyvisor.diagnosis import Evidence, report
from anyvisor.diagnosis.live import watch
from anyvisor.exits import GuestException, InternalError, Shutdown
from anyvisor.plan import Blob, BootPlan, VcpuPlan
from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs
from needed_kvm import need_kvm

LOADED, STACK = 0x7C00, 0x7000
SEGMENT = 0x07C0
INT10, INT21 = b"\xcd\x10", b"\xcd\x21"
DIVIDE = b"\xf7\xf3"  # div bx
NOPS = b"\x90" * 5
REGS = Regs(rip=LOADED, rsp=STACK, rflags=Rflags(fixed=True))
FLAT = attrs.evolve(RESET[Sregs].cs, base=0, selector=0, limit=0xFFFF)
SREGS = attrs.evolve(RESET[Sregs], cs=FLAT, idt=DescriptorTable(0, 0x3FF))
EMULATION = InternalError(1, cause="an instruction could not be emulated")


def frame(ip, cs=0, flags=2):
    """What an event pushes."""
    return b"".join(each.to_bytes(2, "little") for each in (ip, cs, flags))


def lost_its_way(code, pushed, *, rip=0x1234, written=None, vcpu=0, exit_=None, regs=None, sregs=None):
    """A guest that was watched while it executes zeros, or has died."""
    plan = BootPlan(
        "x86_64", (RAM,), blobs=(Blob("raw image", LOADED, code),), vcpus=(VcpuPlan(0, (REGS, SREGS)), VcpuPlan(1, ()))
    )
    now = attrs.evolve(REGS, **{"rip": rip, "rsp": STACK - 6, **(regs or {})})
    return Evidence(
        plan=plan,
        vcpu=vcpu,
        read=reader(plan, {STACK - 6: pushed, **(written or {})}),
        exit=exit_,
        now={Regs: now, Sregs: attrs.evolve(SREGS, **(sregs or {}))},
        rips=() if exit_ else (rip,) * 4,
        watched_exits=0,
    )


def found_of(evidence):
    made = report(evidence)
    assert not made.notes
    return made.likely


def test_a_call_of_the_bios_is_told():
    found = found_of(lost_its_way(NOPS + INT10, frame(LOADED + 7)))
    assert (found.name, found.weight) == ("no-bios", 96)
    assert found.summary == "the guest called the BIOS, INT 0x10 (video), and there is none"
    assert found.because[0] == "the call is at 0000:7c05, 0x7c05 (raw image+0x5)"
    assert "serial port" in found.remedy


def test_frames_that_lie_over_the_code_do_not_hide_it():
    gone = lost_its_way(NOPS + UD2, frame(LOADED + 5), written={LOADED: frame(LOADED + 5) * 2})
    assert found_of(gone).name == "undefined-opcode"


def test_a_vector_that_is_filled_was_not_the_way():
    filled = {0x10 * 4: b"\0\x7c\0\0"}
    assert found_of(lost_its_way(NOPS + INT10, frame(LOADED + 7), written=filled)).name == "executing-zeros"


@pytest.mark.parametrize("moved", [-8, -2, 2, 6])
def test_a_stack_pointer_that_has_moved_since_does_not_hide_it(moved):
    regs = {"rsp": STACK - 6 - moved, "rax": 0x0E41}
    assert found_of(lost_its_way(NOPS + INT10, frame(LOADED + 7), regs=regs)).name == "no-bios"
    assert found_of(lost_its_way(NOPS + UD2, frame(LOADED + 5), regs=regs)).name == "executing-zeros"


EVENTS = {
    "undefined-opcode": (NOPS + UD2, LOADED + 5),
    "divide-error": (NOPS + DIVIDE, LOADED + 5),
    "no-handler": (NOPS + INT21, LOADED + 7),
    "breakpoint": (NOPS + b"\xcc\x90", LOADED + 6),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_exception_is_told_with_where_it_was_raised(name):
    code, ip = EVENTS[name]
    found = found_of(lost_its_way(code, frame(ip)))
    assert (found.name, found.weight) == (name, 96)
    assert "at 0000:7c05, 0x7c05 (raw image+0x5)" in found.summary
    assert "of the table at address 0 is 0000:0000" in " ".join(found.because)


def test_the_code_segment_that_was_pushed_counts():
    found = found_of(lost_its_way(NOPS + UD2, frame(5, SEGMENT)))
    assert "at 07c0:0005, 0x7c05 (raw image+0x5)" in found.summary


def test_zeros_may_have_changed_the_vector_that_they_were_reached_by():
    """ADD [BX+SI], AL: with both registers zero that is the divide error's own vector."""
    al = {"regs": {"rax": 5}}
    assert found_of(lost_its_way(NOPS + DIVIDE, frame(LOADED + 5), written={0: b"\x55"}, **al)).name == "divide-error"
    assert (
        found_of(lost_its_way(NOPS + UD2, frame(LOADED + 5), written={0x18: b"\x55"}, **al)).name == "executing-zeros"
    )


def test_a_vector_of_which_more_than_that_byte_is_filled_was_not_the_way():
    gone = lost_its_way(NOPS + DIVIDE, frame(LOADED + 5), written={0: b"\x55\x7c\0\0"}, regs={"rax": 5})
    assert found_of(gone).name == "executing-zeros"


@pytest.mark.parametrize(
    "more",
    [
        {"written": {0x18: b"\0\x7c\0\0"}},  # there is a handler
        {"pushed": frame(LOADED)},  # nothing there raises anything
        {"pushed": frame(LOADED + 5, flags=0)},  # no processor pushes such flags
        {"sregs": {"cs": attrs.evolve(FLAT, base=0x2000, selector=0x200)}},  # an event would have led to 0000:0000
        {"regs": {"rflags": Rflags(fixed=True, interrupt_enable=True)}},  # and switched interrupts off
    ],
)
def test_another_stack_says_nothing(more):
    pushed = more.pop("pushed", frame(LOADED + 5))
    assert found_of(lost_its_way(NOPS + UD2, pushed, **more)).name == "executing-zeros"


# -- another processor -------------------------------------------------------------------------------------------------


def test_a_processor_that_was_started_into_nothing_is_told_where():
    """It came to the end of its segment, from there to address 0, and on to what is no instruction."""
    gone = lost_its_way(b"\x9b\xaf", frame(0, 0x1000), rip=LOADED, vcpu=1, exit_=EMULATION)
    found = found_of(gone)
    assert found.name == "executing-zeros"
    assert found.summary == f"the guest ran through zeros from 0x10000 on, and died at {LOADED:#x} (raw image)"
    assert "vCPU 1 was started at 1000:0000, by a startup IPI with vector 0x10" in found.because
    assert "before they are started" in found.remedy


def test_one_that_is_still_there_is_told_too():
    there = attrs.evolve(FLAT, base=0x30000, selector=0x3000)
    found = found_of(lost_its_way(UD2, bytes(6), vcpu=1, sregs={"cs": there}))
    assert (found.name, found.because[-1]) == (
        "executing-zeros",
        "vCPU 1 was started at 3000:0000, by a startup IPI with vector 0x30",
    )


def test_a_segment_that_begins_in_a_page_is_not_where_one_was_started():
    there = attrs.evolve(FLAT, base=0x30010, selector=0x3001)
    assert "startup IPI" not in " ".join(found_of(lost_its_way(UD2, bytes(6), vcpu=1, sregs={"cs": there})).because)


def test_one_that_was_started_into_code_is_not_told_to_have_been():
    gone = lost_its_way(UD2, bytes(6), rip=0, vcpu=1, exit_=EMULATION, sregs={"cs": attrs.evolve(FLAT, base=LOADED)})
    assert found_of(gone).name == "undefined-opcode"


def test_one_that_died_in_code_of_a_segment_that_begins_with_zeros_has_not_run_through_them():
    there = attrs.evolve(FLAT, base=0x7000, selector=0x700)
    gone = lost_its_way(
        UD2, bytes(6), rip=0xC00, vcpu=1, exit_=EMULATION, sregs={"cs": there}, written={0x7010: NOPS * 600}
    )
    assert found_of(gone).name == "undefined-opcode"


# -- for real ----------------------------------------------------------------------------------------------------------

BOOT_SECTOR = b"\x31\xc0\x8e\xd0\xbc\x00\x70\xb8\x00\x0e" + INT10 + b"\xf4"  # xor ax, ax; mov ss, ax; mov sp, 0x7000...
ICR = b"\xc7\x83\x00\x03\0\0"  # mov dword [rbx + 0x300], ...
TO_THE_OTHER = b"\xc7\x83\x10\x03\0\0\0\0\0\x01"  # mov dword [rbx + 0x310], 1 << 24
STARTS_THE_OTHER = (
    b"\xbb\0\0\xe0\xfe\xc7\x83\xf0\0\0\0\xff\1\0\0"  # mov ebx, 0xfee00000; mov dword [rbx + 0xf0], 0x1ff
    + TO_THE_OTHER
    + ICR
    + b"\0\x45\0\0"  # INIT
    + TO_THE_OTHER
    + ICR
    + b"\x10\x46\0\0\xeb\xfe"  # startup, at page 0x10; jmp .
)


def started(backend, kernel, code, **more):
    kernel.write_bytes(code)
    config = MachineConfig(kernel=kernel, memory="16M", protocol="raw", **more)
    if backend == "kvm":
        need_kvm()
    else:
        pytest.importorskip(backend)
    return boot(config, backend=backend)


@pytest.mark.parametrize("backend", ["unicorn", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_a_boot_sector_that_wants_a_bios_is_told_so(backend, tmp_path):
    with started(backend, tmp_path / "boot", BOOT_SECTOR, raw=Raw(address=LOADED, mode="real")) as machine:
        time.sleep(0.05)
        found = found_of(watch(machine, 4, 0.01)[0])
    assert found.name == "no-bios"
    assert "0000:7c0a, 0x7c0a (raw image+0xa)" in found.because[0]


@pytest.mark.kvm
def test_a_processor_that_is_started_into_empty_memory_is_told_so(tmp_path):
    """Where a processor runs by itself it may go round there for ever."""
    raw = Raw(address=0x100000, mode="long")
    with started("kvm", tmp_path / "boot", STARTS_THE_OTHER, raw=raw, vcpus=2) as machine:
        try:
            machine.wait(timeout=0.5)
        except GuestError as error:
            found = error.report
        except TimeoutError:
            found = report(watch(machine, 4, 0.01)[1])
    assert (found.vcpu, found.likely.name) == (1, "executing-zeros")
    assert "by a startup IPI with vector 0x10" in " ".join(found.likely.because)


# -- in words ----------------------------------------------------------------------------------------------------------


def test_an_address_is_told_as_people_write_it_and_as_it_counts():
    code = attrs.evolve(FLAT, base=LOADED, selector=SEGMENT)
    told = Shutdown((GuestException(6, rip=5, name="#UD"), GuestException(8)))
    made = report(lost_its_way(NOPS + UD2, bytes(6), rip=5, exit_=told, sregs={"cs": code}))
    assert "(first exception #UD at 0x7c05), at RIP 07c0:0005, 0x7c05 (raw image+0x5), in real mode" in made.summary
    assert made.likely.name == "undefined-opcode"
    assert "at 0x7c05 (raw image+0x5)" in made.likely.summary
    registers = made.section("Registers").text.splitlines()
    assert registers[0] == "rip  0x0000000000000005 at 07c0:0005, 0x7c05 (raw image+0x5)"
