"""Opening the emulated processor: whether it can be used here, and what it can do."""

from __future__ import annotations

import errno
import functools
import importlib
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from anyvisor.closing import Closing
from anyvisor.codec import name_of
from anyvisor.errors import HypervisorError, HypervisorUnavailable, Unsupported
from anyvisor.facts import Capability, HostFacts
from anyvisor.plugins import PluginWarning
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.modes import MODES
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import DebugRegs, Fpu, MpState, Regs, Sregs

if TYPE_CHECKING:
    from anyvisor_unicorn.proof import Proof
    from anyvisor_unicorn.vm import UnicornVm

Mode = Literal["fast", "counted"]
REMEDY = "pip install 'anyvisor[unicorn]'"
STATES = (Cpuid, MpState, Regs, Sregs, Fpu, DebugRegs, Msrs)
MOST_REGIONS = 64


def open_unicorn(mode: Mode | None = None, *, apic: bool = False) -> UnicornHypervisor:
    """Open the emulated processor; HypervisorUnavailable, saying what to do, when it cannot be used here.

    `mode` is `fast` (runs freely in the host's time; needs a Unicorn that the self-test vouches for) or `counted`
    (some thousand instructions at a time, a third as fast); None takes the fastest that is safe. Deterministic machines
    are always counted. Where that is not `fast`, a PluginWarning says why, once.

    With `apic`, the processor says that it has a local APIC, and a PC gets one, and an I/O APIC, as a device. Nothing
    that runs on one processor needs it, and an interrupt costs more by it than by the 8259 pair alone.
    """
    module = _import()
    proof = _prove(module)
    if mode == "fast" and proof.exit_flag_offset is None:
        raise HypervisorUnavailable(
            f"unicorn {module.__version__} cannot run freely: {proof.problem}", "leave out the mode, or " + REMEDY
        )
    if mode == "counted" and proof.counter_offset is None:
        reason = f"unicorn {module.__version__} does not say how many instructions it has run"
        raise HypervisorUnavailable(reason, "leave out the mode, or " + REMEDY)
    if mode is None and proof.problem:
        _warn(_note(proof, module.__version__, "counted"))
    return UnicornHypervisor(proof, module.__version__, mode or ("counted" if proof.problem else "fast"), apic=apic)


class UnicornHypervisor(Closing):
    """The emulated processor, made by `open_unicorn`; see `anyvisor.hypervisor.Hypervisor`. Closes its VMs, too."""

    def __init__(self, proof: Proof, version: str, mode: Mode, *, apic: bool = False):
        from anyvisor_unicorn.features import supported_cpuid  # noqa: PLC0415 - needs unicorn

        cpuid = supported_cpuid(apic=apic)
        self._proof = proof
        self._mode = mode
        self._vms: list[UnicornVm] = []
        self._closed = False
        capabilities = {Capability.FULL_PROCESSOR, Capability.FULL_SYSTEM, Capability.KICK}
        if proof.counter_offset is not None:
            capabilities.add(Capability.DETERMINISTIC)
        self.facts = HostFacts(
            backend="unicorn",
            architecture="x86_64",
            capabilities=frozenset(capabilities),
            states=tuple(name_of(kind) for kind in STATES),
            modes=MODES,
            supported=(cpuid,),
            max_vcpus=1,
            recommended_vcpus=1,
            max_memory_slots=MOST_REGIONS,
            physical_address_bits=cpuid.physical_address_bits,
            tsc_khz=proof.tsc_khz,
            notes=(_note(proof, version, mode),),
        )
        """What the emulated processor can do."""

    def create_vm(self, *, deterministic: bool = False) -> UnicornVm:
        """A new, empty VM; Unsupported for a deterministic one without Capability.DETERMINISTIC."""
        from anyvisor_unicorn.vm import UnicornVm  # noqa: PLC0415 - needs unicorn

        if self._closed:
            raise HypervisorError("uc_open", errno.EBADF, "the emulated processor is closed")
        if deterministic and not self.facts.has(Capability.DETERMINISTIC):
            raise Unsupported("deterministic: this Unicorn does not say how many instructions it has run")
        vm = UnicornVm(
            self._proof,
            self.facts,
            counted=self._mode == "counted",
            deterministic=deterministic,
        )
        self._vms = [*(each for each in self._vms if not each.closed), vm]
        return vm

    def close(self) -> None:
        """Close every VM that is still open; may be called twice."""
        while self._vms:
            self._vms[-1].close()
            self._vms.pop()
        self._closed = True


def _import() -> ModuleType:
    try:
        return importlib.import_module("unicorn")
    except ImportError as error:
        raise HypervisorUnavailable(f"the emulated processor is not installed ({error})", REMEDY) from error


def _prove(module: ModuleType) -> Proof:
    """What this Unicorn is vouched for; HypervisorUnavailable when it is another than we know."""
    try:
        from anyvisor_unicorn.guests import Disproof  # noqa: PLC0415 - needs unicorn
        from anyvisor_unicorn.proof import prove  # noqa: PLC0415 - needs unicorn
    except (ImportError, AttributeError) as error:
        raise HypervisorUnavailable(
            f"unicorn {module.__version__} is not one that is known: {error}", REMEDY
        ) from error
    try:
        proof = prove()
    except (Disproof, HypervisorError, LookupError) as disproof:
        raise HypervisorUnavailable(f"unicorn {module.__version__}: {disproof}", REMEDY) from disproof
    if proof.exit_flag_offset is None and proof.counter_offset is None:
        raise HypervisorUnavailable(f"unicorn {module.__version__} cannot be run safely: {proof.problem}", REMEDY)
    return proof


@functools.cache
def _warn(note: str) -> None:
    warnings.warn(f"{note}; {REMEDY}", PluginWarning, stacklevel=3)


def _note(proof: Proof, version: str, mode: Mode) -> str:
    if mode == "fast":
        return f"unicorn {version}, fast: the self-test vouches for it"
    cause = f", since {proof.problem}" if proof.problem else ""
    return f"unicorn {version}, counted: a third as fast, and safe{cause}"
