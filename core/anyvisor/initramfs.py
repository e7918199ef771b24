"""Write an initramfs: the first files a Linux guest sees, in the cpio format "newc" that its kernel unpacks.

>>> archive = Initramfs().directory("/proc").file("/init", b"#!/bin/sh\\n", mode=0o755).to_bytes()
>>> archive[:6]
b'070701'

Some facts about newc (Documentation/driver-api/early-userspace/buffer-format.rst). Each entry is a header, a
name that ends in NUL, and a content. The header is a magic and thirteen numbers of eight hexadecimal digits.
Header with name, and content, are each padded to four bytes. An entry called TRAILER!!! closes the archive. A
symlink's content is its target. The kernel creates entries in the archive's order: directories before what
lies in them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import attrs

from anyvisor.errors import ConfigError

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
BLOCK_BYTES = 512
PATH_MAX = 4096
"""The longest name the kernel takes, with its NUL."""
MAX_FILE_BYTES = (1 << 32) - 1
PERMISSIONS = 0o7777

BUSYBOX_DIRECTORIES = ("bin", "dev", "etc", "mnt", "proc", "root", "run", "sys")
BUSYBOX_APPLETS = """
sh ash awk cat chmod cp cut date dd df dmesg echo env expr false find free grep halt head hostname id
ifconfig ip kill less ln ls lsmod mkdir mknod modprobe mount mv nc nproc od ping poweroff printf ps pwd
reboot rm rmdir route sed seq setsid sleep sort stty sync tail tar tee test top touch tr true tty udhcpc
umount uname uptime vi wc wget xargs
"""


@attrs.frozen
class _Entry:
    """One entry: `mode` with the file type in it, content (or the file that has it), device numbers."""

    mode: int
    content: bytes | Path = b""
    major: int = 0
    minor: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Initramfs:
    """The files of an initramfs, added one by one and written as a cpio archive.

    Every method that adds returns the archive, so calls chain. Missing parent directories are made; a later
    entry replaces an earlier one of the same path. The same entries always make the same bytes: they are
    sorted, owned by root and dated 1970. A path or file that cannot be used is a ConfigError.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def directory(self, path: str, mode: int = 0o755) -> Self:
        """Add a directory."""
        return self._add(path, _Entry(stat.S_IFDIR | _permissions(path, mode)))

    def file(self, path: str, data: bytes | os.PathLike[str], mode: int = 0o644) -> Self:
        """Add a file: `data` is its content, or the path of a host file to read when the archive is made."""
        content = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else Path(data)
        if isinstance(content, Path) and not content.is_file():
            raise ConfigError(f"initramfs: {path} is to be read from {content}, which is no readable file")
        return self._add(path, _Entry(stat.S_IFREG | _permissions(path, mode), content))

    def symlink(self, path: str, target: str) -> Self:
        """Add a symbolic link to `target`, which need not exist."""
        content = _encoded(target)
        if not content or b"\0" in content or len(content) >= PATH_MAX:
            raise ConfigError(
                f"initramfs: {path} cannot link to {target[:80]!r}; give 1 to {PATH_MAX - 1} bytes, no NUL"
            )
        return self._add(path, _Entry(stat.S_IFLNK | 0o777, content))

    def device(self, path: str, kind: Literal["c", "b"], major: int, minor: int, mode: int = 0o600) -> Self:
        """Add a device node: `kind` is `c` (character) or `b` (block), `major` and `minor` its numbers."""
        types = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}
        if kind not in types:
            raise ConfigError(f"initramfs: {path} is a device of kind {kind!r}; use 'c' (character) or 'b' (block)")
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise ConfigError(f"initramfs: {path} is device {major}:{minor}; Linux numbers go up to 4095:1048575")
        return self._add(path, _Entry(types[kind] | _permissions(path, mode), b"", major, minor))

    def tree(self, host_dir: os.PathLike[str] | str, at: str = "/") -> Self:
        """Add all that a directory of the host holds, under `at`; symlinks and devices stay what they are."""
        top = Path(host_dir)
        if not top.is_dir():
            raise ConfigError(f"initramfs: {top} is not a directory whose files could be added")
        if at.strip("/"):
            self.directory(at, stat.S_IMODE(top.stat().st_mode))
        for host_path in _host_paths(top):
            self._add_from_host(f"{at.rstrip('/')}/{host_path.relative_to(top)}", host_path)
        return self

    def to_bytes(self) -> bytes:
        """The archive; the host's files that it takes are read now."""
        return b"".join(self._chunks())

    def write(self, path: os.PathLike[str] | str) -> Self:
        """Write the archive to a file, an entry at a time."""
        try:
            with Path(path).open("wb") as file:
                file.writelines(self._chunks())
        except OSError as error:
            raise ConfigError(f"initramfs: cannot write {os.fspath(path)}: {error.strerror}") from error
        return self

    def _add(self, path: str, entry: _Entry) -> Self:
        parts = _parts(path)
        name = "/".join(parts)
        old = self._entries.get(name)
        if old and old.is_directory and not entry.is_directory and self._has_entries(name):
            raise ConfigError(f"initramfs: {path} is a directory with entries in it; it cannot become another thing")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if not self._entries.setdefault(parent, _Entry(stat.S_IFDIR | 0o755)).is_directory:
                raise ConfigError(f"initramfs: {path} cannot lie in /{parent}, no directory; use the real path")
        self._entries[name] = entry
        return self

    def _has_entries(self, directory: str) -> bool:
        return any(name.startswith(f"{directory}/") for name in self._entries)

    def _add_from_host(self, path: str, host_path: Path) -> None:
        found = host_path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        match stat.S_IFMT(found.st_mode):
            case stat.S_IFDIR:
                self.directory(path, mode)
            case stat.S_IFREG:
                self.file(path, host_path, mode)
            case stat.S_IFLNK:
                self.symlink(path, str(host_path.readlink()))
            case stat.S_IFCHR | stat.S_IFBLK as kind:
                self.device(
                    path,
                    "c" if kind == stat.S_IFCHR else "b",
                    os.major(found.st_rdev),
                    os.minor(found.st_rdev),
                    mode,
                )
            case _:
                raise ConfigError(
                    f"initramfs: {host_path} is a socket or pipe, which belongs in no initramfs; remove it"
                )

    def _chunks(self) -> Iterator[bytes]:
        """The archive in pieces; each is a header with its name, or a padded content."""
        done = 0
        for inode, name in enumerate(sorted(self._entries, key=_encoded), start=1):
            entry = self._entries[name]
            content = _read(name, entry.content)
            for chunk in (_header(name, entry, inode, len(content)), _padded(content, 4)):
                done += len(chunk)
                yield chunk
        trailer = _header(TRAILER, _Entry(0), 0, 0)
        yield trailer + bytes(-(done + len(trailer)) % BLOCK_BYTES)


