"""The distribution: everything is in it, it is typed, and it keeps its layers."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

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


def run_without(modules, code):
    """Run code in a Python that has none of those modules, as on another system."""
    block = f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", block + code], check=False, capture_output=True, text=True, timeout=30)


def test_planning_a_boot_needs_nothing_that_only_unix_has(tmp_path):
    from elves import tiny_elf

    kernel = tiny_elf(tmp_path / "vmlinux", b"\xf4")
    code = f"""
import anyvisor
plan = anyvisor.assemble(anyvisor.MachineConfig(kernel={str(kernel)!r}, vcpus=2), anyvisor.generic_facts())
print(len(anyvisor.BootPlan.from_json(plan.to_json()).vcpus))
"""
    done = run_without(["fcntl", "termios", "tty", "pty", "resource", "grp", "pwd"], code)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_importing_anyvisor_loads_neither_file_readers_nor_architectures():
    heavy = ("cattrs", "tomllib", "click", "rich", "anyvisor.x86_64.cpuid", "anyvisor_kvm.hypervisor", "ctypes.util")
    done = run_without([], f"import anyvisor; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")
