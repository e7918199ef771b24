"""Sequences of calls that KVM refuses, and near misses that it takes, for any hypervisor: a `Case` each.

`CASES` are run against the mock everywhere, and against KVM and the mock side by side where there is KVM. A case is
written down once, as what is done to a `Bench`; `rule` is the name of the mock's rule that must refuse it, None for a
near miss. What a case returns is compared, too: most near misses return what is read back.
"""

import contextlib
import errno
import os
import platform
import re
from collections.abc import Callable

import attrs

from anyvisor.acts import Halt
from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.facts import Capability
from anyvisor.memory import PAGE_BYTES, RamRegion, Region
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.modes import REAL, enter
from anyvisor.x86_64.state import Regs, Sregs


class Bench:
    """A hypervisor and what a case makes with it, to be given back at the end."""

    def __init__(self, hypervisor):
        self.hypervisor = hypervisor
        self.facts = hypervisor.facts
        self.bus = Bus()
        self.owned = contextlib.ExitStack()

    def vm(self, *, irqchip=False):
        made = self.hypervisor.create_vm()
        self.owned.callback(made.close)
        if irqchip:
            made.put(Irqchip())
        return made

    def vcpu(self, *, irqchip=True, table=True):
        """One vCPU; `table` is a Cpuid, True for all that the host supports, False for none."""
        made = self.vm(irqchip=irqchip).create_vcpu(0)
        if table is True:
            table = self.facts.supported_state(Cpuid)
        if table:
            made.put(table)
        return made

    def ram(self, start, size_bytes=PAGE_BYTES):
        """A region of RAM, aligned or not."""
        made = RamRegion(Region(start, size_bytes, "RAM"))
        self.owned.callback(made.close)
        return made

    def eventfd(self):
        fd = os.eventfd(0)
        self.owned.callback(os.close, fd)
        return fd

    def pipe(self):
        for fd in (ends := os.pipe()):
            self.owned.callback(os.close, fd)
        return ends[0]

    def vcpu_that_has_run(self):
        """A vCPU without chips that has executed one HLT."""
        vm = self.vm()
        ram = self.ram(0)
        ram.view[:1] = b"\xf4"  # hlt
        vm.map_memory(ram)
        vcpu = vm.create_vcpu(0)
        vcpu.put(self.facts.supported_state(Cpuid))
        vcpu.put(enter(REAL, vcpu.get(Sregs)))
        vcpu.put(Regs())
        if hasattr(vcpu, "play"):
            vcpu.play([Halt()])
        vcpu.run(self.bus)
        return vcpu

    def close(self):
        self.owned.close()


@attrs.frozen
class Kvm:
    """The KVM that the mock is compared with: whether it is the processor's own, and its kernel's version."""

    native: bool
    kernel: tuple[int, ...]

    @classmethod
    def here(cls, facts):
        numbers = re.findall(r"\d+", platform.release())
        return cls(facts.has(Capability.NATIVE), (int(numbers[0]), int(numbers[1])))


def never(kvm):
    """The mock does as every KVM does that it was compared with."""
    return False


def on_software(kvm):
    """Software KVM (PVM) differs."""
    return not kvm.native


def before_618(kvm):
    """Measured on 6.1, which differs, and on 6.18; None for those in between."""
    return kvm.kernel < (6, 18) if kvm.kernel <= (6, 1) or kvm.kernel >= (6, 18) else None


NOT_HERE = "this host lacks what it takes"
"""What a case gives that cannot be tried."""


@attrs.frozen
class Case:
    """What is done to a bench, and the rule that refuses it. `differs` says of a KVM whether it does otherwise."""

    name: str
    rule: str | None
    act: Callable[[Bench], object]
    differs: Callable[[Kvm], bool | None] = never

    @property
    def id(self):
        return f"{self.rule or 'accepted'}: {self.name}"

    def outcome(self, hypervisor):
        """What comes of it: `("accepted", value)`, `("refused", errno)` or `("unsupported",)`; and the error."""
        bench = Bench(hypervisor)
        try:
            return ("accepted", self.act(bench)), None
        except HypervisorError as error:
            return ("refused", errno.errorcode[error.errno]), error
        except Unsupported as error:
            return ("unsupported",), error
        finally:
            bench.close()


CASES = []


def case(rule, name=None, differs=never):
    """Decorator: a case of this rule, named as its function; None for a near miss."""

    def add(act):
        CASES.append(Case(name or act.__name__.replace("_", " "), rule, act, differs))
        return act

    return add


refused = case
accepted = case(None)
accepted_elsewhere = case(None, differs=on_software)
"""A near miss that software KVM gets wrong."""
