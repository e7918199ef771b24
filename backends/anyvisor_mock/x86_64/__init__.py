"""The mock's x86_64: processors and chips that keep KVM's rules."""

from __future__ import annotations

from anyvisor.facts import HostFacts
from anyvisor_mock import architecture
from anyvisor_mock.x86_64.chips import X86Chips
from anyvisor_mock.x86_64.processor import X86Processor


class _X86:
    """See `anyvisor_mock.architecture.Architecture`."""

    name = "x86_64"

    def chips(self, name: str) -> X86Chips:
        """Those of a new VM: none yet."""
        return X86Chips(name)

    def processor(self, name: str, hardware_id: int, facts: HostFacts, chips: architecture.Chips) -> X86Processor:
        """A new one, in its reset state."""
        return X86Processor(name, hardware_id, facts, has_irqchip=chips.has_irqchip)


X86_64 = _X86()
