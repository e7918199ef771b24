r"""Any AML in words: which devices, processors, methods and values it names.

>>> from anyvisor.x86_64.acpi.dsdt import processors_aml
>>> print(aml_outline(processors_aml([0, 1])))
Scope _SB
  Device C000: _HID ACPI0007, _UID 0
  Device C001: _HID ACPI0007, _UID 1

It reads what stands in lists of terms, and no statements: what is inside methods, or has to be computed, it passes
over, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.aml_reader import AmlReader, Found, Reference
from anyvisor.x86_64.acpi.resource_words import resource_words

SHORT = 8
"""Packages of more values than this are only counted."""
SPACES = ("SystemMemory", "SystemIO", "PCI_Config", "EmbeddedControl", "SMBus", "SystemCMOS", "PciBarTarget")
NAME = 0x08


def aml_outline(body: bytes) -> str:
    """The named objects in a table's body (what follows its header), a line each, indented as they are nested.

    Never raises: a line says how many bytes were passed over, and why.
    """
    return "\n".join(_lines(AmlReader(body)))


def _lines(reader: AmlReader) -> Iterator[str]:
    """The objects of a list of terms. An object that cannot be read hides the rest of its list."""
    while reader.left():
        start = reader.position
        try:
            yield from _term(reader)
        except PlanError as error:
            yield f"({reader.end - start} bytes not read: {error})"
            return


def _term(reader: AmlReader) -> list[str]:
    opcode = reader.opcode()
    if opcode not in TERMS:
        reader.position -= 1 + (opcode > 0xFF)
        reader.fail(f"opcode {opcode:#04x} is a statement")
    return TERMS[opcode](reader)


def _name(reader: AmlReader) -> list[str]:
    return [f"Name {_named_value(reader)}"]


def _named_value(reader: AmlReader) -> str:
    path = reader.path()
    return f"{path} {_words(reader.value(), path)}"


def _holder(kind: str, more: Callable[[AmlReader], str] = lambda reader: "") -> Callable[[AmlReader], list[str]]:  # noqa: ARG005
    """A term of this kind that holds others: values at its beginning on its line, the others below it."""

    def read(reader: AmlReader) -> list[str]:
        inner = reader.package()
        title = f"{kind} {inner.path()}{more(inner)}"
        values = list(_leading_values(inner)) if kind != "Scope" else []
        first = f"{title}: {', '.join(values)}" if values else title
        return [first, *(f"  {line}" for line in _lines(inner))]

    return read


def _leading_values(reader: AmlReader) -> Iterator[str]:
    """The values in the first names of a list, as far as they can be read."""
    while reader.left() and reader.peek() == NAME:
        start = reader.position
        reader.take(1)
        try:
            yield _named_value(reader)
        except PlanError:
            reader.position = start
            return


def _processor(reader: AmlReader) -> str:
    identity, block, block_bytes = reader.number(1), reader.number(4), reader.number(1)
    return f" {identity}, registers {block:#x} ({block_bytes} bytes)" if block_bytes else f" {identity}"


def _power(reader: AmlReader) -> str:
    return f", level {reader.number(1)}, order {reader.number(2)}"


def _method(reader: AmlReader) -> list[str]:
    inner = reader.package()
    path, arguments = inner.path(), inner.number(1) & 7
    return [f"Method {path} of {arguments} argument{'s' * (arguments != 1)}"]


def _region(reader: AmlReader) -> list[str]:
    path, space = reader.path(), reader.number(1)
    kind = SPACES[space] if space < len(SPACES) else f"space {space:#x}"
    return [f"OperationRegion {path} {kind} {_words(reader.value())}, size {_words(reader.value())}"]


def _fields(kind: str, names: int) -> Callable[[AmlReader], list[str]]:
    def read(reader: AmlReader) -> list[str]:
        inner = reader.package()
        return [f"{kind} {' '.join(inner.path() for _ in range(names))}"]

    return read


def _buffer_field(values: int) -> Callable[[AmlReader], list[str]]:
    def read(reader: AmlReader) -> list[str]:
        source = " ".join(_words(reader.value()) for _ in range(values))
        return [f"CreateField {reader.path()} of {source}"]

    return read


def _alias(reader: AmlReader) -> list[str]:
    source = reader.path()
    return [f"Alias {reader.path()} of {source}"]


def _external(reader: AmlReader) -> list[str]:
    path = reader.path()
    reader.take(2)
    return [f"External {path}"]


def _mutex(reader: AmlReader) -> list[str]:
    path = reader.path()
    reader.take(1)
    return [f"Mutex {path}"]


def _event(reader: AmlReader) -> list[str]:
    return [f"Event {reader.path()}"]


def _data_region(reader: AmlReader) -> list[str]:
    return [f"DataTableRegion {reader.path()} {' '.join(_words(reader.value()) for _ in range(3))}"]


def _block(kind: str) -> Callable[[AmlReader], list[str]]:
    def read(reader: AmlReader) -> list[str]:
        return [f"{kind} ({reader.package().left()} bytes not read)"]

    return read


TERMS: dict[int, Callable[[AmlReader], list[str]]] = {
    0x06: _alias,
    NAME: _name,
    0x10: _holder("Scope"),
    0x14: _method,
    0x15: _external,
    **dict.fromkeys((0x8A, 0x8B, 0x8C, 0x8D, 0x8F), _buffer_field(2)),
    0xA0: _block("If"),
    0xA1: _block("Else"),
    0xA2: _block("While"),
    0xA3: lambda reader: [],  # noqa: ARG005 - Noop
    0x5B01: _mutex,
    0x5B02: _event,
    0x5B13: _buffer_field(3),
    0x5B80: _region,
    0x5B81: _fields("Field", 1),
    0x5B82: _holder("Device"),
    0x5B83: _holder("Processor", _processor),
    0x5B84: _holder("PowerResource", _power),
    0x5B85: _holder("ThermalZone"),
    0x5B86: _fields("IndexField", 2),
    0x5B87: _fields("BankField", 2),
    0x5B88: _data_region,
}
"""How each kind of term is read, by opcode."""


def _words(value: Found, path: str = "") -> str:
    if isinstance(value, list):
        return _package_words(value, path)
    if isinstance(value, Reference):
        return value.path
    if isinstance(value, bytes):
        return resource_words(value) or f"buffer of {len(value)} bytes"
    if isinstance(value, str):
        return value.encode("unicode_escape").decode() or '""'
    if path in {"_HID", "_CID"}:
        return _eisa_id(value) or f"{value:#x}"
    return str(value) if value < 10 or path == "_UID" else f"{value:#x}"


def _package_words(values: list[Found], path: str) -> str:
    if len(values) > SHORT:
        return f"package of {len(values)}"
    return f"{{{', '.join(_words(each, path) for each in values)}}}"


def _eisa_id(value: int) -> str | None:
    """The hardware id that is packed in an integer; None when there is none."""
    if value >= 1 << 32:
        return None
    packed = int.from_bytes(value.to_bytes(4, "little"), "big")
    letters = "".join(chr((packed >> shift & 0x1F) + ord("@")) for shift in (26, 21, 16))
    return f"{letters}{packed & 0xFFFF:04X}" if letters.isalpha() and packed < 1 << 31 else None
