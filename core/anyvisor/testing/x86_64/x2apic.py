"""Local APICs with ids of more than eight bits: as the host sees them, as the guest does, and as other processors do.

Some facts about x2APIC mode (SDM Vol. 3, 11.12). The id has 32 bits, MSR 0x802 reads as it, and an interrupt goes to
the processor whose id is in the upper half of MSR 0x830, the interrupt command register. All ones there mean every
processor; 255 is a processor like any other.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.facts import Capability
from anyvisor.testing.bench import Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import until
from anyvisor.testing.x86_64.guests import OTHER_PORT, PORT
from anyvisor.x86_64.chips import Ioapic, Irqchip
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.modes import REAL
from anyvisor.x86_64.state import MpState, Sregs

BOOT, ODD, WIDE = 0, 255, 300
"""Ids: of the boot processor, of one that eight bits would take for all, and of one that has more."""
START_UP = 0x2000
"""The page in which a processor begins that was started."""
INIT, SIPI = 0x4500, 0x4600 | START_UP >> 12
A_MOMENT_SECONDS = 0.05
VECTOR, PIN = 0x50, 5
MASKED, ENABLED = 1 << 16, 0x1FF
"""A pin of the I/O APIC that is off; the spurious vector register of a local APIC that is on."""

# fmt: off
SAY_ID = bytes([0x66, 0xB9, 0x02, 0x08, 0, 0,             # mov ecx, 0x802: the local APIC's id
                0x0F, 0x32,                               # rdmsr
                0x66, 0xE7, PORT,                         # out PORT, eax
                0xF4,                                     # wait: hlt
                0xEB, 0xFD])                              # jmp wait
WAIT = TinyGuest({REAL: bytes([0xE6, OTHER_PORT,          # out OTHER_PORT, al
                               0xFB,                      # sti
                               0xF4,                      # wait: hlt
                               0xEB, 0xFD])})             # jmp wait
# fmt: on


def command(destination: int, value: int) -> bytes:
    """Real-mode code that writes the interrupt command register."""
    return struct.pack(
        "<2sI2sI2sI2s",
        b"\x66\xb9", 0x830,                               # mov ecx, 0x830
        b"\x66\xba", destination,                         # mov edx, destination
        b"\x66\xb8", value,                               # mov eax, value
        b"\x0f\x30",                                      # wrmsr
    )  # fmt: skip


def starting(number: int) -> TinyGuest:
    """A guest that sends INIT and SIPI to the processor with that id, says so, and waits."""
    told = bytes([0xE6, OTHER_PORT, 0xF4, 0xEB, 0xFD])  # out OTHER_PORT, al; wait: hlt; jmp wait
    return TinyGuest({REAL: command(number, INIT) + command(number, SIPI) + told})


@needs(
    Capability.IRQCHIP,
    Capability.X2APIC,
    architecture="x86_64",
    states=(Irqchip, Cpuid, Sregs, Lapic),
    hardware_id=WIDE,
)
class WideIdsContract(Contract):
    """vCPUs in x2APIC mode, whose hardware ids may have more than eight bits."""

    def test_in_x2apic_mode_the_local_apic_has_all_of_the_id(self, bench: MakeBench) -> None:
        """`get(Lapic).id` in x2APIC mode is the hardware id as it is, and what was got can be put back."""
        vcpu = _processors(bench, WIDE).vcpu
        found = vcpu.get(Lapic)
        assert found.id == WIDE, f"the id is {found.id:#x}, and the vCPU was created with {WIDE:#x}"
        vcpu.put(found)
        assert vcpu.get(Lapic) == found

    @needs(Capability.FULL_PROCESSOR, Capability.KICK, modes=(REAL,), vcpus=2)
    def test_an_init_and_a_sipi_start_the_processor_with_a_wide_id(self, bench: MakeBench) -> None:
        """It begins at the page that the SIPI names, and reads its own id from MSR 0x802."""
        made = _processors(bench, BOOT, WIDE)
        _start(made, WIDE)
        assert made.ports.values == [WIDE]

    @needs(Capability.FULL_PROCESSOR, Capability.KICK, modes=(REAL,), states=(MpState,), vcpus=2)
    def test_an_interrupt_for_id_255_is_for_that_processor_alone(self, bench: MakeBench) -> None:
        """In x2APIC mode 255 does not mean all: a pin of the I/O APIC that is sent there interrupts no other."""
        made = _processors(bench, BOOT, ODD)
        made.memory.write(4 * VECTOR, struct.pack("<HH", START_UP, 0))
        made.memory.write(START_UP, SAY_ID)
        for index, vcpu in enumerate(made.vcpus):
            vcpu.put(MpState())
            vcpu.put(attrs.evolve(vcpu.get(Lapic), spurious_vector=ENABLED))
            made.enter(WAIT, vcpu=index)
        made.vm.put(Irqchip(ioapic=Ioapic(redirection=(*[MASKED] * PIN, ODD << 56 | VECTOR, *[MASKED] * (23 - PIN)))))
        underway = [made.start(index) for index in range(2)]
        until(lambda: len(made.others.values) == 2, "both processors")
        made.vm.set_irq(PIN, True)
        until(lambda: made.ports.values, f"the processor with id {ODD}")
        assert not underway[0].is_over(A_MOMENT_SECONDS)
        assert made.ports.values == [ODD], "ids of those that were interrupted"


def _processors(bench: MakeBench, *numbers: int) -> Bench:
    """vCPUs with these ids, in x2APIC mode."""
    made = bench(states=(Irqchip(),), vcpus=0)
    for index, number in enumerate(numbers):
        vcpu = made.vm.create_vcpu(index, hardware_id=number)
        made.vcpus.append(vcpu)
        vcpu.put(made.facts.supported_state(Cpuid))
        sregs = vcpu.get(Sregs)
        vcpu.put(attrs.evolve(sregs, apic_base=sregs.apic_base.replace(enabled=True, x2apic=True)))
    return made


def _start(made: Bench, number: int) -> None:
    """Run all, let the first start the one with that id, and give the others a moment."""
    made.enter(starting(number))
    made.memory.write(START_UP, SAY_ID)
    others = [made.start(index) for index in range(1, len(made.vcpus))]
    boot = made.start()
    boot.until(lambda: made.others.values, "the boot processor, behind its commands")
    until(lambda: made.ports.values, f"the processor with id {number}")
    assert not others[-1].is_over(A_MOMENT_SECONDS)
