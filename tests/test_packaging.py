"""The distribution: everything is in it, it is typed, and it keeps its layers."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from elves import tiny_elf

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = [ROOT / name for name in ("core", "backends", "plugins")]
PACKAGES = sorted(
    init.parent.relative_to(root).as_posix() for root in SOURCE_ROOTS for init in root.rglob("__init__.py")
)
TOP_PACKAGES = [name for name in PACKAGES if "/" not in name]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_every_package_folder_and_module_is_in_the_wheel(wheel):
    names = set(wheel.namelist())
    modules = [path.relative_to(root).as_posix() for root in SOURCE_ROOTS for path in root.rglob("*.py")]
    assert len(modules) > 50
    assert [name for name in modules if name not in names] == []


def test_every_cpu_model_is_in_the_wheel(wheel):
    models = [path.relative_to(ROOT / "core").as_posix() for path in (ROOT / "core").rglob("cpu_models/models/*.toml")]
    assert len(models) > 20
    assert [name for name in models if name not in wheel.namelist()] == []


def test_every_package_is_typed_and_licensed(wheel):
    names = set(wheel.namelist())
    assert [name for name in TOP_PACKAGES if f"{name}/py.typed" not in names] == []
    assert {"LICENSE", "Apache-2.0.txt", "BSD-3-Clause.txt"} <= {Path(name).name for name in names}


def test_nothing_else_is_in_the_wheel(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(TOP_PACKAGES)


def test_every_package_of_ours_is_checked_for_types_and_layers():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert sorted(settings["mypy"]["packages"]) == TOP_PACKAGES
    assert sorted(settings["importlinter"]["root_packages"]) == TOP_PACKAGES
    strangers = sorted(set(TOP_PACKAGES) - {"anyvisor"})
    core, others = settings["importlinter"]["contracts"]
    assert sorted(core["forbidden_modules"]) == sorted(others["modules"]) == strangers


def test_source_roots_are_no_packages():
    assert not [root for root in SOURCE_ROOTS if (root / "__init__.py").exists()]


UNIX_ONLY = ["fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "syslog", "termios", "tty"]
ELSEWHERE = """
import mmap, os, select, signal
for module, keep in {
    mmap: "ACCESS_READ ACCESS_WRITE ACCESS_COPY ACCESS_DEFAULT ALLOCATIONGRANULARITY PAGESIZE".split(),
    select: ["select", "error"],
    signal: "SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN".split(),
}.items():
    for name in [name for name in dir(module) if name.isupper() or module is select and name[0] != "_"]:
        if name not in keep:
            delattr(module, name)
for name in "sysconf memfd_create eventfd getpgrp tcgetpgrp uname geteuid setsid sched_getaffinity pread".split():
    delattr(os, name)
"""
"""What Python has on Unix alone, taken away; what the standard library needs for itself is imported before."""


def run_without(modules, code):
    """Run code in a Python that has none of those modules, as on another system."""
    block = f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", block + code], check=False, capture_output=True, text=True, timeout=30)


def run_elsewhere(code):
    """Run code in a Python that has nothing that only Unix has."""
    done = run_without(UNIX_ONLY, f"import ctypes, pathlib, platform, tempfile, threading; {ELSEWHERE}\n{code}")
    assert done.returncode == 0, done.stderr
    return done


def test_planning_a_boot_needs_nothing_that_only_unix_has(tmp_path):
    kernel = tiny_elf(tmp_path / "vmlinux", b"\xf4")
    done = run_elsewhere(f"""
import anyvisor
plan = anyvisor.assemble(anyvisor.MachineConfig(kernel={str(kernel)!r}, vcpus=2), anyvisor.generic_facts())
print(len(anyvisor.BootPlan.from_json(plan.to_json()).vcpus))
""")
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_the_command_line_plans_without_anything_that_only_unix_has(tmp_path):
    kernel = tiny_elf(tmp_path / "vmlinux", b"\xf4")
    done = run_elsewhere(f"""
import sys
sys.argv = ["anyvisor", "plan", {str(kernel)!r}]
import anyvisor.cli.boot, anyvisor.cli.attach, anyvisor.cli.doctor, anyvisor.stock
from anyvisor.cli import main
main()
""")
    assert done.stdout.startswith("Memory map\n") and "Registers" in done.stdout
    assert done.stderr == ""


def test_the_emulated_processor_runs_a_guest_without_anything_that_only_unix_has():
    done = run_elsewhere("""
import anyvisor, anyvisor_unicorn
from anyvisor.x86_64 import selftest
from anyvisor.cli.selftest import self_test
print([name for name, status in {each.name: each for each in anyvisor.hypervisors()}.items() if status.available])
print(self_test("unicorn"))
""")
    assert (done.stdout, done.stderr) == ("['mock', 'unicorn']\nok\n", "")


def test_what_was_taken_away_is_gone():
    done = run_elsewhere("""
import importlib, os, select, signal, sys
print([hasattr(os, "sysconf"), hasattr(select, "poll"), hasattr(signal, "SIGHUP"), hasattr(select, "select")])
for name in ("termios", "fcntl"):
    try:
        importlib.import_module(name)
    except ImportError:
        print(name)
""")
    assert done.stdout == "[False, False, False, True]\ntermios\nfcntl\n"


def test_importing_anyvisor_loads_neither_file_readers_nor_architectures():
    heavy = ("cattrs", "tomllib", "click", "rich", "anyvisor.x86_64.cpuid", "anyvisor_kvm.hypervisor", "ctypes.util")
    heavy += ("anyvisor.diagnosis", "anyvisor.panics")
    done = run_without([], f"import anyvisor; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")
