"""Hypothesis strategies: any segment that can be."""

from hypothesis import strategies as st

from anyvisor.x86_64.gdt import BYTE, PAGE, Segment

BASES, WIDE_BASES = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
flag = st.booleans()


def extents(bases=BASES):
    """Any base, limit, privilege... that a segment may be given."""
    pages = st.integers(0, 2**20 - 1).map(lambda pages: pages << 12 | 0xFFF)
    limit = st.one_of(
        st.fixed_dictionaries({"granularity": st.just(PAGE), "limit_bytes": pages}),
        st.fixed_dictionaries({"granularity": st.just(BYTE), "limit_bytes": st.integers(0, 2**20 - 1)}),
    )
    rest = {
        "base": bases,
        "privilege": st.integers(0, 3),
        "present": st.booleans(),
        "available": st.booleans(),
    }
    return st.tuples(limit, st.fixed_dictionaries(rest)).map(lambda parts: parts[0] | parts[1])


def made(make, extent, **options):
    return st.tuples(extent, st.fixed_dictionaries(options)).map(lambda parts: make(**parts[0], **parts[1]))


segments = st.one_of(
    st.just(Segment.null()),
    made(
        Segment.code,
        extents(),
        bits=st.sampled_from([64, 32, 16]),
        readable=flag,
        conforming=flag,
        accessed=flag,
    ),
    made(
        Segment.data,
        extents(),
        bits=st.sampled_from([32, 16]),
        writable=flag,
        expand_down=flag,
        accessed=flag,
    ),
    made(Segment.tss, extents(WIDE_BASES), busy=flag),
    made(Segment.ldt, extents(WIDE_BASES)),
)
