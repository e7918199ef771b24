"""Debian's kernels on real KVM by every entry that they have, up to userspace.

Those for i386 are left to the emulated processor. On the KVM in here (SVM as QEMU 7.2 emulates it) they print nothing,
and QEMU itself, as the VMM on this KVM, gets no further with them. 64-bit kernels, which two of these protocols start
in 32-bit mode as well, come up.
"""

import pytest
from entries import ENTRIES, boot

HERE = [each for each in ENTRIES if each.machine == "x86_64"]


@pytest.mark.parametrize("entry", HERE, ids=str)
def test_a_debian_kernel_boots_to_userspace_by_this_entry(entry, tmp_path):
    boot(entry, tmp_path, "kvm")
