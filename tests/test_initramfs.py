"""The judges are GNU cpio and BusyBox's cpio: what we write is what they list and extract."""

import os
import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import ConfigError
from anyvisor.initramfs import Initramfs, busybox_initramfs

CPIO = {"gnu": ["cpio"], "busybox": ["busybox", "cpio"]}
TIMEOUT = 30


def need(command):
    if not shutil.which(command[0]):
        message = f"{command[0]} is not installed; apt-get install cpio busybox-static"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return command


@pytest.fixture(params=CPIO)
def cpio(request):
    """A cpio program somebody else wrote; missing is a skip on a laptop and a failure in CI."""
    return need(CPIO[request.param])


def extract(cpio, archive, into):
    into.mkdir()
    subprocess.run([*cpio, "-idm"], input=archive, cwd=into, check=True, timeout=TIMEOUT, capture_output=True)
    return into


def list_names(cpio, archive):
    run = subprocess.run([*cpio, "-it"], input=archive, check=True, timeout=TIMEOUT, capture_output=True)
    return run.stdout.decode().splitlines()


def sample():
    return (
        Initramfs()
        .file("/init", b"#!/bin/sh\n", mode=0o755)
        .file("/etc/deep/er/empty", b"")
        .file("/etc/three", b"abc", mode=0o4640)
        .symlink("/bin", "usr/bin")
        .directory("/tmp", 0o1777)
    )


def test_cpio_extracts_what_was_put_in(cpio, tmp_path):
    top = extract(cpio, sample().to_bytes(), tmp_path / "out")
    assert (top / "init").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((top / "init").stat().st_mode) == 0o755
    assert (top / "etc/deep/er/empty").read_bytes() == b""
    assert (top / "etc/three").read_bytes() == b"abc"
    assert (top / "bin").readlink().as_posix() == "usr/bin"
    assert stat.S_IMODE((top / "tmp").stat().st_mode) == 0o1777
    assert (top / "init").stat().st_mtime == 0


def test_cpio_lists_parents_before_children(cpio):
    assert list_names(cpio, sample().to_bytes()) == [
        "bin", "etc", "etc/deep", "etc/deep/er", "etc/deep/er/empty", "etc/three", "init", "tmp",
    ]  # fmt: skip


def test_cpio_sees_device_numbers(cpio):
    archive = Initramfs().device("/dev/console", "c", 5, 1).device("/dev/vda", "b", 254, 3, 0o660).to_bytes()
    run = subprocess.run([*cpio, "-itv"], input=archive, check=True, timeout=TIMEOUT, capture_output=True)
    lines = run.stdout.decode().splitlines()
    assert lines[1].startswith("crw-------")
    assert lines[1].endswith("dev/console")
    assert lines[2].startswith("brw-rw----")
    if cpio[0] == "cpio":  # BusyBox does not print the numbers
        assert "5,   1" in lines[1]
        assert "254,   3" in lines[2]


def test_gnu_cpio_writes_the_same_archive(tmp_path):
    need(["cpio"])
    top = tmp_path / "top"
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (top / "link").symlink_to("etc")
    names = b"etc\netc/passwd\nlink\n"
    options = ["-o", "--format=newc", "--reproducible", "--owner=0:0", "--quiet"]
    for path in (top / "etc/passwd", top / "etc", top / "link"):
        os.utime(path, (0, 0), follow_symlinks=False)
    judge = subprocess.run(
        ["cpio", *options], input=names, cwd=top, check=True, timeout=TIMEOUT, capture_output=True
    ).stdout
    ours = Initramfs().tree(top).to_bytes()
    assert _without_inodes(ours) == _without_inodes(judge)


