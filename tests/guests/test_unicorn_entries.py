"""Debian's kernels on the emulated processor by every entry that they have, up to userspace."""

import pytest
from entries import ENTRIES, boot

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_a_debian_kernel_boots_to_userspace_by_this_entry(entry, tmp_path):
    boot(entry, tmp_path, "unicorn")
