"""Who a machine says it is: the strings and the UUID that its SMBIOS tables tell the guest."""

from __future__ import annotations

import uuid as uuids

import attrs

from anyvisor.errors import ConfigError

MAX_TEXT = 64
"""The longest string that every reader of SMBIOS tables takes."""


def _uuid(value: uuids.UUID | str | None) -> uuids.UUID | None:
    if value is None or isinstance(value, uuids.UUID):
        return value
    try:
        return uuids.UUID(value)
    except (ValueError, AttributeError, TypeError) as error:
        example = "8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3"
        raise ConfigError(f"identity.uuid: {value!r} is no UUID; write it as {example}") from error


def _check_text(_: object, attribute: attrs.Attribute[str], text: str) -> None:
    name = f"identity.{attribute.name}"
    if not isinstance(text, str):
        raise ConfigError(f"{name}: {text!r} is not text")
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{name}: has {len(text)} characters, SMBIOS readers take {MAX_TEXT}; make it shorter")
    if not all(" " <= character <= "~" for character in text):
        raise ConfigError(f"{name}: {text!r} has characters that are not printable ASCII; write it without them")


def _text(default: str = "") -> str:
    field: str = attrs.field(default=default, validator=_check_text)
    return field


@attrs.frozen(kw_only=True)
class Identity:
    """What the machine is called, as `dmidecode` in the guest will show it. Strings of up to 64 printable characters.

    An empty string is one that is not told. Without a `uuid` (a `uuid.UUID` or its text) the machine has none.
    """

    manufacturer: str = _text("anyvisor")
    product: str = _text("anyvisor machine")
    version: str = _text()
    serial: str = _text()
    uuid: uuids.UUID | None = attrs.field(default=None, converter=_uuid)
    sku: str = _text()
    family: str = _text()
