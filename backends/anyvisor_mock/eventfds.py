"""Eventfds in place of exits: which there are, and KVM's rules for them.

An ioeventfd of the mock is signalled by the writes of scripts. An irqfd is only kept: nobody here listens to it, since
no guest would take the interrupt; a test that wants the line raised calls `Vm.set_irq`.
"""

from __future__ import annotations

import os

import attrs

from anyvisor.memory import Region
from anyvisor_mock import rules

SIZES = (0, 1, 2, 4, 8)


@attrs.frozen
class Doorbell:
    """An ioeventfd: writes that it answers, and the descriptor that it signals."""

    fd: int
    start: int
    size_bytes: int
    port: bool = False
    match: int | None = None

    def answers(self, address: int, size_bytes: int, value: int, *, port: bool) -> bool:
        """Whether a write is for it."""
        here = (self.port, self.start) == (port, address) and self.size_bytes in (0, size_bytes)
        return here and self.match in (None, value)

    def collides(self, other: Doorbell) -> bool:
        """Whether some write could be for both."""
        if (self.port, self.start) != (other.port, other.start):
            return False
        if 0 in (self.size_bytes, other.size_bytes):
            return True
        same_value = None in (self.match, other.match) or self.match == other.match
        return self.size_bytes == other.size_bytes and same_value


class Eventfds:
    """The eventfds of one VM. Operations are named as the protocol names them."""

    def __init__(self, name: str):
        self._name = name
        self.doorbells: list[Doorbell] = []
        self.lines: dict[int, int] = {}
        """Of each irqfd, the line that it raises."""

    def add_doorbell(self, bell: Doorbell) -> None:
        """A new ioeventfd."""
        operation, where = "add_ioeventfd", f"{self._name}: {Region(bell.start, bell.size_bytes)}"
        if bell.size_bytes not in SIZES or (bell.size_bytes == 0 and bell.match is not None):
            raise rules.IOEVENTFD_SIZES.broken(operation, f"{where}, {bell.size_bytes} bytes")
        self._check_fd(operation, bell.fd)
        if any(bell.collides(each) for each in self.doorbells):
            raise rules.IOEVENTFD_ONCE.broken(operation, f"{where} has one")
        self.doorbells = [*self.doorbells, bell]

    def remove_doorbell(self, bell: Doorbell) -> None:
        """One less."""
        operation = "remove_ioeventfd"
        self._check_fd(operation, bell.fd)
        if bell not in self.doorbells:
            where = Region(bell.start, bell.size_bytes)
            raise rules.IOEVENTFD_THERE.broken(operation, f"{self._name}: {where} has not this one")
        self.doorbells = [each for each in self.doorbells if each != bell]

    def add_line(self, fd: int, gsi: int, resample_fd: int, *, has_chips: bool) -> None:
        """A new irqfd."""
        operation = "add_irqfd"
        if fd < 0:
            raise rules.WIDTHS.broken(operation, f"{self._name}: fd {fd}")
        if not has_chips:
            raise rules.IRQFD_CHIPS.broken(operation, f"{self._name}: gsi {gsi}")
        self._check_fd(operation, fd)
        if resample_fd >= 0:
            self._check_fd(operation, resample_fd)
        if fd in self.lines:
            raise rules.IRQFD_ONCE.broken(operation, f"{self._name}: fd {fd} raises gsi {self.lines[fd]}")
        self.lines[fd] = gsi

    def remove_line(self, fd: int, gsi: int) -> None:
        """One less; no effect on one that is not there."""
        self._check_fd("remove_irqfd", fd)
        if self.lines.get(fd) == gsi:
            del self.lines[fd]

    def _check_fd(self, operation: str, fd: int) -> None:
        try:
            os.fstat(fd)
        except OSError:
            raise rules.FD_OPEN.broken(operation, f"{self._name}: fd {fd}") from None
        if not is_eventfd(fd):
            raise rules.FD_EVENT.broken(operation, f"{self._name}: fd {fd}")


def is_eventfd(fd: int) -> bool:
    """Whether an open descriptor is an eventfd, as far as the system tells."""
    try:
        return "[eventfd]" in os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - it is no path
    except OSError:
        return True
