"""What a check is: a rule with its sections in the manuals, and a function that finds what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from anyvisor.bits import Bits
from anyvisor.finding import Finding
from anyvisor.x86_64.entry_checks.state import AMD, INTEL, Known


@attrs.frozen
class Broken:
    """How a register breaks a rule: what it holds and what it should, in words, and the way out."""

    register: str
    problem: str
    found: str
    wanted: str
    remedy: str


Look = Callable[[Known], Iterator[Broken]]


@attrs.frozen
class Check:
    """One rule. `wants` says it in a sentence; `intel` and `amd` are the manuals' sections.

    A section is empty where that maker's processors do not look. `look` yields what breaks the rule; where it has to
    know whose rules are meant, it asks `known.enforces`.
    """

    name: str
    wants: str
    intel: str
    amd: str
    look: Look

    def made_by(self, rules: str | None) -> bool:
        """Whether processors of that maker check this; None is any."""
        return bool(self.section(rules))

    def section(self, rules: str | None) -> str:
        """The manual's section, or both manuals' for None."""
        by_maker = {INTEL: self.intel, AMD: self.amd}
        return "; ".join(filter(None, by_maker.values() if rules is None else [by_maker[rules]]))

    def findings(self, known: Known, vcpu: int | None) -> Iterator[Finding]:
        """What of a processor breaks the rule."""
        who = [] if vcpu is None else [f"vCPU {vcpu}"]
        for broken in self.look(known):
            yield Finding(
                check=self.name,
                subject=" ".join([*who, broken.register]),
                problem=broken.problem,
                found=broken.found,
                wanted=broken.wanted,
                section=self.section(known.rules),
                remedy=broken.remedy,
                vcpu=vcpu,
            )


def check(name: str, wants: str, *, intel: str = "", amd: str = "") -> Callable[[Look], Check]:
    """Decorator: makes the check of a function that looks."""
    return lambda look: Check(name, wants, intel, amd, look)


def spelled(name: str, value: Bits) -> str:
    """A register with its bits by name: `EFER 0x500 (LME|LMA)`."""
    words = value.words().upper().replace("0X", "0x")
    return f"{name} {int(value):#x} ({words})" if value else f"{name} 0"


def reserved(name: str, value: Bits, wrong: int) -> Broken:
    """A register with reserved bits set."""
    remedy = f"clear bits {wrong:#x} of {name}"
    return Broken(name, f"reserved bits {wrong:#x} are set", spelled(name, value), "them clear", remedy)
