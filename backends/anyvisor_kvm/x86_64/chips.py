"""VM states to KVM's structures and back: interrupt chips, the PIT, the clock.

Some facts about order. KVM makes the interrupt chips only before the first vCPU (else EINVAL), and the PIT only after
them (else ENOENT, from newer kernels; older ones take it). The first put of each creates it; parts that are None keep
their reset state.
"""

from __future__ import annotations

import ctypes
from typing import TypeVar

from anyvisor.states import VmState
from anyvisor.x86_64.chips import Clock, Ioapic, Irqchip, Pic, Pit, PitChannel
from anyvisor_kvm.abi import Struct, assign
from anyvisor_kvm.architecture import Accessors
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.convert import Fields, same
from anyvisor_kvm.x86_64.fds import X86VmFd

PIC = Fields(Pic)
IOAPIC = Fields(Ioapic, same("base_address", "ioregsel", "id", "irr"))
PIT_CHANNEL = Fields(PitChannel)

C = TypeVar("C", bound=Struct)


def get_irqchip(fd: X86VmFd) -> Irqchip:  # noqa: D103
    ioapic = _get_chip(fd, abi.KVM_IRQCHIP_IOAPIC, abi.kvm_ioapic_state)
    return Irqchip(
        pic_master=PIC.take(_get_chip(fd, abi.KVM_IRQCHIP_PIC_MASTER, abi.kvm_pic_state)),
        pic_slave=PIC.take(_get_chip(fd, abi.KVM_IRQCHIP_PIC_SLAVE, abi.kvm_pic_state)),
        ioapic=IOAPIC.take(ioapic, redirection=tuple(ioapic.redirtbl)),
    )


def put_irqchip(fd: X86VmFd, state: Irqchip) -> None:  # noqa: D103
    if not fd.has_irqchip:
        fd.create_irqchip()
        fd.has_irqchip = True
    for number, pic in (
        (abi.KVM_IRQCHIP_PIC_MASTER, state.pic_master),
        (abi.KVM_IRQCHIP_PIC_SLAVE, state.pic_slave),
    ):
        if pic is not None:
            registers = abi.kvm_pic_state()
            PIC.fill(registers, pic)
            _put_chip(fd, number, registers)
    if state.ioapic is not None:
        ioapic = abi.kvm_ioapic_state()
        IOAPIC.fill(ioapic, state.ioapic)
        assign(ioapic.redirtbl, state.ioapic.redirection, "kvm_ioapic_state")
        _put_chip(fd, abi.KVM_IRQCHIP_IOAPIC, ioapic)


def _get_chip(fd: X86VmFd, number: int, kind: type[C]) -> C:
    holder = abi.kvm_irqchip(chip_id=number)
    fd.get_irqchip(holder)
    return kind.from_buffer_copy(holder.chip)


def _put_chip(fd: X86VmFd, number: int, chip: Struct) -> None:
    holder = abi.kvm_irqchip(chip_id=number)
    ctypes.memmove(holder.chip, ctypes.byref(chip), ctypes.sizeof(chip))
    fd.set_irqchip(holder)


def get_pit(fd: X86VmFd) -> Pit:  # noqa: D103
    pit = fd.get_pit2()
    first, second, third = (PIT_CHANNEL.take(each) for each in pit.channels)
    return Pit((first, second, third), pit.flags)


def put_pit(fd: X86VmFd, state: Pit) -> None:  # noqa: D103
    if not fd.has_pit:
        fd.create_pit2(abi.kvm_pit_config(flags=abi.KVM_PIT_SPEAKER_DUMMY))
        fd.has_pit = True
    if state.channels is not None:
        pit = abi.kvm_pit_state2(flags=state.flags)
        for registers, channel in zip(pit.channels, state.channels, strict=True):
            PIT_CHANNEL.fill(registers, channel)
        fd.set_pit2(pit)


def get_clock(fd: X86VmFd) -> Clock:  # noqa: D103
    return Clock(fd.get_clock().clock)


def put_clock(fd: X86VmFd, state: Clock) -> None:
    """Without flags: those of KVM_GET_CLOCK say where the value came from and are not for KVM_SET_CLOCK."""
    fd.set_clock(abi.kvm_clock_data(clock=state.nanoseconds))


STATES_BEFORE: dict[type[VmState], Accessors] = {Irqchip: (get_irqchip, put_irqchip), Pit: (get_pit, put_pit)}
STATES_AFTER: dict[type[VmState], Accessors] = {Clock: (get_clock, put_clock)}
