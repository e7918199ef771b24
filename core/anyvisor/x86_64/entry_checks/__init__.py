"""The checks that a processor makes of a guest's state when it enters it, over a plan or a live processor.

Some facts about VM entry (SDM Vol. 3, 27.3.1; APM Vol. 2, 15.5.1). A processor refuses to enter a guest whose registers
contradict each other, and says only that it did: not which rule they break. Intel's list is long and covers every
segment register; AMD's is short, as its processors make addresses canonical and ignore what they do not need. A plan
should boot on both, so all rules are looked at unless one maker's are asked for. Here is also what WRMSR refuses of
registers that a plan writes.

What is neither set by a plan nor among the states is the hypervisor's own: a rule about it is not looked at. So are
bits that a hypervisor sets for itself in any guest: EFER.SVME, CR4.VMXE and CR0.NE of a processor that virtualises.

Rules of both makers fit the live states of either: what KVM tells of a processor of AMD's it has made to look as that
of Intel's would (a busy TSS, the accessed mark), so that states can move from one to the other. But in long mode, until
its kernel executes LTR, another processor than the first has the 16-bit TSS of INIT on AMD's: live, that is fine.

Processors have run real mode in a guest as it is since 2010 ("unrestricted guest"): a vCPU in its reset state passes.

Loading a segment marks it accessed, and Intel's processors want that mark. It is looked at in plans of protected mode.
In real mode no descriptor is loaded, and what a live processor says depends on who emulates it: there hypervisors set
the mark themselves at each entry.
"""

from __future__ import annotations

from anyvisor.x86_64.entry_checks.check import Check
from anyvisor.x86_64.entry_checks.checks import CHECKS, check_plan, check_states
from anyvisor.x86_64.entry_checks.state import AMD, INTEL

__all__ = ["AMD", "CHECKS", "INTEL", "Check", "check_plan", "check_states"]
