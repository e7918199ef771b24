"""Which processor architectures there are boot steps for; each is a package of core, imported when first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from anyvisor.errors import Unsupported

ARCHITECTURES = ("x86_64",)


def part(architecture: str, name: str) -> ModuleType:
    """A module of an architecture: `part("x86_64", "boot")`. Unsupported for an architecture that is not there.

    Each has `boot` (assemble), `generic` (FACTS), `common` (common_state), `describe` (describe,
    landmarks), `differences` (tables, state_changes), `dump` (KINDS, dump, stand_in_kernel), `decode` (KINDS, sniff,
    decode), `cpu_models` (cpu_model, host_for), `entry_checks` (check_plan, check_states, CHECKS),
    `boot_checks` (check_plan, CHECKS), `diagnosis` (STATES, summary, findings, causes, sections), `kaslr` (slide) and
    `selftest`.
    """
    if architecture not in ARCHITECTURES:
        raise Unsupported(f"no boot steps for the architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    return importlib.import_module(f"anyvisor.{architecture}.{name}")
