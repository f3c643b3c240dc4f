"""Texts and hashes of kernels whose loads depend on each other, many times over."""

from tracefuse.ir import dim
from tracefuse.ir.dtypes import float32, int64
from tracefuse.ir.kernel import Axis, Buffer, Kernel, Stage, Store
from tracefuse.ir.kernel_text import format_kernel
from tracefuse.ir.scalar import Expr, cast, load, select


def chained(steps: int) -> Expr:
    """Each place is found by two loads at the one before: as a tree it has 2**steps leaves."""
    at = load(int64, "x", (0,))
    for _ in range(steps):
        at = select(load(int64, "x", (at,)) < 5, load(int64, "y", (at,)), at)
    return at


def test_texts_and_hashes_grow_with_the_steps_not_with_the_paths():
    assert hash(chained(60)) == hash(chained(60)) and chained(3) != chained(4)
    i = Axis(dim.symbol("i", 0, 9), 10)
    params = tuple(
        Buffer(n, t, (10,), (1,), r) for n, t, r in (("x", int64, "in"), ("y", int64, "in"), ("z", float32, "out"))
    )
    last, at = chained(60), chained(60)
    store = Stage((), (), (Store("z", (at,), cast(last, float32)),))
    span = Stage((Axis(dim.symbol("j", 0, 9), 10),), span=(last, last + 1))
    for stages in ((store,), (span, store)):
        assert len(format_kernel(Kernel("k", params, (i,), stages))) < 60_000
