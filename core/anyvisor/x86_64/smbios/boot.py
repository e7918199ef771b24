"""How the last boot went (type 32), and where the table ends (127); DSP0134, 7.33 and 7.45."""

from __future__ import annotations

from typing import ClassVar

import attrs

from anyvisor.x86_64.smbios.structure import Structure
from anyvisor.x86_64.smbios.wire import byte, dword, word


@attrs.frozen(kw_only=True)
class SystemBootInformation(Structure):
    """Whether the machine came up well: a `status` of 0 says that nothing was wrong."""

    TYPE: ClassVar[int] = 32
    NAME: ClassVar[str] = "System Boot Information"

    reserved: int = dword()
    reserved_2: int = word()
    status: int = byte()


@attrs.frozen(kw_only=True)
class EndOfTable(Structure):
    """The last structure."""

    TYPE: ClassVar[int] = 127
    NAME: ClassVar[str] = "End Of Table"
