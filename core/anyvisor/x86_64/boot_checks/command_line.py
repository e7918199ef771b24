"""The command line: one that ends, that the kernel takes whole, and that lets it be heard."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.memory import KIB
from anyvisor.x86_64.boot_checks.check import broken, check, hint
from anyvisor.x86_64.boot_checks.kernel import is_linux
from anyvisor.x86_64.boot_checks.modes import LINUX_DOC, MULTIBOOT_DOC, PVH_DOC
from anyvisor.x86_64.boot_checks.scene import MULTIBOOT, Scene
from anyvisor.x86_64.bzimage import DEFAULT_COMMAND_LINE_LIMIT
from anyvisor.x86_64.elf import COMMAND_LINE_LIMIT

MOST_BYTES = 64 * KIB
"""No kernel takes a longer one."""
SERIAL_PORTS = {"ttyS0": 0x3F8, "ttyS1": 0x2F8, "ttyS2": 0x3E8, "ttyS3": 0x2E8}
"""Where a PC has its serial devices, by Linux's names for them."""
SPEAKING = ("console=", "earlyprintk", "earlycon", "netconsole=")
PARAMETERS = "Documentation/admin-guide/kernel-parameters.rst"
LINE = "command line"
SHOWN_CHARACTERS = 200


def _limit(scene: Scene) -> int:
    """The longest command line that the kernel takes, in bytes without the NUL."""
    page = scene.zero_page
    if page:
        default = DEFAULT_COMMAND_LINE_LIMIT if scene.setup_header else COMMAND_LINE_LIMIT
        return min(page.header.cmdline_size or default, MOST_BYTES)
    return COMMAND_LINE_LIMIT if is_linux(scene) else MOST_BYTES


@check(
    "command-line-ends",
    "The command line lies in a loaded piece and ends with a NUL, after no more bytes than the kernel takes.",
    LINUX_DOC,
    PVH_DOC,
    MULTIBOOT_DOC,
)
def command_line_ends(scene: Scene) -> Iterator[Finding]:
    """`cmdline_size` of the zero page, or what Linux takes by PVH; address 0 means that there is none."""
    at = scene.told.command_line_address if scene.told else 0
    if not at:
        return
    piece = scene.loaded(at)
    if piece is None:
        where = "is outside RAM" if not scene.in_ram(at) else "lies where nothing is loaded"
        remedy = "point to the piece with the command line in anyvisor_boot_params"
        yield broken(LINE, where, found=f"{at:#x}", wanted="an address in a loaded piece", remedy=remedy)
        return
    limit, text = _limit(scene), scene.plan.read(at, MOST_BYTES + 1)
    length = text.find(b"\0")
    own = piece.guest_address + len(piece.content) - at
    if length < 0 or length > limit:
        kernel = f"the {limit} bytes that this kernel takes"
        problem = f"has no NUL within {kernel}" if length < 0 else f"is longer than {kernel}"
        found = f"no NUL in {MOST_BYTES} bytes" if length < 0 else f"{length} bytes"
        remedy = "end it with a NUL" if length < 0 else "make it shorter"
        yield broken(LINE, problem, found=found, wanted=f"a NUL after at most {limit} bytes", remedy=remedy)
    elif length > own:
        problem = f"runs on into the next piece: {piece.name} has no NUL to end it"
        yield broken(
            LINE, problem, found=f"{length} bytes", wanted=f"a NUL within {own} bytes", remedy="end it with a NUL"
        )
    elif length == own:
        problem = "has no NUL of its own, and ends only because the memory behind it is zero"
        yield hint(LINE, problem, wanted=f"a NUL at {at + own:#x}", remedy="end it with a NUL")


@check("command-line-text", "The command line is text.", PARAMETERS)
def command_line_text(scene: Scene) -> Iterator[Finding]:
    """Control characters mean that its address leads to something else."""
    told = scene.told
    if not told or not told.command_line_address or not scene.loaded(told.command_line_address):
        return
    text = scene.plan.read(told.command_line_address, _limit(scene)).partition(b"\0")[0]
    wrong = next((at for at, each in enumerate(text) if each < 0x20 and each not in b"\t\n\r"), None)
    if wrong is not None:
        found = f"byte {text[wrong]:#04x} at offset {wrong}"
        remedy = "see that its address leads to the command line, and to nothing else"
        yield hint(LINE, "is no text", found=found, wanted="characters that can be printed", remedy=remedy)


@check("console", "Linux is told of a console that the machine has, so that it is heard.", PARAMETERS)
def console(scene: Scene) -> Iterator[Finding]:
    """Other kernels have other words for it."""
    if not scene.told or scene.told.protocol == MULTIBOOT or not is_linux(scene):
        return
    ports = {name for name, port in SERIAL_PORTS.items() if _answers(scene, port)}
    told = [each.removeprefix("console=").partition(",")[0] for each in scene.words if each.startswith("console=")]
    if not told and ports and not any(each.startswith(SPEAKING) for each in scene.words):
        first = min(ports)
        yield hint(
            LINE,
            f"names no console, and there is a serial device at {SERIAL_PORTS[first]:#x}: nothing will be printed",
            found=" ".join(scene.words)[:SHOWN_CHARACTERS],
            wanted=f"console={first}",
            remedy=f"add console={first} with --append",
        )
    serial = [each for each in told if each in SERIAL_PORTS]
    if serial and len(serial) == len(told) and not ports & set(serial):
        yield hint(
            LINE,
            f"names the console {serial[-1]}, and no device answers at {SERIAL_PORTS[serial[-1]]:#x}:"
            " nothing will be printed",
            found=f"console={serial[-1]}",
            wanted=" or ".join(f"console={each}" for each in sorted(ports)) or "a serial device",
            remedy="add the device in anyvisor_devices, or name another console",
        )


def _answers(scene: Scene, port: int) -> bool:
    return any(region.contains(port) for device in scene.plan.devices for region in device.ports)


CHECKS = (command_line_ends, command_line_text, console)
