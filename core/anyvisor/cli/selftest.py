"""Running a tiny guest on a backend, to see whether it runs any."""

from __future__ import annotations

SELF_TEST_SECONDS = 10.0


def self_test(backend: str) -> str:
    """Run a guest that writes to one port and halts on that backend: `ok`, or what went wrong."""
    from anyvisor.architectures import part
    from anyvisor.backends import open_hypervisor
    from anyvisor.errors import AnyvisorError
    from anyvisor.launch import launch

    try:
        with open_hypervisor(backend) as hypervisor:
            guest = part(hypervisor.facts.architecture, "selftest")
            heard = _Listener()
            with launch(guest.plan(), hypervisor) as machine:
                machine.bus.add_ports(guest.PORT, heard)
                outcome = machine.start().wait(SELF_TEST_SECONDS)
    except (AnyvisorError, OSError, ImportError) as error:
        return str(error)
    if heard.values != [guest.VALUE] or outcome.reason != "halted":
        found = f"it wrote {heard.values} and ended by: {outcome.reason}"
        return f"the guest should write {[guest.VALUE]} and halt; {found}"
    return "ok"


class _Listener:
    """A device that remembers what is written to it."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def read(self, offset: int, size_bytes: int) -> int:  # noqa: ARG002
        return 0

    def write(self, offset: int, size_bytes: int, value: int) -> None:  # noqa: ARG002
        self.values.append(value)
