"""The front door: what is taken for a kernel, and what is said about files that are none."""

import gzip
import os

import pytest
from kernel_images import bzimage, elf

from anyvisor.errors import KernelImageError
from anyvisor.memory import MIB
from anyvisor.plan import FileSlice
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout

LAYOUT = Layout.for_memory(128 * MIB)


@pytest.fixture
def file(tmp_path):
    def write(data, name="kernel"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def test_a_bzimage_and_an_elf_file_are_told_apart_by_their_contents(file):
    assert [blob.name for blob in load_kernel(file(bzimage()), LAYOUT).blobs] == ["kernel"]
    assert [blob.name for blob in load_kernel(file(elf()), LAYOUT).blobs] == ["kernel segment 0"]


def test_contents_stay_references_to_the_file(file):
    for data in (bzimage(), elf()):
        (blob,) = load_kernel(str(file(data)), LAYOUT).blobs
        assert isinstance(blob.content, FileSlice)


def test_an_elf_kernel_is_unpacked_already(file):
    path = file(elf())
    assert load_kernel(path, LAYOUT, unpack=True) == load_kernel(path, LAYOUT)


PE = b"MZ" + bytes(0x3A) + b"\x40\0\0\0PE\0\0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"x", "neither a bzImage nor an ELF vmlinux .it begins 78.; give"),
        (os.urandom(1) * 4096, "neither|looks like"),
        (gzip.compress(b"Image"), "gzip-compressed .*Image.gz of another architecture"),
        (b"\xfd7zXZ\0" + bytes(600), "xz-compressed; unpack it first"),
        (b"BZh9" + bytes(600), "bzip2"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
        (b"\x02\x21\x4c\x18" + bytes(600), "LZ4"),
        (
            b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(600),
            "an aarch64 kernel Image; give a kernel built for x86_64",
        ),
        (bytes(0x38) + b"RSC\x05" + bytes(600), "RISC-V"),
        (PE + bytes(600), "EFI program"),
        (b"#!/bin/sh\n", "a script"),
        (b"070701" + bytes(600), "give it as the initrd"),
        (b"\x27\x05\x19\x56" + bytes(600), "uImage"),
        (b"!<arch>\ndebian-binary", "dpkg-deb -x"),
        (b"\xed\xab\xee\xdb" + bytes(600), "RPM"),
        (b"QFI\xfb" + bytes(600), "disk image"),
    ],
)
def test_a_file_that_is_no_kernel_is_called_what_it_is(file, data, words):
    path = file(data)
    with pytest.raises(KernelImageError, match=words) as error:
        load_kernel(path, LAYOUT)
    assert error.value.path == str(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(KernelImageError, match="is a directory; give the kernel as a regular file"):
        load_kernel(tmp_path, LAYOUT)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KernelImageError, match="device, pipe or socket"):
        load_kernel(tmp_path / "pipe", LAYOUT)


@pytest.mark.parametrize("path", ["/does/not/exist", "/etc/passwd/kernel", "nul\0byte"])
def test_a_path_that_cannot_be_opened_is_refused(path):
    with pytest.raises(KernelImageError, match="cannot open the kernel"):
        load_kernel(path, LAYOUT)


def test_an_unreadable_file_is_refused(file):
    path, user = file(bzimage()), os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)  # root could read it all the same
    try:
        with pytest.raises(KernelImageError, match="cannot open the kernel: Permission denied"):
            load_kernel(path, LAYOUT)
    finally:
        os.seteuid(user)
