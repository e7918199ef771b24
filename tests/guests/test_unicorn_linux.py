"""Debian's kernels on the emulated processor, directly on this host: from file to userspace.

That one boot after the other does, beside a busy core too, and leaves no thread, is in `test_unicorn_endings`.
"""

import pytest
from conversation import complaints, shows_memory_map

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("name", ["cloud vmlinux", "cloud bzImage", "generic vmlinux"])
def test_a_debian_kernel_boots_to_userspace_and_answers(name, interviewed):
    """But for the generic bzImage, which takes half a minute to unpack itself from xz, as the one for 32 bits does in
    `test_unicorn_entries`; the cloud kernel does from lz4.
    """
    log = interviewed(name).log.encode()
    assert not complaints(log)
    assert shows_memory_map(log)
