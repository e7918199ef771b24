"""The APICs on a bus, with a clock that stands still until it is moved and a PIC that does as it is told."""

from anyvisor.bus import Bus
from anyvisor.device import DeviceContext, attach
from anyvisor.interrupts import InterruptWiring
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor_pc.apic import open_apic

IO, LOCAL = 0xFEC00000, 0xFEE00000
APIC = DeviceSpec("apic", "apic", mmio=(Region(IO, 0x1000), Region(LOCAL, 0x1000)))

ENABLE = ("write", LOCAL + 0xF0, 0x1FF)
EOI = ("write", LOCAL + 0xB0, 0)


class FakeClock:
    """Time moves by `advance` only. `calls` counts the timers' calls."""

    def __init__(self):
        self.time = 0
        self.calls = 0
        self.timers = []

    def now(self):
        return self.time

    def wall_seconds(self):
        return float(self.time)

    def timer(self, call):
        self.timers.append(FakeTimer(call))
        return self.timers[-1]

    def advance(self, nanoseconds):
        end = self.time + nanoseconds
        while due := [each for each in self.timers if each.deadline is not None and each.deadline <= end]:
            first = min(due, key=lambda each: each.deadline)
            self.time = max(self.time, first.deadline)
            first.deadline = None
            self.calls += 1
            first.call()
        self.time = end

    def on_failure(self, tell):
        pass

    def close(self):
        pass


class FakeTimer:
    def __init__(self, call):
        self.call = call
        self.deadline = None

    def set(self, deadline):
        self.deadline = deadline

    def clear(self):
        self.deadline = None


class FakePic:
    """An 8259 pair: `vectors` wait to be acknowledged."""

    def __init__(self):
        self.vectors = []

    @property
    def pending(self):
        return bool(self.vectors)

    def acknowledge(self):
        return self.vectors.pop(0)


class ApicBench:
    """The device, as a guest sees it. `notices` is what `pending` was each time the processor was told."""

    def __init__(self, pic=None):
        self.bus, self.clock, self.notices, self.sources = Bus(), FakeClock(), [], []
        self.wiring = InterruptWiring(lambda gsi, level: None, self.sources.append, self._notified)
        if pic is not None:
            self.wiring.connect(pic)
        context = DeviceContext(None, lambda gsi: None, lambda name: None, lambda reason: None, self.clock, self.wiring)
        self.apic = open_apic(APIC, context)
        attach(self.bus, APIC, self.apic)

    def _notified(self):
        self.notices.append(self.sources[-1].pending)

    def read(self, address, size_bytes=4):
        return self.bus.read_mmio(address, size_bytes)

    def write(self, address, value, size_bytes=4):
        self.bus.write_mmio(address, size_bytes, value)

    def lapic(self, offset):
        return self.read(LOCAL + offset)

    def set_lapic(self, offset, value):
        self.write(LOCAL + offset, value)

    def enable(self):
        self.set_lapic(0xF0, 0x1FF)

    def ioapic(self, register):
        self.write(IO, register)
        return self.read(IO + 0x10)

    def set_ioapic(self, register, value):
        self.write(IO, register)
        self.write(IO + 0x10, value)

    def redirect(self, pin, low, high=0):
        self.set_ioapic(0x11 + 2 * pin, high)
        self.set_ioapic(0x10 + 2 * pin, low)

    def entry(self, pin):
        return self.ioapic(0x10 + 2 * pin)

    def set_line(self, gsi, level):
        self.wiring.line(gsi)(level)

    def take(self):
        """The vectors that a processor takes before it has to wait for an end of interrupt."""
        taken = []
        while self.apic.pending:
            taken.append(self.apic.acknowledge())
        return taken

    def bits(self, first):
        """A bitmap of 256 bits as the set of the vectors in it."""
        words = [self.lapic(first + 16 * index) for index in range(8)]
        return {32 * index + bit for index, word in enumerate(words) for bit in range(32) if word >> bit & 1}

    def run(self, script):
        """What a script's reads and takes give; see `apic_judges`."""
        results = []
        for kind, *arguments in script:
            match kind:
                case "write":
                    self.write(*arguments)
                case "read":
                    results.append(self.read(*arguments))
                case "take":
                    results += [0x100 | vector for vector in self.take()]
                case "line":
                    self.set_line(*arguments)
                case "pause":
                    self.clock.advance(PAUSE_NANOSECONDS)
        return results


PAUSE_NANOSECONDS = 30_000_000
