"""The kernel inside a file that packs one, for who wants to look into it and not to boot it."""

from __future__ import annotations

import re

from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.memory import MIB
from anyvisor.x86_64.bzimage import BzImage, is_bzimage
from anyvisor.x86_64.layout import Layout

SETUP_START = 0x200
"""What the header counts the place of its version from."""
RELEASE_BYTES = 256
"""The longest that is read of it."""
MAX_BYTES = 512 * MIB
"""The biggest kernel that is unpacked; one of a distribution has 50 to 100 MiB."""
_WAY_OUT_OF_BOOT = re.compile(r"; (?:or )?leave out `unpack`")


def release(image: ImageFile) -> str:
    """The Linux that a bzImage says it is, such as `6.1.0-56-amd64`; empty where it does not say, and for other files.

    Documentation/arch/x86/boot.rst, `kernel_version`.
    """
    if not is_bzimage(image):
        return ""
    place = BzImage.read(image).header.kernel_version
    words = image.start(SETUP_START + place + RELEASE_BYTES)[SETUP_START + place :] if place else b""
    return next(iter(words.partition(b"\0")[0].decode("ascii", "replace").split()), "")


def vmlinux(image: ImageFile) -> ImageFile | None:
    """The ELF kernel that a bzImage packs, unpacked; None for a file that is no bzImage.

    KernelImageError when it cannot be unpacked here.
    """
    if not is_bzimage(image):
        return None
    try:
        return BzImage.read(image).vmlinux(Layout.for_memory(MAX_BYTES))
    except KernelImageError as error:
        cause = _WAY_OUT_OF_BOOT.split(error.reason)[0]
        raise KernelImageError(f"{cause}; else give its System.map, or its vmlinux", path=error.path) from error
