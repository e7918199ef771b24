"""Whether the events of a trace can follow each other: subjects that exist, and acts while their vCPU runs."""

from __future__ import annotations

from anyvisor.errors import PlanError
from anyvisor.recording.trace import (
    HYPERVISOR,
    Acted,
    Call,
    ClockRead,
    DeviceRaised,
    Event,
    RunBegan,
    RunEnded,
    TimerCalled,
)

CREATES = {"create_vm": "vm", "create_vcpu": "vcpu"}


class Subjects:
    """What there is at a point of a trace: the kind of each subject, and which vCPUs are running."""

    def __init__(self) -> None:
        self._kinds = {HYPERVISOR: "hypervisor"}
        self._running: set[int] = set()

    def kind(self, subject: int) -> str:
        """`hypervisor`, `vm` or `vcpu`; PlanError for a number that nothing has yet."""
        if subject not in self._kinds:
            raise PlanError(f"subject {subject} has not been made by then")
        return self._kinds[subject]

    def check(self, event: Event) -> None:
        """Take note of the next event; PlanError when it cannot come here."""
        kind = self.kind(event.subject)
        if isinstance(event, Call):
            self._check_call(event)
        elif kind != ("vm" if isinstance(event, ClockRead | TimerCalled) else "vcpu"):
            raise PlanError(f"subject {event.subject} is a {kind}: that does not happen to it")
        elif isinstance(event, RunBegan):
            self._begin(event.subject)
        elif isinstance(event, Acted | DeviceRaised | RunEnded) and event.subject not in self._running:
            raise PlanError(f"vCPU {event.subject} is not in run by then")
        elif isinstance(event, RunEnded):
            self._running.remove(event.subject)

    def _begin(self, vcpu: int) -> None:
        if vcpu in self._running:
            raise PlanError(f"vCPU {vcpu} is in run already")
        self._running.add(vcpu)

    def _check_call(self, call: Call) -> None:
        if call.operation in CREATES and call.failure is None:
            if not isinstance(call.result, int) or call.result in self._kinds:
                raise PlanError(f"{call.operation} gave subject {call.result}, which is no new number")
            self._kinds[call.result] = CREATES[call.operation]
