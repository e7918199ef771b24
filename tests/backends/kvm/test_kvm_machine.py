"""Whole machines on KVM: planned, launched and run as a kernel is, with a kernel of a dozen bytes."""

import threading
import time
from pathlib import Path

import pytest

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.errors import GuestError
from anyvisor.exits import InternalError, Shutdown
from anyvisor.x86_64.state import Regs, Sregs
from elves import LOAD_ADDRESS, tiny_elf
from rounds import rounds

pytestmark = pytest.mark.kvm

COUNTER = LOAD_ADDRESS + 0x800
RESET = bytes([0xB0, 0xFE, 0xE6, 0x64,                    # mov al, 0xfe; out 0x64, al: the keyboard controller's reset
               0xF4, 0xEB, 0xFD])  # hlt; jmp .-1                         # fmt: skip
PRINT_EAX = bytes([0x66, 0xBA, 0xF8, 0x03]) + bytes([     # mov dx, 0x3f8
                   0xEE, 0xC1, 0xE8, 0x08]) * 4  # out dx, al; shr eax, 8: four times    # fmt: skip
READ_MAGIC = bytes([0x8B, 0x86, 0x02, 0x02, 0, 0])  # mov eax, [rsi + 0x202]: "HdrS" in the zero page
READ_IOAPIC = bytes([0xBB, 0, 0, 0xC0, 0xFE,              # mov ebx, 0xfec00000
                     0xC7, 0x03, 1, 0, 0, 0,              # mov dword [rbx], 1: select the version register
                     0x8B, 0x43, 0x10])  # mov eax, [rbx + 0x10]                # fmt: skip
COUNT = bytes([0xFF, 0x04, 0x25]) + COUNTER.to_bytes(4, "little") + bytes([      # inc dword [COUNTER]
               0xEB, 0xF7])  # jmp COUNT     # fmt: skip


@pytest.fixture
def machine(kvm, tmp_path):
    """Boots machines whose kernel is that code, and closes them after the test."""
    made = []

    def make(code, **config):
        kernel = tiny_elf(tmp_path / "vmlinux", code)
        made.append(anyvisor.boot(MachineConfig(kernel=kernel, memory="64M", **config), backend=kvm))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_boot_steps_lead_to_the_kernel_with_the_zero_page_in_rsi(machine):
    booted = machine(READ_MAGIC + PRINT_EAX + RESET)
    assert booted.wait(10).reason == "reset"
    assert booted.console.text == "HdrS"


def test_the_mmio_gap_is_mapped_and_the_interrupt_chips_answer_there(machine):
    booted = machine(READ_IOAPIC + PRINT_EAX + RESET)
    assert booted.wait(10).reason == "reset"
    data, _ = booted.console.read_output()
    version, _, highest_pin, _ = data
    assert (version, highest_pin) == (0x11, 23)


def test_a_spinning_machine_pauses_resumes_and_stops(machine):
    booted = machine(COUNT, vcpus=2)

    def count():
        return int.from_bytes(booted.memory.read(COUNTER, 4), "little")

    def moves_on(since):
        deadline = time.monotonic() + 10
        while count() == since and time.monotonic() < deadline:
            time.sleep(0.001)
        return count() != since

    assert moves_on(0)
    for _ in range(5):
        booted.pause()
        stood = count()
        assert booted.vcpus[0].get(Regs).rip in range(LOAD_ADDRESS, LOAD_ADDRESS + len(COUNT))
        time.sleep(0.02)
        assert count() == stood
        booted.resume()
        assert moves_on(stood)
    stopper = threading.Thread(target=booted.stop)
    stopper.start()
    assert booted.wait(10).reason == "stopped"
    stopper.join(10)
    assert not stopper.is_alive()


def test_a_dead_guest_says_why_and_shows_its_registers(machine):
    booted = machine(b"\x0f\x0b")  # ud2, and no handler for it
    with pytest.raises(GuestError, match="triple fault") as caught:
        booted.wait(10)
    assert isinstance(caught.value.exit, Shutdown | InternalError)
    assert "rip" in str(caught.value)


def test_kvm_keeps_what_the_plan_says_of_control_registers_and_segments(machine):
    booted = machine(COUNT)
    booted.pause()
    sregs = booted.vcpus[0].get(Sregs)
    planned = booted.plan.vcpus[0].state(Sregs).fields
    assert {name: getattr(sregs, name) for name in ("cs", "ss", "tr", "gdt", "cr3", "cr4", "efer")} == {
        name: planned[name] for name in ("cs", "ss", "tr", "gdt", "cr3", "cr4", "efer")
    }


def test_many_machines_leave_nothing_behind(kvm, tmp_path):
    config = MachineConfig(kernel=tiny_elf(tmp_path / "vmlinux", RESET), memory="64M", vcpus=2)

    def held():
        mappings = Path("/proc/self/maps").read_text().splitlines()
        in_kvm = sum("anon_inode" in line or "kvm" in line for line in mappings)
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), in_kvm

    def live():
        with anyvisor.boot(config, backend=kvm) as booted:
            assert booted.wait(10).reason == "reset"

    live()
    before = held()
    for _ in range(rounds(200)):
        live()
    assert held() == before
