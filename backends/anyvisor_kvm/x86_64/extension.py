"""Which virtualisation extension this host's processor has, and KVM with it."""

from __future__ import annotations

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def extension_in(cpuinfo: Path) -> str | None:
    """`vmx` (Intel), `svm` (AMD), or nothing for a processor with neither; None where the file cannot be read."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return next((name for name in ("vmx", "svm") if name in flags), "")


@functools.cache
def host_extension() -> str | None:
    """That of this host, asked once."""
    return extension_in(CPUINFO)
