"""The errors anyvisor raises: one class per thing a caller would do differently.

Every message names the operation, the object, the cause and the way out.
"""

from __future__ import annotations

import errno as errno_names
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyvisor.diagnosis.report import Cause, Report
    from anyvisor.exits import Exit
    from anyvisor.finding import Finding

FINDINGS_TOLD = 3
"""How many findings a message has room for."""


class AnyvisorError(Exception):
    """Something anyvisor was asked to do did not work; the root of every error below."""


class ConfigError(AnyvisorError, ValueError):
    """The machine's configuration is wrong: fix the value that the message names."""


class KernelImageError(AnyvisorError, ValueError):
    """A kernel or initrd file cannot be booted.

    `path` is the file, `offset` the byte in it where the trouble was found (None if it is the file as a whole).
    """

    def __init__(self, reason: str, *, path: os.PathLike[str] | str | None = None, offset: int | None = None):
        self.reason = reason
        self.path = None if path is None else os.fspath(path)
        self.offset = offset
        place = "" if offset is None else f" (at offset {offset:#x})"
        super().__init__(f"{self.path}: {reason}{place}" if self.path else f"{reason}{place}")


class PlanError(AnyvisorError):
    """The pieces of a boot plan do not fit together: overlaps, pieces outside RAM, states of no known kind."""


class PluginError(AnyvisorError):
    """A plugin is broken or returned something its hook does not allow; the message names the plugin."""


class HypervisorUnavailable(AnyvisorError):
    """This hypervisor cannot be used here and now: absent, forbidden, or missing a capability it needs.

    `reason` says why not, `remedy` what to do about it.
    """

    def __init__(self, reason: str, remedy: str = ""):
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{reason}; {remedy}" if remedy else reason)


class Unsupported(AnyvisorError):
    """The hypervisor or machine does not have what was asked of it; ask `HostFacts` first."""


class UnsupportedConfig(ConfigError, Unsupported):
    """The configuration asks for more than this host or its hypervisor has: ask for less, or take another one."""


class HypervisorError(AnyvisorError, OSError):
    """The hypervisor refused an operation. An `OSError`, so `.errno` is there to be looked at.

    `operation` is the name of the call (`KVM_CREATE_VCPU`), `detail` what it was applied to. `findings` are the rules
    that the refused state breaks, as far as that is known; the message has the first of them.
    """

    def __init__(self, operation: str, errno: int, detail: str = ""):
        self.operation = operation
        self.detail = detail
        self.findings: tuple[Finding, ...] = ()
        name = errno_names.errorcode.get(errno, str(errno))
        subject = f"{operation} ({detail})" if detail else operation
        OSError.__init__(self, errno, f"{subject}: {name}, {os.strerror(errno)}")

    def __str__(self) -> str:
        return "\n  ".join([str(self.strerror), *map(str, self.findings[:FINDINGS_TOLD])])


class GuestMemoryError(AnyvisorError):
    """An access outside the guest's RAM, or RAM that the host cannot give."""


class GuestError(AnyvisorError):
    """The guest died or did something nobody handles.

    `exit` is what the vCPU reported, `vcpu` its index. `report` has all that is known of it, and is a page of text as
    `str(error.report)`; None where no vCPU died.
    """

    def __init__(
        self, message: str, *, exit: Exit | None = None, vcpu: int | None = None, report: Report | None = None
    ):
        self.exit = exit
        self.vcpu = vcpu
        self.report = report
        super().__init__(message)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What the guest may have died of, likeliest first."""
        return self.report.causes if self.report else ()

    @property
    def likely(self) -> Cause | None:
        """The likeliest cause; None where nothing speaks for any."""
        return self.report.likely if self.report else None


class ExpectError(AnyvisorError, TimeoutError):
    """The console did not show what was expected in time; the message ends with its last lines."""


class ReplayError(AnyvisorError):
    """A replay of a trace differs from its recording: the caller, or a device, does something else than it did then."""


class SnapshotError(AnyvisorError):
    """A snapshot cannot be taken, read or restored."""
