"""How often a test repeats what may go wrong now and then."""

import os


def rounds(count: int) -> int:
    """`count`; a tenth inside the emulated machine, whose processor is some thirty times slower.

    The same test runs on the host as well, where each round has the same chance to find what is wrong.
    """
    return max(count // 10, 1) if os.environ.get("ANYVISOR_EMULATED") else count
