"""What a live device is, and what it is given.

A device begins as a `DeviceSpec` in the boot plan. At launch the factory of its kind (hook
`anyvisor_device_factories`) is called with the spec and a `DeviceContext` and returns a `Device`, which
`attach` puts on the bus.

Some facts about threads. A device is called from every vCPU thread, from several at once, and, where it
listens to a console, from the thread that writes there. So a device has one lock, taken at each way in. Locks
are taken in one direction only: device, then console or interrupt controller. What the context gives keeps to
that: interrupt lines, consoles and `request_stop` may be used with the device's lock held, and none of them
calls a device back with a lock of its own held, or waits for a vCPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import attrs

from anyvisor.bus import Bus, BusDevice
from anyvisor.clock import Clock
from anyvisor.console import Console
from anyvisor.errors import PlanError
from anyvisor.interrupts import InterruptWiring
from anyvisor.memory import GuestMemory, Region
from anyvisor.plan import DeviceSpec

StopReason = Literal["reset", "shutdown"]
"""Why a device ends the machine: the guest asked to be started anew, or to be switched off."""


class Device(BusDevice, Protocol):
    """A live device: it answers reads and writes, and is closed when the machine ends.

    Offsets count from the start of the spec's first range of that kind: one with ports 0x60 and 0x64 sees 0
    and 4.
    """

    def close(self) -> None:
        """Give back what the device holds; may be called twice. No vCPU runs any more."""
        ...


@attrs.frozen
class DeviceContext:
    """What a device may use of its machine.

    `memory` is the guest's RAM. `interrupt(gsi)` returns the function that sets that line's level (True:
    asserted); for a device without a line (gsi None) it returns one that does nothing. `console(name)` is the
    host's end of a serial line, made when first asked for. `request_stop(reason)` ends the machine soon; it
    returns at once and may be called from a vCPU's thread. `clock` is the machine's time, the only one that a device
    may look at. `wiring` is for interrupt controllers.
    """

    memory: GuestMemory
    interrupt: Callable[[int | None], Callable[[bool], None]]
    console: Callable[[str], Console]
    request_stop: Callable[[StopReason], None]
    clock: Clock
    wiring: InterruptWiring


def attach(bus: Bus, spec: DeviceSpec, device: BusDevice) -> None:
    """Let `device` answer at every range of `spec`; PlanError, naming both, when another one has it."""
    for region in spec.ports:
        bus.add_ports(spec.named(region), device, offset=_offset(region, spec.ports[0], spec))
    for region in spec.mmio:
        bus.add_mmio(spec.named(region), device, offset=_offset(region, spec.mmio[0], spec))


def _offset(region: Region, first: Region, spec: DeviceSpec) -> int:
    if region.start < first.start:
        raise PlanError(f"device {spec.name}: {region} lies below its first range {first}; list the lowest range first")
    return region.start - first.start
