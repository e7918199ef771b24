"""Run tests of this project inside the emulated machine, where /dev/kvm is real.

    python tests/guests/run.py [pytest arguments]

Without arguments it runs everything that is worth running in there. All tests share one boot, since booting
and importing pytest take ten seconds of an emulated CPU.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import debian
import plan_for_both
from emulated import EmulatedMachine, Outcome, find_qemu

from anyvisor.errors import GuestError, HypervisorUnavailable

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "tests"))

from faults.careful import build  # noqa: E402 - found by the line above

SOURCE_ROOTS = tuple(REPOSITORY / name for name in ("core", "backends", "plugins"))
SELECTION = ("tests/backends/kvm", "tests/conformance/test_kvm_conforms.py", "tests/guests/inside")
LIMIT_SECONDS = 1500
INNER_TEST_LIMIT_SECONDS = 300
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Tail:
    """Shows what is added to a file, as it grows."""

    def __init__(self, path: Path, show: Callable[[str], object]):
        self.path = path
        self.show = show
        self.position = 0

    def __call__(self) -> None:
        """Show what was added since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            added = file.read()
        if added:
            self.position += len(added)
            self.show(added.decode(errors="replace"))


@attrs.frozen
class InnerRun:
    """A pytest run inside the machine: how it ended, and the files that it left in the shared directory."""

    outcome: Outcome
    output: Path
    junit: Path


def run_inside(
    arguments: Sequence[str],
    share: Path,
    *,
    show: Callable[[str], object] = lambda _: None,
    limit_seconds: float = LIMIT_SECONDS,
) -> InnerRun:
    """Run pytest with `arguments` in the emulated machine, in the repository; `show` gets its output live.

    HypervisorUnavailable when the machine cannot be built here, GuestError when it dies or passes the limit.
    """
    fetch_inputs()
    output, junit = share / "output.txt", share / "junit.xml"
    for stale in (output, junit):
        stale.unlink(missing_ok=True)
    visible = (REPOSITORY, debian.cache_dir(), Path(sys.prefix), Path(sys.base_prefix))
    with EmulatedMachine(share, _job(arguments), visible=visible) as machine:
        return InnerRun(machine.wait(limit_seconds, Tail(output, show)), output, junit)


def fetch_inputs() -> None:
    """See that everything is there for the machine and for the tests inside, which have no network."""
    find_qemu()
    debian.generic_kernel()
    debian.cloud_kernel()
    debian.busybox()
    debian.xen()
    plan_for_both.write_initrd()
    build(debian.cache_dir())


def _job(arguments: Sequence[str]) -> str:
    """The shell script that runs pytest in the guest, with nothing of the host's environment."""
    environment = {
        "PATH": SEARCH_PATH,
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "CI": "true",  # a missing input is a failure, and hypothesis sets no deadlines
        "PYTHONPATH": ":".join(map(str, SOURCE_ROOTS)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        debian.EMULATED_VARIABLE: "1",
        debian.CACHE_VARIABLE: str(debian.cache_dir()),
    }
    command = [
        "env", "-i", *(f"{name}={value}" for name, value in environment.items()),
        sys.executable, "-m", "pytest", "-p", "pytest_timeout", "-p", "anyvisor.testing.plugin",
        "-p", "no:cacheprovider",
        "-c", str(REPOSITORY / "pyproject.toml"),
        "--override-ini", f"timeout={INNER_TEST_LIMIT_SECONDS}",
        "--junit-xml", "/share/junit.xml", "--durations=25", "-v", *arguments,
    ]  # fmt: skip
    return f"cd {shlex.quote(str(REPOSITORY))} && {shlex.join(command)} >/share/output.txt 2>&1\n"


def main(arguments: Sequence[str]) -> int:
    """The command: the exit status is that of the pytest inside."""
    with tempfile.TemporaryDirectory(prefix="anyvisor-guest-") as share:
        try:
            run = run_inside(arguments or SELECTION, Path(share), show=_print)
        except HypervisorUnavailable as error:
            print(error, file=sys.stderr)
            return os.EX_UNAVAILABLE
        except GuestError as error:
            print(error, file=sys.stderr)
            return os.EX_SOFTWARE
    outcome = run.outcome
    print(f"emulated machine: tests began after {outcome.boot_seconds:.1f} s, off after {outcome.seconds:.1f} s")
    return outcome.returncode


def _print(text: str) -> None:
    print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
