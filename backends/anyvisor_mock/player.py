"""A guest in acts: what a vCPU of the mock does when it runs.

A script is acts (`anyvisor.acts`), exits for `run` to return, and functions. A function is called with the bus; acts
that it gives back, a generator's too, are played next. So a guest that has to think is a generator:

    def echo(bus):
        while True:
            yield PortIn(0x3F8, 1)       # the value lands in the guest's one register ...
            yield PortOut(0x3F8, 1)      # ... and a write without a value writes that

The `value` of a read in a script is ignored: the device answers. When the script is over, the guest spins.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from anyvisor.acts import Act, Halt, Load, MmioRead, MmioWrite, PortIn, PortOut, Spin, Store
from anyvisor.bus import Bus
from anyvisor.errors import ConfigError, HypervisorError
from anyvisor.exits import Exit
from anyvisor_mock.space import Space

Function = Callable[[Bus], Any]
Item = Act | Exit | Function
Guest = Iterable[Item] | Function
"""What one vCPU does."""
Guests = Guest | Mapping[int, Guest] | Sequence[Guest]
"""What the vCPUs of a VM do: vCPU 0 alone, or each by its index."""

PORT_SIZES, MEMORY_SIZES = (1, 2, 4), (1, 2, 4, 8)
SPIN = Spin()


def guest_of(guests: Guests | None, index: int) -> Guest:
    """What vCPU `index` does, of what `MockHypervisor` was given as its script."""
    if guests is None:
        return ()
    if isinstance(guests, Mapping):
        return cast("Mapping[int, Guest]", guests).get(index, ())
    if isinstance(guests, Sequence) and any(isinstance(each, Iterable) for each in guests):
        return cast("Sequence[Guest]", guests)[index] if index < len(guests) else ()
    return cast("Guest", guests) if index == 0 else ()


class Player:
    """Plays one vCPU's script. `last` is the guest's register: what it last read."""

    def __init__(self, space: Space, guest: Guest = ()):
        self._space = space
        self._items: list[Iterator[Item]] = []
        self.last = 0
        self.count = 0
        """How many acts have been played. A function is none, what it gives are some; an endless loop is none."""
        self.play(guest)

    def play(self, guest: Guest) -> None:
        """Play this from now on, in place of what is left."""
        self._items = [iter((guest,) if callable(guest) else guest)]

    def step(self, bus: Bus) -> Act | Exit | None:
        """Play the next item; None when it is done, else what the vCPU must see to: HLT, an endless loop, an exit."""
        item = self._next()
        if callable(item):
            self._call(item, bus)
            return None
        if isinstance(item, Spin):
            self._items = []
            return item
        self.count += 1
        if isinstance(item, Exit | Halt):
            return item
        if isinstance(item, Act):
            self._do(item, bus)
        else:
            raise ConfigError(f"{item!r} in a script is no act, no exit and no function")
        return None

    def _next(self) -> Item:
        while self._items:
            for item in self._items[-1]:
                return item
            self._items.pop()
        return SPIN

    def _call(self, function: Function, bus: Bus) -> None:
        found = function(bus)
        if isinstance(found, Iterable):
            self._items.append(iter(found))

    def _do(self, act: Act, bus: Bus) -> None:
        do = DOES.get(type(act))
        if do is None:
            raise ConfigError(f"the mock cannot play {act!r}; it knows {', '.join(each.__name__ for each in DOES)}")
        do(self, act, bus)

    # -- one act each --------------------------------------------------------------------------------------------------

    def _port_in(self, act: PortIn, bus: Bus) -> None:
        _check(act, act.size_bytes, PORT_SIZES)
        self.last = self._space.read_port(bus, act.port, act.size_bytes)

    def _port_out(self, act: PortOut, bus: Bus) -> None:
        _check(act, act.size_bytes, PORT_SIZES)
        self._space.write_port(bus, act.port, act.size_bytes, self._value(act.value))

    def _read(self, act: MmioRead | Load, bus: Bus) -> None:
        _check(act, act.size_bytes, MEMORY_SIZES)
        self.last = self._space.read(bus, act.guest_address, act.size_bytes)

    def _write(self, act: MmioWrite | Store, bus: Bus) -> None:
        _check(act, act.size_bytes, MEMORY_SIZES)
        self._space.write(bus, act.guest_address, act.size_bytes, self._value(act.value))

    def _value(self, value: int | None) -> int:
        return self.last if value is None else value


DOES: dict[type[Act], Callable[[Player, Any, Bus], None]] = {
    PortIn: Player._port_in,
    PortOut: Player._port_out,
    MmioRead: Player._read,
    MmioWrite: Player._write,
    Load: Player._read,
    Store: Player._write,
}


def _check(act: Act, size_bytes: int, sizes: tuple[int, ...]) -> None:
    if size_bytes not in sizes:
        wanted = ", ".join(map(str, sizes))
        raise HypervisorError("run", errno.EINVAL, f"{act}: there are accesses of {wanted} bytes only")
