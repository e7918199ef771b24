"""Where a PC's devices answer, and which interrupt lines they have."""

from __future__ import annotations

from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec

SERIAL = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4, settings={"console": "serial0"})
I8042 = DeviceSpec("i8042", "i8042", ports=(Region(0x60, 1), Region(0x64, 1)), gsi=1)
RTC = DeviceSpec("rtc", "rtc", ports=(Region(0x70, 2),))
PCI = DeviceSpec("pci", "pci", ports=(Region(0xCF8, 8),))
DEBUG = DeviceSpec("debug", "debug", ports=(Region(0x80, 1), Region(0xE9, 1)), settings={"console": "debug"})

PC_DEVICES = (SERIAL, I8042, RTC, PCI, DEBUG)
