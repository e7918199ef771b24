"""Ioctls as descriptors: number, direction, argument and method in one line of a class.

    class VcpuFd(Fd):
        get_sregs = ior(0x83, kvm_sregs)        # fd.get_sregs() -> kvm_sregs
        set_sregs = iow(0x84, kvm_sregs)        # fd.set_sregs(sregs)

Some facts about request numbers (asm-generic/ioctl.h). Bits 0-7 are the ioctl's number, 8-15 its family (0xAE for
KVM), 16-29 the size of the argument, 30 and 31 its direction as the caller sees it: 1 writes to the kernel, 2 reads
from it. KVM takes some structures with an array at their end; only the part before the array counts as the argument's
size.

The attribute's name is the ioctl's: `get_sregs` is KVM_GET_SREGS.
"""

from __future__ import annotations

import abc
import ctypes
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, overload

if TYPE_CHECKING:
    from anyvisor_kvm.fds import Fd

KVM_FAMILY = 0xAE
NONE, WRITE, READ = 0, 1, 2

A = TypeVar("A", bound=ctypes.Structure)
A_co = TypeVar("A_co", bound=ctypes.Structure, covariant=True)
A_contra = TypeVar("A_contra", bound=ctypes.Structure, contravariant=True)
C = TypeVar("C")


class Number(Protocol):
    """A bound ioctl with a plain number as its argument."""

    def __call__(self, argument: int = 0, /, detail: str = "") -> int:
        """Call it; HypervisorError, naming the ioctl and `detail`, when it fails."""
        ...


class Fetch(Protocol[A_co]):
    """A bound ioctl that returns a structure."""

    def __call__(self, detail: str = "") -> A_co:
        """Call it; HypervisorError, naming the ioctl and `detail`, when it fails."""
        ...


class Pass(Protocol[A_contra]):
    """A bound ioctl that is passed a structure, which the kernel may change; returns the ioctl's number."""

    def __call__(self, argument: A_contra, /, detail: str = "") -> int:
        """Call it; HypervisorError, naming the ioctl and `detail`, when it fails."""
        ...


class Ioctl(abc.ABC, Generic[C]):
    """One ioctl; as an attribute of an `Fd` it is a method."""

    def __init__(self, direction: int, number: int, argument: type[ctypes.Structure] | None):
        size_bytes = ctypes.sizeof(argument) if argument else 0
        self.request = direction << 30 | size_bytes << 16 | KVM_FAMILY << 8 | number
        self.argument = argument
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"KVM_{name.upper()}"

    @overload
    def __get__(self, fd: None, owner: type) -> Self: ...
    @overload
    def __get__(self, fd: Fd, owner: type) -> C: ...
    def __get__(self, fd: Fd | None, owner: type) -> Self | C:
        return self if fd is None else self.bind(fd)

    @abc.abstractmethod
    def bind(self, fd: Fd) -> C:
        """The ioctl as a function, on that fd."""


class NumberIoctl(Ioctl[Number]):
    """See `Number`."""

    def bind(self, fd: Fd) -> Number:
        """The ioctl as a function, on that fd."""

        def call(argument: int = 0, /, detail: str = "") -> int:
            return fd.ioctl(self.name, self.request, argument, detail)

        return call


class FetchIoctl(Ioctl[Fetch[A]], Generic[A]):
    """See `Fetch`."""

    def __init__(self, direction: int, number: int, argument: type[A]):
        super().__init__(direction, number, argument)
        self.kind = argument

    def bind(self, fd: Fd) -> Fetch[A]:
        """The ioctl as a function, on that fd."""

        def call(detail: str = "") -> A:
            fetched = self.kind()
            fd.ioctl(self.name, self.request, fetched, detail)
            return fetched

        return call


class PassIoctl(Ioctl[Pass[A]], Generic[A]):
    """See `Pass`."""

    def bind(self, fd: Fd) -> Pass[A]:
        """The ioctl as a function, on that fd."""

        def call(argument: A, /, detail: str = "") -> int:
            return fd.ioctl(self.name, self.request, argument, detail)

        return call


def io(number: int) -> NumberIoctl:
    """`_IO`: the argument is a plain number, or there is none."""
    return NumberIoctl(NONE, number, None)


def ior(number: int, argument: type[A]) -> FetchIoctl[A]:
    """`_IOR`: fills in a structure."""
    return FetchIoctl(READ, number, argument)


def iow(number: int, argument: type[A]) -> PassIoctl[A]:
    """`_IOW`: is given a structure."""
    return PassIoctl(WRITE, number, argument)


def iowr(number: int, argument: type[A]) -> PassIoctl[A]:
    """`_IOWR`: is given a structure and changes it."""
    return PassIoctl(READ | WRITE, number, argument)


def misnamed_ior(number: int, argument: type[A]) -> PassIoctl[A]:
    """`_IOR` by its number, yet it is given a structure: KVM's headers have the direction of a few wrong."""
    return PassIoctl(READ, number, argument)
