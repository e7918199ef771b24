"""Debian's kernels on the emulated processor by every entry that they have, up to userspace."""

import pytest
from entries import APPEND, ENTRIES, boot

pytestmark = pytest.mark.timeout(240)

NO_SYSENTER = "clearcpuid=11"
"""The engine has SYSENTER in its CPUID, and skips it: a 32-bit program's system call would do nothing."""


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_a_debian_kernel_boots_to_userspace_by_this_entry(entry, tmp_path):
    boot(entry, tmp_path, "unicorn", APPEND if entry.machine == "x86_64" else f"{APPEND} {NO_SYSENTER}")
