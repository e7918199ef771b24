"""Packages are fetched by the host's real apt, out of a repository that is made here."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from anyvisor.debian import CACHE_VARIABLE, Packages, cache_dir
from anyvisor.errors import KernelImageError
from debian_repository import make_repository

KERNEL = {"boot/vmlinuz-6.1.0-9-cloud-amd64": b"a kernel"}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path / "repository", monkeypatch)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def told():
    return []


@pytest.fixture
def packages(cache, told):
    with Packages(cache, told.append) as packages:
        yield packages


def entries(directory):
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_a_package_is_fetched_once_and_then_asks_nobody(repository, packages, cache, told, monkeypatch):
    repository.add("tool", {"usr/bin/tool": b"it works"})
    repository.update()
    files = packages.files("tool", holding="usr/bin/*")
    assert (files / "usr/bin/tool").read_bytes() == b"it works"
    assert told == [f"fetching tool (0 MB) from this machine into {cache}"]
    packages.close()
    assert entries(cache) == ["tool", "tool_1.0_amd64"]
    monkeypatch.setenv("PATH", "")
    assert Packages(cache, told.append).files("tool") == files
    assert len(told) == 1


def test_a_kernels_empty_package_gives_the_files_of_its_kernel(repository, packages, cache):
    repository.add("linux-image-cloud-amd64", {}, depends="linux-image-6.1.0-9-cloud-amd64 (= 1.0), linux-base")
    repository.add("linux-image-6.1.0-9-cloud-amd64", KERNEL, depends="kmod, linux-modules-6.1.0-9")
    repository.update()
    assert (packages.files("linux-image-cloud-amd64") / "boot/vmlinuz-6.1.0-9-cloud-amd64").is_file()
    assert (cache / "linux-image-cloud-amd64").readlink() == Path("linux-image-6.1.0-9-cloud-amd64_1.0_amd64")


def test_empty_packages_may_lead_to_others_and_in_a_circle(repository, packages):
    repository.add("linux-image-a", {}, depends="linux-image-b")
    repository.add("linux-image-b", {}, depends="linux-binary-c")
    repository.add("linux-binary-c", KERNEL, depends="linux-image-a")
    repository.update()
    with pytest.raises(KernelImageError, match=r"linux-image-a_1\.0_amd64\.deb has no boot/vmlinuz-\* in it"):
        packages.files("linux-image-a", holding="boot/vmlinuz-*")
    repository.add("linux-binary-c", KERNEL)
    repository.update()
    assert packages.files("linux-image-b", holding="boot/vmlinuz-*").name == "linux-binary-c_1.0_amd64"


def test_of_several_names_the_first_that_there_is_counts(repository, packages):
    repository.add("linux-image-virtual", {}, depends="linux-image-6.8.0-9-generic")
    repository.add("linux-image-generic", {}, depends="linux-image-6.8.0-9-generic")
    repository.add("linux-image-6.8.0-9-generic", KERNEL)
    repository.update()
    names = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-generic")
    assert packages.files(*names).name == "linux-image-6.8.0-9-generic_1.0_amd64"
    assert entries(packages.directory)[-1] == "linux-image-virtual"


def test_a_package_of_another_architecture_is_fetched_by_its_full_name(repository, cache, told):
    repository.add("tool", {"usr/bin/tool": b"64 bits"})
    repository.add("tool", {"usr/bin/tool": b"32 bits"}, architecture="i386")
    repository.add("linux-image-old", {}, depends="linux-image-6.1.0-9-old", architecture="i386")
    repository.add("linux-image-6.1.0-9-old", KERNEL, architecture="i386")
    repository.update()
    with Packages(cache, told.append, architectures=["i386"]) as packages:
        found = [packages.files(name) / "usr/bin/tool" for name in ("tool", "tool:i386")]
        assert [path.read_bytes() for path in found] == [b"64 bits", b"32 bits"]
        assert packages.files("linux-image-old:i386").name == "linux-image-6.1.0-9-old_1.0_i386"
    assert entries(cache)[-3:] == ["tool:i386", "tool_1.0_amd64", "tool_1.0_i386"]


def test_where_apt_knows_no_packages_it_gets_lists_of_our_own_for_a_moment(repository, packages, cache, told):
    repository.add("tool", {"usr/bin/tool": b""})
    repository.add("other", {"usr/bin/other": b""})
    before = sorted(repository.state.rglob("*"))
    packages.files("tool")
    packages.files("other")
    assert told[0] == "apt knows no tool; fetching newer lists of packages, which the system does not see"
    assert [line.split()[:2] for line in told[1:]] == [["fetching", "tool"], ["fetching", "other"]]
    assert sorted(repository.state.rglob("*")) == before
    packages.close()
    assert entries(cache) == ["other", "other_1.0_amd64", "tool", "tool_1.0_amd64"]


def test_lists_that_are_out_of_date_are_fetched_anew(repository, packages, told):
    repository.add("tool", {"usr/bin/tool": b"old"}).unlink()
    repository.update()
    repository.add("tool", {"usr/bin/tool": b"new"}, version="2.0")
    assert (packages.files("tool") / "usr/bin/tool").read_bytes() == b"new"
    assert told[1].startswith("apt cannot download tool: ") and "fetching newer lists" in told[1]


def test_the_hosts_own_hooks_are_not_run_and_its_settings_count(repository, packages, tmp_path):
    hook = (
        f'APT::Update::Post-Invoke {{ "touch {tmp_path}/hook"; }}; APT::Update::Pre-Invoke {{"touch {tmp_path}/pre";}};'
    )
    repository.add("tool", {"usr/bin/tool": b""})
    repository.configure(hook)
    packages.files("tool")
    assert not (tmp_path / "hook").exists() and not (tmp_path / "pre").exists()
    repository.update()
    assert (tmp_path / "hook").exists() and (tmp_path / "pre").exists()


def test_apts_progress_is_shown_where_it_is_wanted(repository, cache, tmp_path):
    repository.add("tool", {"usr/bin/tool": b""})
    with (tmp_path / "shown").open("wb") as shown, Packages(cache, progress=shown.fileno()) as packages:
        packages.files("tool")
    text = (tmp_path / "shown").read_text()
    assert "Get:1 file:" in text and "./ tool 1.0" in text


def test_a_package_that_was_tampered_with_is_refused_by_apt(repository, packages, cache):
    deb = repository.add("tool", {"usr/bin/tool": bytes(1000)})
    data = bytearray(deb.read_bytes())
    data[-20] ^= 1
    deb.write_bytes(data)
    repository.update()
    with pytest.raises(KernelImageError, match=r"^apt cannot download tool: .*([Hh]ash|size|File)[^\n]*$"):
        packages.files("tool")
    packages.close()
    assert entries(cache) == []


def test_a_package_that_cannot_be_unpacked_leaves_nothing(repository, packages, cache):
    deb = repository.add("tool", {"usr/bin/tool": os.urandom(10_000)})
    control = repository.index["tool"].partition("Filename")[0]
    deb.write_bytes(deb.read_bytes()[:5000])
    repository.list("tool", control, deb)
    repository.update()
    with pytest.raises(KernelImageError, match=r"^cannot unpack tool_1\.0_amd64\.deb: [^\n]+$"):
        packages.files("tool")
    packages.close()
    assert entries(cache) == []


def test_a_package_without_what_is_wanted_of_it_is_not_kept(repository, packages, cache):
    repository.add("tool", {"usr/share/doc/tool": b"read me"})
    repository.update()
    with pytest.raises(KernelImageError, match=r"tool_1\.0_amd64\.deb has no boot/vmlinuz-\* in it"):
        packages.files("tool", holding="boot/vmlinuz-*")
    packages.close()
    assert entries(cache) == []


def test_without_a_network_the_reason_is_told_in_a_line(repository, packages, cache):
    repository.comes_from("http://127.0.0.1:9/")
    with pytest.raises(KernelImageError, match=r"^apt has no lists of packages: [^\n]*127\.0\.0\.1[^\n]*$"):
        packages.files("tool")
    packages.close()
    assert entries(cache) == []


def test_a_package_that_nobody_has_is_told_by_its_name(repository, packages):
    repository.add("tool", {"usr/bin/tool": b""})
    with pytest.raises(KernelImageError, match=r"^apt knows no bell or another such package$"):
        packages.files("bell", "whistle")


def test_a_system_without_apt_is_told_so(packages, cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelImageError, match="tool cannot be fetched: this is no Debian system, it has no apt-get"):
        packages.files("tool")
    assert entries(cache) == []


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with (
        Packages(tmp_path / "file" / "cache") as packages,
        pytest.raises(KernelImageError, match=f"cannot keep tool in .*: Not a directory; .* set {CACHE_VARIABLE}"),
    ):
        packages.files("tool")


class Stalling(http.server.SimpleHTTPRequestHandler):
    """Serves the beginning of a package, and then nothing."""

    def copyfile(self, source, outputfile):
        data = source.read()
        if self.path.endswith(".deb"):
            outputfile.write(data[:1000])
            outputfile.flush()
            self.server.stalled.set()
            self.server.ending.wait(60)
        else:
            outputfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stalled(repository):
    """Let the repository come from a server that stalls in the middle of a package: an event for when it does."""
    repository.add("tool", {"usr/bin/tool": os.urandom(10_000)})
    handler = lambda *arguments: Stalling(*arguments, directory=repository.packages)  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.stalled, server.ending = threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        repository.comes_from(f"http://127.0.0.1:{server.server_port}/")
        repository.configure('Acquire::http::Proxy "DIRECT";')
        yield server.stalled
        server.ending.set()
        server.shutdown()


def test_an_interrupt_in_the_middle_leaves_nothing_half_made(stalled, cache):
    code = f"from anyvisor.debian import Packages\nwith Packages({str(cache)!r}) as p: p.files('tool')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True)
    assert stalled.wait(30)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: apt gets it, too
    _, complaint = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in complaint
    assert entries(cache) == []


def test_two_at_once_do_not_disturb_each_other(repository, cache):
    repository.add("tool", {"usr/bin/tool": b"it works"})
    code = f"from anyvisor.debian import Packages\nwith Packages({str(cache)!r}) as p: print(p.files('tool'))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate(timeout=60)[0] for each in both] == [f"{cache}/tool_1.0_amd64\n"] * 2
    assert entries(cache) == ["tool", "tool_1.0_amd64"]


def test_a_file_of_our_own_is_kept_once(packages, cache):
    path = packages.keep("shell.cpio", b"files")
    written = path.stat().st_mtime_ns
    time.sleep(0.01)
    assert packages.keep("shell.cpio", b"files") == path == cache / "shell.cpio"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"files", written)
    assert entries(cache) == ["shell.cpio"]


def test_a_file_of_our_own_that_holds_anything_else_is_made_anew(packages, cache, tmp_path):
    path = packages.keep("shell.cpio", b"files")
    path.write_bytes(b"fil")  # what a crash of the host may leave behind
    assert packages.keep("shell.cpio", b"files").read_bytes() == b"files"
    (tmp_path / "elsewhere").write_bytes(b"of somebody else")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert packages.keep("shell.cpio", b"files").read_bytes() == b"files"
    assert (tmp_path / "elsewhere").read_bytes() == b"of somebody else"


@pytest.mark.parametrize("name", ['qu"ote', "two\nlines", os.fsdecode(b"\xff")])
def test_a_cache_that_apts_settings_cannot_name_is_told(repository, tmp_path, name):
    repository.add("tool", {"usr/bin/tool": b""})
    with Packages(tmp_path / name) as packages, pytest.raises(KernelImageError, match="no way to say"):
        packages.files("tool")
    assert entries(tmp_path / name) == []


@pytest.mark.parametrize("name", ["with space", "perc%20", "back\\slash", "//semi;colon{", "umlaut-\xfc"])
def test_a_cache_may_have_an_odd_name(repository, tmp_path, name):
    repository.add("tool", {"usr/bin/tool": b"it works"})
    cache = tmp_path / "the" / name.lstrip("/")
    with Packages(cache) as packages:
        assert (packages.files("tool") / "usr/bin/tool").read_bytes() == b"it works"
    assert entries(cache) == ["tool", "tool_1.0_amd64"]


def test_a_cache_that_cannot_be_looked_into_is_told(tmp_path):
    packages = Packages(tmp_path / ("x" * 300))  # as one whose parents may not be searched, but for root as well
    for ask in (lambda: packages.files("tool"), lambda: packages.keep("tool", b"")):
        with pytest.raises(KernelImageError, match=f"cannot keep tool in .*; make room, or set {CACHE_VARIABLE}"):
            ask()


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({CACHE_VARIABLE: "/srv/kernels", "XDG_CACHE_HOME": "/xdg"}, "/srv/kernels"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/anyvisor"),
        ({"HOME": "/home/someone"}, "/home/someone/.cache/anyvisor"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, environment, directory):
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(directory)
