"""Files that only their owner may read: what is kept of a guest may hold its secrets."""

from __future__ import annotations

import contextlib
import os
import stat

PRIVATE = 0o600


def private(path: str, flags: int) -> int:
    """Open a file that is its owner's only, also one that was there before; a device or pipe stays as it is.

    To be given to `open` as its `opener`. OSError as of `os.open`.
    """
    fd = os.open(path, flags, PRIVATE)
    if stat.S_ISREG(os.fstat(fd).st_mode) and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):  # it is somebody else's, who let us write
            os.fchmod(fd, PRIVATE)  # the umask may have taken even that
    return fd
