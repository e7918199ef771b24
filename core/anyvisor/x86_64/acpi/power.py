"""The power-management registers: what the tables say of them and what the device does, in one place.

Some facts about them (ACPI specification 6.5, 4.8.3 and 4.8.4). A machine with PM registers has an event block, of a
status and an enable register, a control register, and a timer. A machine with reduced hardware has none of those but
one byte to sleep by, and one that says it woke. Either way a guest ends by writing the number that the object `\\_S5`
holds, with a bit beside it that says "now". Which number that is, is each machine's own choice.
"""

from __future__ import annotations

PM1_EVENT, PM1_EVENT_BYTES = 0x00, 4
PM1_CONTROL, PM1_CONTROL_BYTES = 0x04, 2
PM_TIMER, PM_TIMER_BYTES = 0x08, 4
RESET, RESET_VALUE = 0x0C, 1
SLEEP_CONTROL, SLEEP_STATUS = 0x10, 0x11
"""Where each register is, in bytes from the first port of the device of kind `acpi-pm`, and how long it is.

The guest writes `RESET_VALUE` to `RESET`; that register and the two of the sleep kind have one byte."""

SOFT_OFF = 5
"""The sleep type (SLP_TYP) by which a guest switches itself off; `\\_S5` holds it, and the device knows it."""

PM_TIMER_HZ = 3_579_545
"""The frequency of the PM timer, which has 32 bits here: three times that of an NTSC television's colour carrier."""
