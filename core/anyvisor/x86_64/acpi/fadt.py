"""The FADT: where the power-management registers are, how to reset, and what of a PC is not there (5.2.9).

Some facts about the two kinds of ACPI hardware. Fixed hardware has the PM1 event and control registers, a timer,
and an interrupt of its own, the SCI; an OS powers off by writing SLP_TYP and SLP_EN to PM1 control. SMI_CMD 0 says
that the machine is in ACPI mode from the start. Hardware-reduced ACPI (flag HW_REDUCED_ACPI) has none of these:
there, SLP_TYP and SLP_EN go to the sleep control register. In both, the values for SLP_TYP come from AML (`\\_S5`).

Where an address has a 32-bit and a 64-bit place, the 64-bit one counts; here both are filled if it fits. Only for the
FACS one of the two must be 0: an OS takes two addresses for two tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import attrs

from anyvisor.bits import Bits, bit, field
from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.generic_address import NOWHERE, REGISTER, GenericAddress, register
from anyvisor.x86_64.acpi.table import HEADER, SystemTable, body_size
from anyvisor.x86_64.records import U8, U16, U32, U64, pack, raw, unpack

NO_C2, NO_C3 = 101, 1001
"""Latencies in microseconds that mean: there is no such processor state."""


class BootFlags(Bits):
    """What an OS for PCs may take for granted (Table 5.10)."""

    legacy_devices = bit(0)
    i8042 = bit(1)
    no_vga = bit(2)
    no_msi = bit(3)
    no_aspm = bit(4)
    no_cmos_rtc = bit(5)


class FadtFlags(Bits):
    """Fixed features of the machine (Table 5.9). The button flags mean: no such button in the fixed hardware."""

    wbinvd = bit(0)
    wbinvd_flush = bit(1)
    proc_c1 = bit(2)
    p_lvl2_up = bit(3)
    pwr_button = bit(4)
    slp_button = bit(5)
    fix_rtc = bit(6)
    rtc_s4 = bit(7)
    tmr_val_ext = bit(8)
    dck_cap = bit(9)
    reset_reg_sup = bit(10)
    sealed_case = bit(11)
    headless = bit(12)
    cpu_sw_slp = bit(13)
    pci_exp_wak = bit(14)
    use_platform_clock = bit(15)
    s4_rtc_sts_valid = bit(16)
    remote_power_on_capable = bit(17)
    force_apic_cluster_model = bit(18)
    force_apic_physical_destination_mode = bit(19)
    hw_reduced_acpi = bit(20)
    low_power_s0_idle_capable = bit(21)
    persistent_cpu_caches = field(22, 2)


@attrs.frozen
class Fadt(SystemTable):
    """The Fixed ACPI Description Table, its fields under the specification's names (Table 5.9).

    `size_bytes` is shorter for a table of an older revision: what it leaves out is 0. `rest` is what a newer one
    has behind these fields.
    """

    SIGNATURE, NAME, REVISION = "FACP", "FADT", 6

    firmware_ctrl: int = attrs.field(default=0, metadata=U32)
    dsdt: int = attrs.field(default=0, metadata=U32)
    int_model: int = attrs.field(default=0, metadata=U8)
    preferred_pm_profile: int = attrs.field(default=0, metadata=U8)
    sci_int: int = attrs.field(default=0, metadata=U16)
    smi_cmd: int = attrs.field(default=0, metadata=U32)
    acpi_enable: int = attrs.field(default=0, metadata=U8)
    acpi_disable: int = attrs.field(default=0, metadata=U8)
    s4bios_req: int = attrs.field(default=0, metadata=U8)
    pstate_cnt: int = attrs.field(default=0, metadata=U8)
    pm1a_evt_blk: int = attrs.field(default=0, metadata=U32)
    pm1b_evt_blk: int = attrs.field(default=0, metadata=U32)
    pm1a_cnt_blk: int = attrs.field(default=0, metadata=U32)
    pm1b_cnt_blk: int = attrs.field(default=0, metadata=U32)
    pm2_cnt_blk: int = attrs.field(default=0, metadata=U32)
    pm_tmr_blk: int = attrs.field(default=0, metadata=U32)
    gpe0_blk: int = attrs.field(default=0, metadata=U32)
    gpe1_blk: int = attrs.field(default=0, metadata=U32)
    pm1_evt_len: int = attrs.field(default=0, metadata=U8)
    pm1_cnt_len: int = attrs.field(default=0, metadata=U8)
    pm2_cnt_len: int = attrs.field(default=0, metadata=U8)
    pm_tmr_len: int = attrs.field(default=0, metadata=U8)
    gpe0_blk_len: int = attrs.field(default=0, metadata=U8)
    gpe1_blk_len: int = attrs.field(default=0, metadata=U8)
    gpe1_base: int = attrs.field(default=0, metadata=U8)
    cst_cnt: int = attrs.field(default=0, metadata=U8)
    p_lvl2_lat: int = attrs.field(default=NO_C2, metadata=U16)
    p_lvl3_lat: int = attrs.field(default=NO_C3, metadata=U16)
    flush_size: int = attrs.field(default=0, metadata=U16)
    flush_stride: int = attrs.field(default=0, metadata=U16)
    duty_offset: int = attrs.field(default=0, metadata=U8)
    duty_width: int = attrs.field(default=0, metadata=U8)
    day_alrm: int = attrs.field(default=0, metadata=U8)
    mon_alrm: int = attrs.field(default=0, metadata=U8)
    century: int = attrs.field(default=0, metadata=U8)
    iapc_boot_arch: BootFlags = attrs.field(default=BootFlags(), converter=BootFlags, metadata=U16)
    reserved: int = attrs.field(default=0, metadata=U8)
    flags: FadtFlags = attrs.field(default=FadtFlags(), converter=FadtFlags, metadata=U32)
    reset_reg: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    reset_value: int = attrs.field(default=0, metadata=U8)
    arm_boot_arch: int = attrs.field(default=0, metadata=U16)
    minor_version: int = attrs.field(default=5, metadata=U8)
    x_firmware_ctrl: int = attrs.field(default=0, metadata=U64)
    x_dsdt: int = attrs.field(default=0, metadata=U64)
    x_pm1a_evt_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_pm1b_evt_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_pm1a_cnt_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_pm1b_cnt_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_pm2_cnt_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_pm_tmr_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_gpe0_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    x_gpe1_blk: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    sleep_control_reg: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    sleep_status_reg: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    hypervisor_vendor: bytes = attrs.field(default=bytes(8), metadata=raw(8))
    size_bytes: int = attrs.field(default=attrs.Factory(lambda: HEADER.size + body_size(Fadt)), kw_only=True)
    rest: bytes = attrs.field(default=b"", kw_only=True)

    @property
    def dsdt_address(self) -> int:
        """Where the DSDT is."""
        return self.x_dsdt or self.dsdt

    @property
    def facs_address(self) -> int:
        """Where the FACS is; 0 without one."""
        return self.x_firmware_ctrl or self.firmware_ctrl

    def pointing(self, *, dsdt: int, facs: int = 0) -> Fadt:
        """The table with the addresses of the DSDT and of the FACS; in 32 bits too, or only, where they fit."""
        low = attrs.evolve(self, dsdt=_below_4_gib(dsdt), firmware_ctrl=_below_4_gib(facs))
        return attrs.evolve(low, x_dsdt=dsdt, x_firmware_ctrl=facs - low.firmware_ctrl)

    def body(self) -> bytes:
        """The fields, as far as this table has them."""
        return pack(self)[: self.size_bytes - HEADER.size] + self.rest

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The fields in `body`; what it leaves out is 0. PlanError when that begins before the flags of ACPI 1.0."""
        if HEADER.size + len(body) < 116:
            raise PlanError(f"FADT ends at offset {HEADER.size + len(body):#x}; even the oldest has 116 bytes")
        known = body[: body_size(cls)]
        fields = unpack(cls, known.ljust(body_size(cls), b"\0"))
        return cls(**fields, size_bytes=HEADER.size + len(known), rest=body[len(known) :], **header)

    def details(self) -> Iterator[str]:
        """The profile, addresses, registers and flags."""
        reduced = self.flags.hw_reduced_acpi
        yield "hardware-reduced" if reduced else f"fixed hardware, SCI {self.sci_int}, {self._mode()}"
        yield f"DSDT at {self.dsdt_address:#x}" + (f", FACS at {self.facs_address:#x}" if self.facs_address else "")
        yield from (f"{name}: {place}" for name, place in self._registers())
        if self.flags.reset_reg_sup:
            yield f"reset: write {self.reset_value:#x} to {self.reset_reg}"
        yield f"boot flags: {self.iapc_boot_arch.words() or 'none'}"
        yield f"flags: {self.flags.words() or 'none'}"

    def _mode(self) -> str:
        return f"SMI command port {self.smi_cmd:#x}" if self.smi_cmd else "always in ACPI mode"

    def _registers(self) -> Iterator[tuple[str, str]]:
        """Every register block that is there, wherever it is named, in words."""
        for name in ("pm1a_evt", "pm1b_evt", "pm1a_cnt", "pm1b_cnt", "pm2_cnt", "pm_tmr", "gpe0", "gpe1"):
            wide, port = getattr(self, f"x_{name}_blk"), getattr(self, f"{name}_blk")
            if wide or port:
                yield name, str(wide) if wide else f"io {port:#x}"
        for name in ("sleep_control", "sleep_status"):
            if getattr(self, f"{name}_reg"):
                yield name, str(getattr(self, f"{name}_reg"))


def _below_4_gib(address: int) -> int:
    """An address as far as 32 bits can name it, else 0."""
    return address if address < 1 << 32 else 0
