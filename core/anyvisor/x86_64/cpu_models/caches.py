"""Caches as CPUID tells of them: leaf 4 on Intel; 0x8000001D, 0x80000005 and 0x80000006 on AMD.

Some facts about these leaves. Leaves 4 and 0x8000001D have the same form, a cache a subleaf, and end with one of type
0. The older leaves of AMD hold sizes in KiB (the third level's in units of 512 KiB) and the ways as a code, with one
for what only the newer leaf can say; what is too large for a field is the most that it holds. Intel has the second
level in 0x80000006 too. Who shares a cache is the topology's to say, and is written later. SDM Vol. 2A, CPUID; APM
Vol. 3, E.4.4, E.4.5 and E.4.15.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.memory import KIB
from anyvisor.x86_64.cpu_models.template import CACHE_TYPES, Cache
from anyvisor.x86_64.cpuid import CpuidEntry
from anyvisor.x86_64.leaves import CacheInfo, Leaf

DESCRIPTORS, AMD_FIRST_LEVEL, AMD_OTHER_LEVELS = 0x2, 0x8000_0005, 0x8000_0006
ASK_LEAF_4 = 0xFF01
"""Leaf 2 EAX: ask once, and leaf 4 has the caches."""
SELF_INITIALISING = 1 << 8
INCLUSIVE = 1 << 1
WAYS_CODES = {1: 1, 2: 2, 3: 3, 4: 4, 6: 5, 8: 6, 16: 8, 32: 10, 48: 11, 64: 12, 96: 13, 128: 14}
SEE_LEAF_4, SEE_AMD_CACHES = 7, 9
"""Codes of Intel and of AMD for any other number of ways."""


def intel_caches(caches: tuple[Cache, ...]) -> Iterator[CpuidEntry]:
    """Leaves 2, 4 and 0x80000006."""
    yield CpuidEntry(DESCRIPTORS, eax=ASK_LEAF_4)
    yield from _deterministic(Leaf.CACHES, caches)
    second = _level(caches, 2)
    yield CpuidEntry(AMD_OTHER_LEVELS, ecx=_second_level(second, 0, SEE_LEAF_4) if second else 0)


def amd_caches(caches: tuple[Cache, ...], max_extended_leaf: int) -> Iterator[CpuidEntry]:
    """Leaves 0x80000005 and 0x80000006, and 0x8000001D where there is room for it."""
    data, instruction = _level(caches, 1, "data"), _level(caches, 1, "instruction")
    yield CpuidEntry(AMD_FIRST_LEVEL, ecx=_first_level(data), edx=_first_level(instruction))
    second, third = _level(caches, 2), _level(caches, 3)
    yield CpuidEntry(
        AMD_OTHER_LEVELS,
        ecx=_second_level(second, 1, SEE_AMD_CACHES) if second else 0,
        edx=_third_level(third) if third else 0,
    )
    if max_extended_leaf >= Leaf.AMD_CACHES:
        yield from _deterministic(Leaf.AMD_CACHES, caches)


def _deterministic(leaf: Leaf, caches: tuple[Cache, ...]) -> Iterator[CpuidEntry]:
    for number, cache in enumerate(caches):
        info = CacheInfo(type=CACHE_TYPES[cache.type], level=cache.level)
        yield CpuidEntry(
            leaf,
            number,
            eax=int(info) | SELF_INITIALISING,
            ebx=(cache.ways - 1) << 22 | cache.line_bytes - 1,
            ecx=cache.sets - 1,
            edx=INCLUSIVE if cache.inclusive else 0,
        )
    yield CpuidEntry(leaf, len(caches))


def _level(caches: tuple[Cache, ...], level: int, kind: str = "unified") -> Cache | None:
    return next((each for each in caches if each.level == level and each.type == kind), None)


def _first_level(cache: Cache | None) -> int:
    if cache is None:
        return 0
    return _at_most(cache.size_bytes // KIB, 8) << 24 | _at_most(cache.ways, 8) << 16 | 1 << 8 | _line(cache)


def _second_level(cache: Cache, lines_in_tag: int, other_ways: int) -> int:
    code = WAYS_CODES.get(cache.ways, other_ways)
    return _at_most(cache.size_bytes // KIB, 16) << 16 | code << 12 | lines_in_tag << 8 | _line(cache)


def _third_level(cache: Cache) -> int:
    code = WAYS_CODES.get(cache.ways, SEE_AMD_CACHES)
    return _at_most(cache.size_bytes // (512 * KIB), 14) << 18 | code << 12 | 1 << 8 | _line(cache)


def _line(cache: Cache) -> int:
    return _at_most(cache.line_bytes, 8)


def _at_most(number: int, bits: int) -> int:
    return min(number, (1 << bits) - 1)
