"""A guest that goes nowhere is told from one that works: tiny guests on the emulated processor and on KVM."""

import time

import attrs
import pytest

from anyvisor.assemble import assemble
from anyvisor.backends import open_hypervisor
from anyvisor.config import MachineConfig
from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.live import describe_hang, watch
from anyvisor.errors import HypervisorUnavailable
from anyvisor.flight import NotedExit
from anyvisor.launch import launch
from anyvisor.memory import Region
from anyvisor.plan import BootPlan, DeviceSpec
from anyvisor.testing.kernels import LOAD_ADDRESS, tiny_kernel
from anyvisor.x86_64.diagnosis.hangs import describe_halt
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Activity, MpState, Regs, Sregs

PLACE = f"{LOAD_ADDRESS:#x} (kernel segment 0)"
INC = b"\x48\xff\xc0"

GUESTS = {
    "jumps to itself": (
        b"\xeb\xfe",  # jmp .
        "spinning",
        f"vCPU 0 spins in a loop of 2 bytes at {PLACE}, with interrupts off: nothing can end it",
    ),
    "counts": (
        INC * 6 + b"\xeb\xec",  # inc rax, six times; jmp to the first
        "spinning",
        f"vCPU 0 spins in a loop of 20 bytes at {PLACE}, with interrupts off: nothing can end it",
    ),
    "waits with interrupts on": (
        b"\xfb\x90\xeb\xfe",  # sti; nop; jmp .
        "spinning",
        f"vCPU 0 spins in a loop of 2 bytes at {LOAD_ADDRESS + 2:#x} (kernel segment 0+0x2), with interrupts on",
    ),
    "polls a port": (
        b"\x66\xba\x99\x03\xec\x84\xc0\x75\xfb",  # mov dx, 0x399; in al, dx; test al, al; jnz in
        "polling-nobody",
        "vCPU 0 polls port 0x399, which no device answers, ",
    ),
    "polls a port with a delay": (
        b"\x66\xba\x99\x03\xec\xe6\x80\xeb\xfb",  # mov dx, 0x399; in al, dx; out 0x80, al; jmp in
        "polling-nobody",
        "vCPU 0 polls port 0x399, which no device answers, ",
    ),
    "polls memory": (
        b"\xb8\x00\x00\x00\xd0\x8b\x08\xeb\xfc",  # mov eax, 0xd0000000; mov ecx, [rax]; jmp mov
        "polling-nobody",
        "vCPU 0 polls MMIO address 0xd0000000, which no device answers, ",
    ),
    "polls a device": (
        b"\xe4\x64\xa8\x01\x74\xfa",  # in al, 0x64; test al, 1; jz in
        "polling-device",
        "vCPU 0 polls port 0x64 of i8042",
    ),
    "writes to a port": (
        b"\x66\xba\x99\x03\xee\xeb\xfd",  # mov dx, 0x399; out dx, al; jmp out
        "writing-to-nobody",
        "vCPU 0 only writes, to port 0x399, where no device is; ",
    ),
    "writes to memory that is none": (
        b"\xb8\x00\x00\x00\xd0\x89\x08\xeb\xfc",  # mov eax, 0xd0000000; mov [rax], ecx; jmp mov
        "writing-to-nobody",
        "vCPU 0 only writes, to MMIO address 0xd0000000, where no device is; ",
    ),
    "waits for an interrupt": (
        b"\xfb\xf4\xeb\xfd",  # sti; hlt; jmp hlt
        "halted-waiting",
        f"vCPU 0 waits in HLT for an interrupt, before {LOAD_ADDRESS + 2:#x}",
    ),
}
PRINTS = b"\x66\xba\xf8\x03\xb0\x78\xee\xeb\xfd"  # mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp out
COUNTS_FAR = INC * 40 + b"\xe9\x83\xff\xff\xff"  # inc rax, forty times; jmp to the first
HALTS = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp hlt


