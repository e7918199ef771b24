"""KVM's backend, broken on purpose in a dozen ways: one line of it made wrong, and all the rest real."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import attrs
import pytest

from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError
from anyvisor.exits import Exit, Shutdown
from anyvisor.hypervisor import Hypervisor
from anyvisor.states import VcpuState
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Sregs
from anyvisor_kvm import hypervisor, vcpu
from anyvisor_kvm.architecture import Accessors
from anyvisor_kvm.fds import VcpuFd
from anyvisor_kvm.hypervisor import open_kvm
from anyvisor_kvm.kick import Kicker
from anyvisor_kvm.port_io import PortAccess
from anyvisor_kvm.run_page import IO, UNION, UNION_U64, RunPage
from anyvisor_kvm.vcpu import KvmVcpu
from anyvisor_kvm.vm import KvmVm
from anyvisor_kvm.x86_64 import fds, msrs
from anyvisor_kvm.x86_64.abi import KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS

SIGN, UPPER_HALF = 1 << 31, 0xFFFFFFFF_00000000


@attrs.frozen
class Fault:
    """A way to be broken: what is done to the code, the contracts that look there, and what a failure must say."""

    name: str
    breaks: Callable[[pytest.MonkeyPatch], None]
    contracts: str
    """Which tests look there, for `--match`."""
    says: str
    """A regular expression for the message of a test that fails."""

    @contextmanager
    def installed(self, patch: pytest.MonkeyPatch) -> Iterator[Callable[[], Hypervisor]]:
        """What opens the broken backend, for the block."""
        with patch.context() as within:
            self.breaks(within)
            yield open_kvm


def _with_states(patch: pytest.MonkeyPatch, change: Callable[[dict[type[VcpuState], Accessors]], object]) -> None:
    """Have the backend opened with other accessors of states, or in another order."""
    real = hypervisor.host_architecture

    def changed():
        architecture = real()
        return attrs.evolve(architecture, vcpu_states=change(dict(architecture.vcpu_states)))

    patch.setattr(hypervisor, "host_architecture", changed)


def port_data_in_the_wrong_byte_order(patch: pytest.MonkeyPatch) -> None:
    """The most significant byte comes first."""
    real = vcpu.port_access

    def swapped(page: RunPage, bus: Bus, known: dict[int, PortAccess]) -> PortAccess | None:
        found = real(page, bus, {})
        if found is None:
            return None
        write, read, offset, size, data, index, mask, port = found

        def turn(value: int) -> int:
            return int.from_bytes(value.to_bytes(size, "big"), "little")

        def write_turned(at: int, size_bytes: int, value: int) -> None:
            write(at, size_bytes, turn(value))

        def read_turned(at: int, size_bytes: int) -> int:
            return turn(read(at, size_bytes) & mask)

        turned = write and write_turned, read_turned, offset, size, data, index, mask, port
        known[page.u64[UNION_U64]] = turned
        return turned

    patch.setattr(vcpu, "port_access", swapped)


def string_count_lost(patch: pytest.MonkeyPatch) -> None:
    """Of the items of an exit only the first is answered."""
    real = vcpu.string_io

    def first_only(page: RunPage, bus: Bus) -> None:
        direction, size, port, _, offset = IO.unpack_from(page.u8, UNION)
        IO.pack_into(page.u8, UNION, direction, size, port, 1, offset)
        real(page, bus)

    patch.setattr(vcpu, "string_io", first_only)


def kick_missed(patch: pytest.MonkeyPatch) -> None:
    """A kick that comes before the thread is in `run` is forgotten on the way in."""
    real = Kicker.enter

    def forgetful(self: Kicker) -> None:
        real(self)
        self._asked = False
        self._set_immediate_exit()

    patch.setattr(Kicker, "enter", forgetful)


def states_in_the_wrong_order(patch: pytest.MonkeyPatch) -> None:
    """The last is restored first."""
    _with_states(patch, lambda states: dict(reversed(states.items())))


def descriptor_leaked(patch: pytest.MonkeyPatch) -> None:
    """A vCPU that is closed keeps its descriptor."""
    patch.setattr(VcpuFd, "close", lambda self: LEAKED.append(self.number))


LEAKED: list[int] = []


def close_leaked() -> None:
    """Clean up behind `descriptor_leaked`."""
    while LEAKED:
        with suppress(OSError):
            os.close(LEAKED.pop())


def mmio_address_sign_extended(patch: pytest.MonkeyPatch) -> None:
    """An address with bit 31 set gets the upper 32 bits set, too."""
    real = vcpu.unpack_mmio

    def extended(mapping: object, offset: int) -> tuple[int, int, int, int]:
        address, data, size, is_write = real(mapping, offset)
        return address | UPPER_HALF if address & SIGN else address, data, size, is_write

    patch.setattr(vcpu, "unpack_mmio", extended)


def _swap(sregs: Sregs) -> Sregs:
    return attrs.evolve(sregs, cs=sregs.ss, ss=sregs.cs)


def cs_and_ss_swapped(patch: pytest.MonkeyPatch) -> None:
    """On the way in and on the way out, so that what was put is what is got."""

    def swapped(states):
        get, put = states[Sregs]
        return {**states, Sregs: (lambda fd: _swap(get(fd)), lambda fd, state: put(fd, _swap(state)))}

    _with_states(patch, swapped)


def msr_count_ignored(patch: pytest.MonkeyPatch) -> None:
    """KVM_SET_MSRS has stopped at an entry, and nobody looks how far it came."""

    def put_blindly(fd, state):
        fd.set_msrs(msrs._entries(state.entries))

    _with_states(patch, lambda states: {**states, Msrs: (states[Msrs][0], put_blindly)})


def overlap_accepted(patch: pytest.MonkeyPatch) -> None:
    """KVM has refused a region, and the VM goes on without it."""
    real = KvmVm.map_memory

    def trusting(self: KvmVm, ram, *, readonly: bool = False) -> None:
        try:
            real(self, ram, readonly=readonly)
        except HypervisorError as error:
            if error.errno != errno.EEXIST:
                raise

    patch.setattr(KvmVm, "map_memory", trusting)


def exit_swallowed(patch: pytest.MonkeyPatch) -> None:
    """A triple fault is not told: the vCPU is run again."""
    real = KvmVcpu._loop

    def going_on(self: KvmVcpu, bus: Bus) -> Exit:
        while isinstance(found := real(self, bus), Shutdown):
            pass
        return found

    patch.setattr(KvmVcpu, "_loop", going_on)


def narrow_apic_ids(patch: pytest.MonkeyPatch) -> None:
    """KVM is not told that ids have 32 bits."""
    patch.setattr(fds, "WIDE_APIC_IDS", fds.WIDE_APIC_IDS & ~KVM_X2APIC_API_USE_32BIT_IDS)


def id_255_for_all(patch: pytest.MonkeyPatch) -> None:
    """KVM is left to take 255 for every processor."""
    patch.setattr(fds, "WIDE_APIC_IDS", fds.WIDE_APIC_IDS & ~KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)


FAULTS = (
    Fault("wrong byte order of port data", port_data_in_the_wrong_byte_order, "PortsContract", "must be little-endian"),
    Fault("lost string I/O count", string_count_lost, "StringIoContract", "REP INS of 5 items: .* each of them"),
    Fault("kick that can be missed", kick_missed, "KickContract", "A kick while nobody is in `run` is kept"),
    Fault(
        "state put in the wrong order", states_in_the_wrong_order, "RestoreOrder", "lost by the order of facts.states"
    ),
    Fault("leaked fd", descriptor_leaked, "LeakContract", "held .*descriptor of anon_inode:kvm-vcpu"),
    Fault("sign-extended MMIO address", mmio_address_sign_extended, "HighAddresses", "at another address .*0xffffffff"),
    Fault("swapped CS/SS", cs_and_ss_swapped, "SegmentsContract", "selectors that the guest stored .*'cs'.*'ss'"),
    Fault("ignored MSR count", msr_count_ignored, "MsrsContract", r"put\(Msrs\) took a list with MSR .* said nothing"),
    Fault("map overlapping accepted", overlap_accepted, "MemoryContract", "which overlaps .* accepted"),
    Fault("exit swallowed", exit_swallowed, "RunningContract", "shuts_down_says_so.* the guest did not end"),
    Fault("narrow APIC ids", narrow_apic_ids, "WideIds", "the id is 0x2c000000, and the vCPU was created with 0x12c"),
    Fault("id 255 for all", id_255_for_all, "WideIds", "255_is_for_that_processor_alone"),
)
