"""Features and MSRs by the names that templates call them by, in any case, and what may have been meant by others."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msr_index import Msr, msr_name

FEATURES = {each.name: each for each in Feature}
MSRS = {name: number for number in Msr for name in (Msr(number).name, msr_name(number).upper())}


def near(name: str, known: Iterable[str]) -> str:
    """`; near it: A, B` for a name that there is not, empty when none is like it."""
    names = difflib.get_close_matches(name, list(known), n=3)
    return f"; near it: {', '.join(names)}" if names else ""


def features_named(name: str) -> frozenset[Feature]:
    """The feature of that name, or all whose names fit a pattern such as `avx512*`; none when it is unknown."""
    if "*" in name:
        return frozenset(each for each in Feature if fnmatch.fnmatchcase(each.name, name.upper()))
    found = FEATURES.get(name.upper())
    return frozenset() if found is None else frozenset({found})


def near_features(name: str) -> str:
    """Features that may have been meant."""
    return near(name.upper(), FEATURES).lower()


def msr_number(name: str) -> int | None:
    """The number of the MSR of that name, with or without `IA32_` or `MSR_` before it; None when it is unknown."""
    return MSRS.get(name.upper())


def near_msrs(name: str) -> str:
    """MSRs that may have been meant."""
    return near(name.upper(), MSRS)
