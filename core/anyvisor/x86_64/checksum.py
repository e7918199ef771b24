"""The checksum of a PC's tables: one byte that makes all bytes sum to 0 modulo 256.

ACPI's tables have it, and so have SMBIOS entry points and the MP table; each has a place of its own for the byte.
"""

from __future__ import annotations

from anyvisor.errors import PlanError


def with_checksum(data: bytes, offset: int) -> bytes:
    """`data` with the byte at `offset` such that all sum to 0 modulo 256.

    >>> with_checksum(bytes([1, 2, 3]), 1).hex()
    '01fc03'
    """
    return data[:offset] + bytes([(data[offset] - sum(data)) % 256]) + data[offset + 1 :]


def check_sum(what: str, data: bytes, offset: int) -> None:
    """PlanError with the right checksum, and where it stands, if the bytes of `data` do not sum to 0."""
    if sum(data) % 256:
        right = (data[offset] - sum(data)) % 256
        raise PlanError(f"{what}: checksum at offset {offset:#x} is {data[offset]:#04x}, not {right:#04x}")
