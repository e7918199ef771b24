"""`anyvisor doctor`: can this machine run guests, and if not, what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from anyvisor.cli.backends import to_data
from anyvisor.cli.failure import plugin_warnings
from anyvisor.cli.output import one_line, print_json, section
from anyvisor.cli.selftest import self_test

if TYPE_CHECKING:
    from anyvisor.backends import BackendStatus
    from anyvisor.plugins import PluginProblem

OPTIONAL = {
    "unicorn": ("unicorn", "an emulated processor where there is no other (its core is GPLv2)", "anyvisor[unicorn]"),
    "rich": ("rich", "prettier tables", "anyvisor[rich]"),
    "disasm": ("capstone", "instructions in words in the report on a death", "anyvisor[disasm]"),
    "lz4": ("lz4", "unpacking lz4 kernels", "anyvisor[lz4]"),
    "zstd": (
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
        "unpacking zstd kernels",
        "anyvisor[zstd]",
    ),
}
"""What makes anyvisor better: its module, what for, and what to give to `pip install`."""
FLAGS = {"vmx": "Intel VT-x", "svm": "AMD-V", "hypervisor": "this machine is itself a guest"}
CPUINFO = Path("/proc/cpuinfo")


@attrs.frozen
class BackendCheck:
    """A backend and what came of running a guest on it: `ok`, or why not; empty when it was not tried."""

    status: BackendStatus
    self_test: str

    @property
    def works(self) -> bool:
        """Whether a guest ran."""
        return self.self_test == "ok"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: software, processor, memory, and every hypervisor by running a tiny guest on it.

    The exit code is 1 when no hypervisor can run a guest.
    """
    from anyvisor.backends import hypervisors
    from anyvisor.plugins import default_plugins

    with plugin_warnings(shown=False):  # they are in the report
        problems = default_plugins().problems
    checks = [BackendCheck(each, self_test(each.name) if _executes(each) else "") for each in hypervisors()]
    if as_json:
        print_json(_to_data(checks, problems))
    else:
        _print(checks, problems)
    ctx.exit(0 if any(check.works for check in checks) else 1)


def _executes(status: BackendStatus) -> bool:
    """Whether it can be used, and executes guest code: a mock does not."""
    return status.facts is not None and bool(status.facts.modes)


def _software() -> dict[str, str]:
    from anyvisor import __version__

    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    return {
        "anyvisor": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": system,
    }


def _optional() -> dict[str, bool]:
    return {name: _is_there(module) for name, (module, _, _) in OPTIONAL.items()}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _cpu_flags() -> list[str]:
    """The processor's flags that matter for virtualisation, where Linux reports them."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text("ascii", "replace"), re.MULTILINE)
    except OSError:
        return []
    present = found[1].split() if found else []
    return [flag for flag in FLAGS if flag in present]


def _host_memory_bytes() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _to_data(checks: list[BackendCheck], problems: list[PluginProblem]) -> dict[str, Any]:
    return {
        **_software(),
        "optional": _optional(),
        "cpu_flags": _cpu_flags(),
        "host_memory_bytes": _host_memory_bytes(),
        "backends": [{**to_data(check.status), "self_test": check.self_test} for check in checks],
        "plugin_problems": [attrs.asdict(problem) for problem in problems],
    }


def _print(checks: list[BackendCheck], problems: list[PluginProblem]) -> None:
    memory = _host_memory_bytes()
    flags = [f"{flag} ({FLAGS[flag]})" for flag in _cpu_flags()]
    machine = {
        "virtualisation": ", ".join(flags) or "the processor shows no flag for it",
        "memory": f"{memory >> 20} MiB" if memory else "unknown",
    }
    section("Software", _pairs(_software()))
    section("Optional packages", _pairs({name: _presence(name, there) for name, there in _optional().items()}))
    section("Machine", _pairs(machine))
    section("Hypervisors", _pairs({check.status.name: _verdict(check) for check in checks}) or "none is installed")
    section("Plugin problems", "\n".join(map(one_line, problems)) or "none")


def _pairs(values: dict[str, str]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def _presence(name: str, there: bool) -> str:
    _, use, get = OPTIONAL[name]
    return f"present, for {use}" if there else f"missing, for {use}: pip install '{get}'"


def _verdict(check: BackendCheck) -> str:
    if not check.status.available:
        return f"not available: {check.status.reason}"
    notes = "".join(f"; {note}" for note in check.status.facts.notes) if check.status.facts else ""
    if not _executes(check.status):
        return f"available{notes}"
    return ("works: a guest ran" if check.works else f"available, but a guest did not run: {check.self_test}") + notes
