import subprocess

import debian
import outer_kernel
import pytest
from availability import available

from anyvisor.errors import HypervisorUnavailable, KernelImageError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(debian.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(debian.EMULATED_VARIABLE, raising=False)
    return tmp_path / "cache"


def test_a_system_without_apt_is_told_so_and_leaves_no_half_package(empty_cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        HypervisorUnavailable, match=r"busybox-static cannot be fetched: .* no apt-get; .*Debian system's apt"
    ):
        debian.busybox()
    assert list(empty_cache.iterdir()) == []


def test_inside_the_machine_nothing_is_fetched(empty_cache, monkeypatch):
    monkeypatch.setenv(debian.EMULATED_VARIABLE, "1")
    with pytest.raises(HypervisorUnavailable, match="fetch it on the host"):
        debian.generic_kernel()
    assert not empty_cache.exists()


def test_a_cache_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(debian.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    monkeypatch.delenv(debian.EMULATED_VARIABLE, raising=False)
    with pytest.raises(HypervisorUnavailable, match=f"set {debian.CACHE_VARIABLE}"):
        debian.busybox()


def test_a_file_that_is_no_bzimage_is_refused():
    with pytest.raises(KernelImageError, match="not a bzImage"):
        outer_kernel.vmlinux(bytes(4096))


@pytest.mark.guest
def test_a_package_is_fetched_once_and_then_needs_no_apt(empty_cache, monkeypatch):
    fetched = available(debian.busybox)
    monkeypatch.setenv("PATH", "")
    assert debian.busybox() == fetched
    assert subprocess.check_output([fetched, "echo", "it runs"], text=True) == "it runs\n"
    assert sorted(path.name.partition("_")[0] for path in empty_cache.iterdir()) == ["busybox-static"] * 2


@pytest.mark.guest
@pytest.mark.timeout(300)
def test_modules_load_after_everything_that_readelf_says_they_depend_on():
    kernel = available(debian.generic_kernel)
    order = outer_kernel.load_order(kernel.modules, ("kvm-amd", "9p"))
    names = [module.name for module in order]
    assert names.index("kvm") < names.index("kvm_amd") and names.index("9pnet") < names.index("9p")
    for module in order:
        needed = _depends_by_readelf(kernel, module.name)
        assert module.depends == needed
        assert {name.replace("-", "_") for name in needed} <= set(names[: names.index(module.name)])


def _depends_by_readelf(kernel, name):
    (path,) = (path for path in kernel.modules.rglob("*.ko") if path.stem.replace("-", "_") == name)
    try:
        command = ["readelf", "--string-dump=.modinfo", path]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no readelf here: install binutils")
    (depends,) = (line.split("depends=")[1] for line in text.splitlines() if "depends=" in line)
    return [each for each in depends.strip().split(",") if each]
