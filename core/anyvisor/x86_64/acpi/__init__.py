"""ACPI: the tables by which an operating system learns what the machine is made of, written and read.

The submodules are imported when they are first named: `acpi.machine.acpi_tables`, `acpi.read.decode_table`. Chapters
and tables in the docstrings are those of the ACPI specification 6.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.lazy import submodules

if TYPE_CHECKING:
    from anyvisor.x86_64.acpi import aml as aml
    from anyvisor.x86_64.acpi import dsdt as dsdt
    from anyvisor.x86_64.acpi import facs as facs
    from anyvisor.x86_64.acpi import fadt as fadt
    from anyvisor.x86_64.acpi import generic_address as generic_address
    from anyvisor.x86_64.acpi import hpet as hpet
    from anyvisor.x86_64.acpi import machine as machine
    from anyvisor.x86_64.acpi import madt as madt
    from anyvisor.x86_64.acpi import mcfg as mcfg
    from anyvisor.x86_64.acpi import read as read
    from anyvisor.x86_64.acpi import rsdp as rsdp
    from anyvisor.x86_64.acpi import slit as slit
    from anyvisor.x86_64.acpi import spcr as spcr
    from anyvisor.x86_64.acpi import srat as srat
    from anyvisor.x86_64.acpi import table as table
    from anyvisor.x86_64.acpi import xsdt as xsdt

__getattr__ = submodules(__name__)
