"""Boot checks: what makes a kernel die without a word although a processor enters it, found in a plan beforehand.

A processor checks that registers do not contradict each other (`anyvisor.x86_64.entry_checks`). It does not check that
they lead anywhere: a kernel entered 0x200 bytes too low, with page tables outside RAM, or told of an initrd that lies
elsewhere, runs into the void, and is heard of no more. These checks look at memory as the processor and the kernel will
find it, by the registers that lead there, and never by the names of pieces or by who made them.

>>> from anyvisor.memory import Region
>>> from anyvisor.plan import BootPlan
>>> check_plan(BootPlan("x86_64", (Region(0, 4096),)))
[]
"""

from anyvisor.x86_64.boot_checks.checks import CHECKS, check_plan

__all__ = ["CHECKS", "check_plan"]