def _without_inodes(archive):
    """Each entry's header, without the inode number that every writer counts in its own way, name, data."""
    entries, offset = [], 0
    while True:
        fields = [int(archive[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[offset + 110 : offset + 110 + name_size]
        start = -(-(offset + 110 + name_size) // 4) * 4
        entries.append((archive[offset : offset + 6], fields[1:], name, archive[start : start + size]))
        offset = -(-(start + size) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert not archive[offset:].strip(b"\0")
            assert len(archive) % 512 == 0
            return entries


def test_a_tree_of_the_host_comes_back(cpio, tmp_path):
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_bytes(b"x" * 5000)
    (source / "a/tool").write_bytes(b"tool")
    (source / "a/tool").chmod(0o750)
    (source / "a/loop").symlink_to("..")
    (source / "a/gone").symlink_to("/not/here")
    top = extract(cpio, Initramfs().tree(source, at="/opt").to_bytes(), tmp_path / "out")
    assert (top / "opt/a/b/file").read_bytes() == b"x" * 5000
    assert stat.S_IMODE((top / "opt/a/tool").stat().st_mode) == 0o750
    assert (top / "opt/a/loop").readlink().as_posix() == ".."
    assert (top / "opt/a/gone").readlink().as_posix() == "/not/here"


def test_a_host_file_is_read_when_the_archive_is_made(tmp_path):
    source = tmp_path / "module.ko"
    source.write_bytes(b"one")
    archive = Initramfs().file("/module.ko", source)
    source.write_bytes(b"two two")
    assert b"two two" in archive.to_bytes()
    source.unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*module\.ko"):
        archive.to_bytes()


def test_write_puts_the_same_bytes_into_a_file(tmp_path):
    archive = sample().write(tmp_path / "out.cpio")
    assert (tmp_path / "out.cpio").read_bytes() == archive.to_bytes()
    with pytest.raises(ConfigError, match="cannot write"):
        archive.write(tmp_path / "absent" / "out.cpio")


def test_the_order_of_adding_does_not_show():
    ways = [Initramfs().file("/a", b"1").file("/b/c", b"2"), Initramfs().file("b/c", b"2").file("a", b"1")]
    assert ways[0].to_bytes() == ways[1].to_bytes()


def test_a_later_entry_replaces_an_earlier_one():
    archive = Initramfs().file("/init", b"old").symlink("/init", "sbin/init").directory("/e").directory("/e", 0o700)
    again = Initramfs().symlink("/init", "sbin/init").directory("/e", 0o700)
    assert archive.to_bytes() == again.to_bytes()


def test_a_directory_given_after_its_files_keeps_them(cpio, tmp_path):
    archive = Initramfs().file("/d/f", b"f").directory("/d", 0o700)
    top = extract(cpio, archive.to_bytes(), tmp_path / "out")
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o700
    assert (top / "d/f").read_bytes() == b"f"


@pytest.mark.parametrize(
    "path",
    ["", "/", "..", "/a/../b", "./a", "a\0b", "TRAILER!!!", "/x" * 2048 + "x", "\ud800"],
    ids=lambda path: repr(path[:12]),
)
def test_bad_paths_are_refused(path):
    with pytest.raises(ConfigError, match="initramfs"):
        Initramfs().file(path, b"")


def test_entries_cannot_lie_in_files_or_symlinks():
    with pytest.raises(ConfigError, match="no directory"):
        Initramfs().file("/a", b"").file("/a/b", b"")
    with pytest.raises(ConfigError, match="no directory"):
        Initramfs().symlink("/bin", "usr/bin").file("/bin/sh", b"")
    with pytest.raises(ConfigError, match="entries in it"):
        Initramfs().file("/a/b", b"").file("/a", b"")


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (lambda a: a.symlink("/l", ""), "cannot link"),
        (lambda a: a.symlink("/l", "x\0"), "cannot link"),
        (lambda a: a.symlink("/l", "x" * 4096), "cannot link"),
        (lambda a: a.device("/d", "p", 1, 1), "kind 'p'"),
        (lambda a: a.device("/d", "c", 4096, 1), "4096:1"),
        (lambda a: a.device("/d", "c", 1, 1 << 20), "1:1048576"),
        (lambda a: a.directory("/d", 0o40755), "permission bits"),
        (lambda a: a.file("/f", b"", -1), "permission bits"),
        (lambda a: a.tree("/does/not/exist"), "not a directory"),
    ],
)
def test_bad_entries_are_refused(add, words):
    with pytest.raises(ConfigError, match=words):
        add(Initramfs())


def test_host_sources_that_are_no_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no readable file"):
        Initramfs().file("/f", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="socket or pipe"):
        Initramfs().tree(tmp_path)


NAMES = st.text("abcABC019._-+ äß€", min_size=1, max_size=12).filter(lambda n: n not in {".", ".."} and n.strip())


@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=6))
def test_every_entry_is_found_again(files):
    archive = Initramfs()
    for name, data in files.items():
        archive.file(f"/d/{name}", data)
    entries = _without_inodes(archive.to_bytes())
    found = {name[2:-1].decode(): data for _, _, name, data in entries if name.startswith(b"d/")}
    assert found == files
    names = [name for _, _, name, _ in entries[:-1]]
    assert names == sorted(names)


def test_busybox_runs_from_the_archive_it_is_in(tmp_path):
    busybox = shutil.which(*need(["busybox"]))
    archive = busybox_initramfs(busybox, "echo hello from $0\n")
    top = extract(["busybox", "cpio"], archive.to_bytes(), tmp_path / "out")
    assert (top / "init").read_bytes() == b"#!/bin/sh\necho hello from $0\n"
    assert stat.S_IMODE((top / "init").stat().st_mode) == 0o755
    assert (top / "sbin").readlink().as_posix() == "bin"
    listed = set(subprocess.check_output([busybox, "--list"], text=True, timeout=TIMEOUT).split())
    applets = {path.name for path in (top / "bin").iterdir()} - {"busybox"}
    assert "sh" in applets
    assert applets <= listed
    shell = subprocess.check_output([top / "bin/busybox", "sh", top / "init"], text=True, timeout=TIMEOUT)
    assert shell.startswith("hello from")
    if os.geteuid() == 0:
        console = (top / "dev/console").stat()
        assert stat.S_ISCHR(console.st_mode)
        assert (os.major(console.st_rdev), os.minor(console.st_rdev)) == (5, 1)


def test_an_init_script_keeps_its_own_interpreter():
    busybox = "/proc/self/exe"  # any file that can be read
    archive = busybox_initramfs(busybox, b"#!/bin/busybox sh\nid\n").to_bytes()
    assert b"#!/bin/busybox sh\nid\n" in archive
    assert b"#!/bin/sh" not in archive.split(b"init\0")[-1]
