"""Where a machine is in its life, and how it ended."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from anyvisor.errors import AnyvisorError, GuestError

if TYPE_CHECKING:
    from anyvisor.hypervisor import Vcpu
    from anyvisor.panics import Panic

DIED = "died"
"""The reason of a machine that ended by accident."""


class Phase(enum.Enum):
    """Where a machine is in its life."""

    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"


@attrs.frozen
class Outcome:
    """How a machine ended.

    `reason` is `reset` or `shutdown` (the guest asked for it), `halted` (every vCPU halted for good), `stopped` (the
    host asked for it) or `died`; then `error` says why. `panic` holds the last words of a guest's kernel that gave up,
    whichever way the machine ended by that; `note` says in words what else there is to say.
    """

    reason: str
    error: BaseException | None = None
    panic: Panic | None = None
    note: str = ""

    @property
    def cause(self) -> str:
        """What ended it, in a line: the error's first or the panic; empty where there is nothing to tell."""
        return str(self.error).partition("\n")[0] if self.error else str(self.panic or "")


def device_failure(error: BaseException, vcpu: Vcpu | None = None) -> AnyvisorError:
    """The error for what a device or backend raised; `vcpu` is the one that it was working for."""
    if isinstance(error, AnyvisorError):
        return error
    where = "" if vcpu is None else f"vCPU {vcpu.index}: "
    broken = GuestError(
        f"{where}a device or backend failed: {type(error).__name__}: {error}", vcpu=None if vcpu is None else vcpu.index
    )
    broken.__cause__ = error
    return broken
