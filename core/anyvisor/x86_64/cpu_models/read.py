"""Read a CPU template: TOML text in, a `Template` out, or a ConfigError that names the file and the line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyvisor.memory import parse_size
from anyvisor.x86_64.cpu_models.names import features_named, msr_number, near_features, near_msrs
from anyvisor.x86_64.cpu_models.source import U32, U64, Source, Table, shown
from anyvisor.x86_64.cpu_models.template import CACHE_TYPES, HOST, Cache, LeafPatch, RegisterBits, Template
from anyvisor.x86_64.cpuid import REGISTERS
from anyvisor.x86_64.features import Feature, Register
from anyvisor.x86_64.msrs import MsrEntry

TEXTS = ("description", "vendor", "brand")
NUMBERS: Mapping[str, tuple[int, int]] = {
    "family": (0, 0xF + 0xFF),
    "model": (0, 0xFF),
    "stepping": (0, 0xF),
    "physical_bits": (32, 52),
    "linear_bits": (48, 57),
    "max_leaf": (1, 0xFFFF),
    "max_extended_leaf": (0x8000_0001, 0x8000_FFFF),
}
"""The least and the most that each number can be."""
FEATURE_LISTS = ("features", "optional", "remove")
HYPERVISOR_KEYS = ("leaves", "timing")
CACHE_KEYS = ("level", "type", "size", "ways", "line", "inclusive")
LEAF_KEYS = ("leaf", "subleaf", *REGISTERS)
MSR_KEYS = ("index", "value")
KEYS = ("extends", "from_host", *TEXTS, *NUMBERS, *FEATURE_LISTS, "hypervisor", "cache", "leaf", "msr")
"""What can stand in a template, in the order of the documentation."""
MAX_VENDOR, MAX_BRAND = 12, 47


def read_template(name: str, text: str) -> tuple[Template, str | None, Source]:
    """The template in a text, the model that it extends, and its source; ConfigError with the line of what is wrong."""
    source = Source(name, text)
    top = Table(source, source.data, KEYS)
    lists = {key: _features(top, key) for key in FEATURE_LISTS}
    _check_lists(top, lists)
    hypervisor = Table(source, top.get("hypervisor", {}), HYPERVISOR_KEYS, "hypervisor", form="[{}]")
    values: dict[str, Any] = {key: _text(top, key) for key in TEXTS}
    values |= {key: top.number(key, *bounds) for key, bounds in NUMBERS.items()}
    template = Template(
        from_host=top.flag("from_host"),
        features=lists["features"],
        optional=lists["optional"],
        removed=lists["remove"],
        hypervisor_leaves=hypervisor.word("leaves", (HOST, "none")),
        timing_leaf=hypervisor.flag("timing"),
        caches=_tables(source, top, "cache", CACHE_KEYS, _cache),
        leaves=_tables(source, top, "leaf", LEAF_KEYS, _leaf),
        msrs=_tables(source, top, "msr", MSR_KEYS, _msr),
        **values,
    )
    return template, top.word("extends"), source


def _text(top: Table, key: str) -> str | None:
    text = top.word(key)
    most = {"vendor": MAX_VENDOR, "brand": MAX_BRAND}.get(key)
    if text is not None and most is not None and not (text.isascii() and text.isprintable() and 0 < len(text) <= most):
        raise top.error(f"{key}: {shown(text)} is not 1 to {most} plain ASCII characters", key)
    return text


def _features(top: Table, key: str) -> frozenset[Feature]:
    found: set[Feature] = set()
    for name in top.list(key):
        features = features_named(name) if isinstance(name, str) else frozenset()
        if not features:
            near_ones = near_features(name) if isinstance(name, str) else "; features are text in quotes"
            raise top.error(f"{key}: there is no feature {shown(name)}{near_ones}", key, name)
        if "*" in name and key != "remove":
            raise top.error(f"{key}: {name!r} is a pattern; only `remove` has them, name each feature here", key, name)
        found |= features
    return frozenset(found)


def _check_lists(top: Table, lists: Mapping[str, frozenset[Feature]]) -> None:
    for key, other in (("remove", "features"), ("remove", "optional"), ("optional", "features")):
        if both := sorted(each.name for each in lists[key] & lists[other]):
            raise top.error(f"{both[0].lower()} is both in `{other}` and in `{key}`; keep it in one", key, both[0])


def _tables(
    source: Source, top: Table, name: str, keys: tuple[str, ...], read: Callable[[Table], Any]
) -> tuple[Any, ...]:
    return tuple(read(Table(source, data, keys, name, index)) for index, data in enumerate(top.list(name, "[[{}]]")))


def _cache(table: Table) -> Cache:
    cache = Cache(
        level=table.needed("level", 1, 7),
        type=table.word("type", tuple(CACHE_TYPES), "unified") or "",
        size_bytes=_size(table),
        ways=table.needed("ways", 1, 1 << 10),
        line_bytes=table.number("line", 8, 1 << 12, 64) or 0,
        inclusive=bool(table.flag("inclusive", default=False)),
    )
    if cache.size_bytes != cache.sets * cache.ways * cache.line_bytes or not 0 < cache.sets <= U32:
        raise table.error(
            f"size: {cache.size_bytes} bytes are no whole number of sets of {cache.ways} lines of "
            f"{cache.line_bytes} bytes",
            "size",
        )
    return cache


def _size(table: Table) -> int:
    value = table.get("size")
    try:
        return parse_size(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise table.error(f'size: {shown(value)} is no size; write it as "32K"', "size") from error


def _leaf(table: Table) -> LeafPatch:
    registers: dict[Register, RegisterBits] = {
        name: _bits(table, name) for name in REGISTERS if table.get(name) is not None
    }
    return LeafPatch(table.needed("leaf", 0, U32), table.number("subleaf", 0, U32, 0) or 0, registers)


def _bits(table: Table, register: str) -> RegisterBits:
    """A register in full, or `{ mask, value }`."""
    given = table.get(register)
    if not isinstance(given, dict):
        return RegisterBits(U32, table.needed(register, 0, U32))
    if set(given) != {"mask", "value"}:
        raise table.error(f"{register}: give a number, or {{ mask = ..., value = ... }}", register)
    mask, value = given["mask"], given["value"]
    for each in (mask, value):
        if type(each) is not int or not 0 <= each <= U32:
            raise table.error(f"{register}: {shown(each)} is not a number of 32 bits", register, each)
    if value & ~mask:
        raise table.error(f"{register}: the value {value:#x} has bits outside the mask {mask:#x}", register, value)
    return RegisterBits(mask, value)


def _msr(table: Table) -> MsrEntry:
    given = table.get("index")
    index = msr_number(given) if isinstance(given, str) else table.needed("index", 0, U32)
    if index is None:
        raise table.error(
            f"index: there is no MSR {shown(given)}{near_msrs(given)}; or give its number", "index", given
        )
    return MsrEntry(index, table.needed("value", 0, U64))