@pytest.fixture(scope="module", params=["unicorn", pytest.param("kvm", marks=pytest.mark.kvm)])
def hypervisor(request):
    try:
        opened = open_hypervisor(request.param)
    except HypervisorUnavailable as error:
        pytest.skip(str(error))
    with opened:
        yield opened


@pytest.fixture
def started(hypervisor, tmp_path):
    """Start a guest: `started(code)` -> its machine, when it has had time to come where it stays."""
    machines = []

    def start(code):
        config = MachineConfig(kernel=tiny_kernel(tmp_path / "kernel", code), memory="32M")
        machines.append(launch(assemble(config, hypervisor.facts), hypervisor).start())
        time.sleep(0.05)
        return machines[-1]

    yield start
    for each in machines:
        each.close()


def hang(machine):
    (evidence,) = watch(machine, samples=16, interval_seconds=0.003)
    return describe_hang(evidence)


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_that_goes_nowhere_is_described(started, guest):
    code, name, summary = GUESTS[guest]
    cause = hang(started(code))
    assert cause.name == name
    assert cause.summary.startswith(summary)


def test_the_loop_is_shown(started):
    cause = hang(started(INC * 2 + b"\xeb\xf8"))
    assert cause.summary.startswith("vCPU 0 spins in a loop of 8 bytes")
    assert "".join(line.partition("  ")[2] for line in cause.because[1:]).replace(" ", "").startswith("48ffc0")


@pytest.mark.parametrize("code", [PRINTS, COUNTS_FAR], ids=["prints", "computes in a larger loop"])
def test_a_guest_that_works_is_not_said_to_hang(started, code):
    assert hang(started(code)) is None


def test_a_guest_that_halts_with_interrupts_off_is_told(started, hypervisor):
    """Its machine ends where nothing else could wake it; where KVM waits for an NMI, a look tells."""
    machine = started(HALTS)
    summary = f"vCPU 0 is halted with interrupts off, before {LOAD_ADDRESS + 2:#x}"
    assert hang(machine).summary.startswith(summary)
    if machine.outcome is None:
        assert hypervisor.facts.backend == "kvm"
    else:
        assert machine.wait(5).reason == "halted"
        assert machine.outcome.note == f"vCPU 0 halted with interrupts off, before rip {LOAD_ADDRESS + 2:#x}"


class Halted:
    """A vCPU that stands behind a HLT."""

    index = 3

    def __init__(self, rflags):
        self.regs = Regs(rip=0x1234, rflags=rflags)

    def get(self, kind):
        assert kind is Regs
        return self.regs


@pytest.mark.parametrize(
    ("rflags", "words"), [(2, "with interrupts off"), (0x202, "with interrupts on, but nothing can send one")]
)
def test_a_halt_is_told_with_what_could_have_ended_it(rflags, words):
    assert describe_halt(Halted(rflags)) == f"vCPU 3 halted {words}, before rip 0x1234"


def evidence(**changes):
    """A vCPU that was seen at 0x1000 ten times, in real mode, with interrupts off."""
    memory = bytes.fromhex("ebfe").ljust(0x1000, b"\0")
    plan = BootPlan("x86_64", (Region(0x1000, 0x1000, "RAM"),), devices=(DEVICE,))
    whole = Evidence(
        plan=plan,
        vcpu=0,
        read=lambda address, size_bytes: memory[address - 0x1000 :][:size_bytes],
        now={Regs: Regs(rip=0x1000), Sregs: attrs.evolve(RESET[Sregs], cs=RESET[Sregs].ds)},
        rips=(0x1000,) * 10,
        watched_exits=0,
    )
    return attrs.evolve(whole, **changes)


RESET = {type(state): state for state in reset_states()}
DEVICE = DeviceSpec("thing", "thing0", mmio=(Region(0xD0000000, 0x1000),))


def test_a_vcpu_that_nobody_has_started_yet_does_not_hang():
    now = {Regs: Regs(rip=0xFFF0), MpState: MpState(Activity.UNINITIALIZED)}
    assert describe_hang(evidence(now=now)).name == "not-started"


