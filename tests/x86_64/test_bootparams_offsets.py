"""The zero page's offsets, judged by the C compiler with the kernel's own <asm/bootparam.h>."""

import os
import shutil
import struct
import subprocess

import attrs
import pytest
from kernel_images import bzimage

from anyvisor.memory import MIB
from anyvisor.plan import Blob, FileSlice, FirmwareTables
from anyvisor.x86_64 import bootparams, setup_header
from anyvisor.x86_64.bootparams import boot_params
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.setup_header import LoadFlags, SetupHeader, XLoadFlags

LAYOUT = Layout.for_memory(128 * MIB)


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "bzImage").write_bytes(bzimage())
    return load_kernel(tmp_path / "bzImage", LAYOUT)


OUTSIDE = {
    "acpi_rsdp_addr": bootparams.ACPI_RSDP_ADDR,
    "ext_ramdisk_image": bootparams.EXT_RAMDISK_IMAGE,
    "ext_ramdisk_size": bootparams.EXT_RAMDISK_SIZE,
    "ext_cmd_line_ptr": bootparams.EXT_CMD_LINE_PTR,
    "e820_entries": bootparams.E820_ENTRIES,
    "sentinel": bootparams.SENTINEL,
    "e820_table": bootparams.E820_TABLE,
    "hdr": setup_header.START,
    "edd_mbr_sig_buffer": setup_header.END_LIMIT,
}


def compiler_says(tmp_path, expressions):
    """The values of C expressions over <asm/bootparam.h>."""
    if not shutil.which("gcc"):
        assert os.environ.get("CI") != "true", "no gcc"
        pytest.skip("apt-get install gcc linux-libc-dev")
    lines = [f'printf("%zu\\n", (size_t)({each}));' for each in expressions]
    includes = "".join(f"#include <{each}.h>\n" for each in ("stdio", "stddef", "asm/bootparam"))
    program = f"{includes}int main(void) {{{''.join(lines)}}}"
    (tmp_path / "offsets.c").write_text(program)
    command = ["gcc", "-o", tmp_path / "offsets", tmp_path / "offsets.c"]
    subprocess.run(command, check=True, timeout=60)
    return [int(line) for line in subprocess.check_output([tmp_path / "offsets"], text=True, timeout=60).split()]


def test_every_setup_header_field_lies_where_the_kernel_s_header_has_it(tmp_path):
    fields = [each for each in attrs.fields(SetupHeader) if each.metadata]
    assert len(fields) == 39
    offsets = compiler_says(tmp_path, [f"offsetof(struct boot_params, hdr.{each.name})" for each in fields])
    sizes = compiler_says(tmp_path, [f"sizeof(((struct setup_header *)0)->{each.name})" for each in fields])
    assert {each.name: each.metadata["offset"] for each in fields} == {
        each.name: offset for each, offset in zip(fields, offsets, strict=True)
    }
    assert [struct.calcsize(each.metadata["form"]) for each in fields] == sizes


def test_the_setup_header_has_no_field_that_ours_lacks(tmp_path):
    (size,) = compiler_says(tmp_path, ["sizeof(struct setup_header)"])
    assert len(SetupHeader().to_bytes()) == size == 123


def test_every_other_field_lies_where_the_kernel_s_header_has_it(tmp_path):
    found = compiler_says(tmp_path, [f"offsetof(struct boot_params, {name})" for name in OUTSIDE])
    assert list(OUTSIDE.values()) == found
    sizes = ["sizeof(struct boot_params)", "sizeof(struct boot_e820_entry)", "E820_MAX_ENTRIES_ZEROPAGE"]
    assert compiler_says(tmp_path, sizes) == [4096, 20, 128]


def test_every_flag_is_the_kernel_s_bit(tmp_path):
    flags = {
        "LOADED_HIGH": LoadFlags(loaded_high=True),
        "KASLR_FLAG": LoadFlags(kaslr=True),
        "QUIET_FLAG": LoadFlags(quiet=True),
        "KEEP_SEGMENTS": LoadFlags(keep_segments=True),
        "CAN_USE_HEAP": LoadFlags(can_use_heap=True),
        "XLF_KERNEL_64": XLoadFlags(kernel_64=True),
        "XLF_CAN_BE_LOADED_ABOVE_4G": XLoadFlags(can_be_loaded_above_4g=True),
        "XLF_EFI_HANDOVER_32": XLoadFlags(efi_handover_32=True),
        "XLF_EFI_HANDOVER_64": XLoadFlags(efi_handover_64=True),
        "XLF_EFI_KEXEC": XLoadFlags(efi_kexec=True),
    }
    assert compiler_says(tmp_path, flags) == [int(flag) for flag in flags.values()]


def test_a_c_program_reads_what_we_wrote(tmp_path, kernel):
    """The kernel's own struct, laid over our page."""
    initrd = Blob("initrd", 0x1_2345_6000, FileSlice(tmp_path, 0, 0x1_0000_0002))
    page, _ = boot_params("quiet", LAYOUT, kernel, initrd, FirmwareTables(0xE0000, ()))
    (tmp_path / "page").write_bytes(page.content)
    (tmp_path / "reader.c").write_text(
        """
        #include <stdio.h>
        #include <asm/bootparam.h>
        int main(void) {
            struct boot_params p;
            if (fread(&p, sizeof p, 1, stdin) != 1) return 1;
            printf("%x %x %x %x ", p.hdr.header, p.hdr.type_of_loader, p.hdr.loadflags, p.hdr.cmd_line_ptr);
            printf("%llx ", (unsigned long long)p.acpi_rsdp_addr);
            printf("%x:%x %x:%x %x ", p.ext_ramdisk_image, p.hdr.ramdisk_image, p.ext_ramdisk_size,
                   p.hdr.ramdisk_size, p.sentinel);
            for (int i = 0; i < p.e820_entries; i++)
                printf("%llx+%llx=%x ", (unsigned long long)p.e820_table[i].addr,
                       (unsigned long long)p.e820_table[i].size, p.e820_table[i].type);
        }
        """
    )
    if not shutil.which("gcc"):
        assert os.environ.get("CI") != "true", "no gcc"
        pytest.skip("apt-get install gcc linux-libc-dev")
    subprocess.run(["gcc", "-o", tmp_path / "reader", tmp_path / "reader.c"], check=True, timeout=60)
    with (tmp_path / "page").open("rb") as file:
        said = subprocess.check_output([tmp_path / "reader"], stdin=file, text=True, timeout=60)
    header, places = ["53726448", "ff", "1", "20000", "e0000"], ["1:23456000", "1:2", "0"]
    memory = ["0+9e000=1", "9e000+62000=2", "100000+7f00000=1"]
    assert said.split() == header + places + memory