def busybox_initramfs(busybox: os.PathLike[str] | str, init_script: str | bytes) -> Initramfs:
    """A small userland around one statically linked BusyBox, whose shell runs `init_script` as process 1.

    The script finds nothing mounted; `mount -t proc proc /proc` and the like are its own to do.
    """
    script = init_script.encode() if isinstance(init_script, str) else init_script
    archive = Initramfs().directory("/tmp", 0o1777)
    for name in BUSYBOX_DIRECTORIES:
        archive.directory(name)
    archive.device("/dev/console", "c", 5, 1).device("/dev/null", "c", 1, 3, 0o666)
    archive.file("/bin/busybox", Path(busybox), 0o755)
    for applet in BUSYBOX_APPLETS.split():
        archive.symlink(f"/bin/{applet}", "busybox")
    return archive.symlink("/sbin", "bin").file(
        "/init", script if script.startswith(b"#!") else b"#!/bin/sh\n" + script, 0o755
    )


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    if not parts or "\0" in path or {".", ".."} & set(parts) or parts == [TRAILER]:
        raise ConfigError(f"initramfs: {path!r} is no path for an entry; write it as /directory/name, without . or ..")
    if len(_encoded("/".join(parts))) >= PATH_MAX:
        raise ConfigError(
            f"initramfs: the path {path[:60]!r}... is longer than the {PATH_MAX - 1} bytes that Linux takes"
        )
    return parts


def _encoded(name: str) -> bytes:
    """A name as the bytes that go into the archive; names of the host come back as the host has them."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ConfigError(f"initramfs: {name[:60]!r} is no text that could be written as UTF-8") from error


def _host_paths(top: Path) -> Iterator[Path]:
    """Everything below a directory of the host, without following symlinks."""

    def fail(error: OSError) -> None:
        raise ConfigError(f"initramfs: cannot read the directory {error.filename}: {error.strerror}") from error

    for directory, directories, files in os.walk(top, onerror=fail):
        yield from (Path(directory, name) for name in [*directories, *files])


def _permissions(path: str, mode: int) -> int:
    if mode & ~PERMISSIONS:
        raise ConfigError(f"initramfs: {path} has mode {mode:#o}; give permission bits alone, such as 0o755")
    return mode


def _read(name: str, content: bytes | Path) -> bytes:
    try:
        data = content if isinstance(content, bytes) else content.read_bytes()
    except OSError as error:
        raise ConfigError(f"initramfs: cannot read {content!s} for /{name}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"initramfs: /{name} has {len(data)} bytes; newc ends at {MAX_FILE_BYTES}, put it on a disk")
    return data


def _header(name: str, entry: _Entry, inode: int, size_bytes: int) -> bytes:
    """An entry's header and name (buffer-format.rst, "cpio_header"), padded."""
    encoded = _encoded(name) + b"\0"
    links = 2 if entry.is_directory else 1
    owner = group = modified = device_major = device_minor = checksum = 0
    numbers = (inode, entry.mode, owner, group, links, modified, size_bytes, device_major, device_minor,
               entry.major, entry.minor, len(encoded), checksum)  # fmt: skip
    return _padded(MAGIC + "".join(f"{number:08x}" for number in numbers).encode() + encoded, 4)


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