def test_nothing_is_said_of_what_was_not_watched():
    assert describe_hang(evidence(rips=())) is None
    assert describe_hang(evidence(now={})) is None
    assert describe_hang(evidence()).name == "spinning"
    assert describe_hang(evidence(watched_exits=None)) is None


def test_only_exits_that_came_meanwhile_count():
    polled = tuple([NotedExit("read", 0xD0000000, 4, 0)] * 100)
    assert describe_hang(evidence(last_exits=polled, watched_exits=100)).summary == (
        "vCPU 0 polls MMIO address 0xd0000000 of thing0"
    )
    assert describe_hang(evidence(last_exits=polled, watched_exits=3)) is None
    assert describe_hang(evidence(last_exits=polled)).name == "spinning"


@pytest.mark.parametrize("bytes_in_fifo", [1, 2, 16])
def test_a_guest_that_asks_before_it_prints_does_not_poll(bytes_in_fifo):
    printed = [NotedExit("in", 0x3FD, 1, 0x60), *[NotedExit("out", 0x3F8, 1, 0x78)] * bytes_in_fifo]
    exits = tuple(printed * 64)[-256:]
    assert describe_hang(evidence(last_exits=exits, watched_exits=len(exits))) is None


def test_a_device_that_answers_now_so_and_now_so_is_told_apart_from_one_that_never_changes():
    same = tuple(NotedExit("read", 0xD0000000, 4, 5) for _ in range(32))
    mixed = tuple(NotedExit("read", 0xD0000000, 4, value) for value in range(32))
    assert "the answer was 0x5 every time" in describe_hang(evidence(last_exits=same, watched_exits=32)).because[0]
    assert "answers differ" in describe_hang(evidence(last_exits=mixed, watched_exits=32)).because[0]


PORT = ("port", 0x399)


def told(values, *more, port=0x399):
    return (*[NotedExit("out", port, 1, value) for value in values], *more)


def of_writes(exits, unclaimed=(PORT,)):
    return describe_hang(
        evidence(last_exits=exits, watched_exits=len(exits), unclaimed=dict.fromkeys(unclaimed, 1000), rips=(0x1000,))
    )


def test_what_was_written_to_nobody_is_told():
    text = told(b"." * 60 + b"nobody hears this")
    assert "wrote 0x5 every time" in of_writes(told([5] * 100)).because[0]
    assert "wrote this and that" in of_writes(told(range(100))).because[0]
    assert of_writes(text).because[0].endswith(".nobody hears this'")


def test_a_guest_that_works_and_tells_nobody_of_it_is_left_alone_but_for_text():
    def anywhere(exits, port=PORT):
        made = evidence(last_exits=exits, watched_exits=len(exits), unclaimed={port: 1000}, rips=(0x1000, 0x9000))
        return describe_hang(made)

    assert anywhere(told([5] * 100)) is None
    assert anywhere(told(range(100))) is None
    assert anywhere(told(b"still here" * 10)).name == "writing-to-nobody"
    assert of_writes(told([5] * 100, port=0x80), [("port", 0x80)]) is None


@pytest.mark.parametrize(
    ("exits", "unclaimed"),
    [
        (told([5] * 63), [PORT]),  # too few
        (told([5] * 100, NotedExit("in", 0x399, 1, 0xFF)), [PORT]),  # it also reads
        (told([5] * 100), []),  # a device takes it
        (told([5] * 100, NotedExit("out", 0x3F8, 1, 5)), [PORT]),  # and this one
        (tuple(NotedExit("out", 0x390 + at % 4, 1, 5) for at in range(100)), [("port", 0x390 + at) for at in range(4)]),
    ],
)
def test_other_writes_are_none_to_nobody(exits, unclaimed):
    found = of_writes(exits, unclaimed)
    assert found is None or found.name != "writing-to-nobody"
