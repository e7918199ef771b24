"""Debian's own kernels, judged by readelf, xz and lz4: we read and unpack what they do."""

import os
import re
import shutil
import struct
import subprocess

import pytest

from anyvisor.errors import HypervisorUnavailable, KernelImageError
from anyvisor.memory import MIB
from anyvisor.plan import FileSlice
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.setup_header import SetupHeader
from guests.debian import cloud_kernel, generic_kernel

LAYOUT = Layout.for_memory(512 * MIB)
TIMEOUT = 60
pytestmark = pytest.mark.timeout(700)


def skip(reason):
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module", params=[generic_kernel, cloud_kernel], ids=["generic", "cloud"])
def vmlinuz(request):
    try:
        return request.param().vmlinuz
    except HypervisorUnavailable as error:
        return skip(f"no Debian kernel: {error}")


@pytest.fixture(scope="module")
def payload(vmlinuz):
    """The packed vmlinux, cut out by the offsets of boot.rst, without its size word."""
    data = vmlinuz.read_bytes()
    start = (data[0x1F1] + 1) * 512 + struct.unpack_from("<I", data, 0x248)[0]
    return data[start : start + struct.unpack_from("<I", data, 0x24C)[0] - 4]


@pytest.fixture(scope="module")
def vmlinux(payload, tmp_path_factory):
    """The ELF file that the command-line programs unpack."""
    command = "xz" if payload.startswith(b"\xfd7zXZ") else "lz4"
    if not (shutil.which(command) and shutil.which("readelf")):
        skip(f"apt-get install {command} binutils")
    run = subprocess.run([command, "-dc"], input=payload, check=True, capture_output=True, timeout=TIMEOUT)
    path = tmp_path_factory.mktemp("vmlinux") / "vmlinux"
    path.write_bytes(run.stdout)
    return path


@pytest.fixture(scope="module")
def load_headers(vmlinux):
    """(offset, physical address, bytes in the file, bytes in memory) of each LOAD segment, says readelf."""
    listing = subprocess.check_output(["readelf", "-lW", vmlinux], text=True, timeout=TIMEOUT)
    rows = re.findall(r"LOAD +(0x\w+) 0x\w+ (0x\w+) (0x\w+) (0x\w+)", listing)
    entry = int(re.search(r"Entry point (0x\w+)", listing)[1], 16)
    assert len(rows) > 2
    return [tuple(int(number, 16) for number in row) for row in rows], entry


def test_the_two_kernels_are_packed_differently():
    magics = set()
    for provide in (generic_kernel, cloud_kernel):
        try:
            data = provide().vmlinuz.read_bytes()
        except HypervisorUnavailable as error:
            skip(f"no Debian kernel: {error}")
        start = (data[0x1F1] + 1) * 512 + struct.unpack_from("<I", data, 0x248)[0]
        magics.add(data[start : start + 4])
    assert magics == {b"\xfd7zX", b"\x02\x21\x4c\x18"}


def test_a_real_bzimage_gets_its_place(vmlinuz):
    data = vmlinuz.read_bytes()
    kernel = load_kernel(vmlinuz, LAYOUT)
    (blob,) = kernel.blobs
    setup_bytes = (data[0x1F1] + 1) * 512
    assert blob.content == FileSlice(vmlinuz, setup_bytes, len(data) - setup_bytes)
    assert blob.guest_address == struct.unpack_from("<Q", data, 0x258)[0] == 0x1000000
    assert blob.size_bytes == struct.unpack_from("<I", data, 0x260)[0]
    assert kernel.entry == 0x1000200
    assert (kernel.command_line_limit, kernel.initrd_limit) == (2047, 0x7FFFFFFF)


def test_file_agrees_on_the_kernel_version(vmlinuz):
    header = SetupHeader.from_bytes(load_kernel(vmlinuz, LAYOUT).setup_header)
    data = vmlinuz.read_bytes()
    version = data[0x200 + header.kernel_version :].split(b" ", 1)[0].decode()
    assert version == vmlinuz.name.removeprefix("vmlinuz-")


def test_a_real_kernel_loads_as_readelf_reads_it(vmlinuz, vmlinux, load_headers):
    segments, entry = load_headers
    image = vmlinux.read_bytes()
    kernel = load_kernel(vmlinuz, LAYOUT, unpack=True)
    assert kernel.entry == entry
    assert [(blob.guest_address, blob.size_bytes) for blob in kernel.blobs] == [row[1::2] for row in segments]
    for blob, (offset, _, file_bytes, _) in zip(kernel.blobs, segments, strict=True):
        content = blob.content + bytes(file_bytes - len(blob.content))
        assert content == image[offset : offset + file_bytes]


def test_the_unpacked_file_loads_by_reference(vmlinux, load_headers):
    segments, entry = load_headers
    kernel = load_kernel(vmlinux, LAYOUT)
    assert kernel.entry == entry
    assert [blob.content for blob in kernel.blobs] == [FileSlice(vmlinux, row[0], row[2]) for row in segments]


def test_unpacking_keeps_the_setup_header(vmlinuz):
    packed, unpacked = load_kernel(vmlinuz, LAYOUT), load_kernel(vmlinuz, LAYOUT, unpack=True)
    assert packed.setup_header == unpacked.setup_header
    assert packed.command_line_limit == unpacked.command_line_limit


def test_a_real_kernel_in_too_little_ram_is_refused(vmlinuz):
    for unpack in (False, True):
        with pytest.raises(KernelImageError, match=r"more memory|allowed here"):
            load_kernel(vmlinuz, Layout.for_memory(48 * MIB), unpack=unpack)


@pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 0.9995])
def test_a_real_kernel_cut_short_is_refused(vmlinuz, tmp_path, part):
    """Less than 0.9995 of it, so that more than the signature behind the kernel is missing."""
    data = vmlinuz.read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * part)])
    for unpack in (False, True):
        with pytest.raises(KernelImageError):
            load_kernel(tmp_path / "cut", LAYOUT, unpack=unpack)
