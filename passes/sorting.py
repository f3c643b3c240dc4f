"""Sorting on GPUs: argsort and searchsorted in terms of rows that one block sorts, merges of runs, and searches.

What is sorted are 64-bit words: a key of 32 bits, unsigned and in the order of the elements, above the position of the
element. No two are equal, so that their order is the stable one. Longer keys take two rounds, the low half first.
"""

from __future__ import annotations

import numpy as np

from ..ir import dim, ops
from ..ir.dtypes import DType, float32, float64, int32, int64, uint32, uint64
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.ops.ordering import take_along
from ..ir.target import Target
from .fuel import Fuel
from .host import has_native_types

CHUNK = 1024  # words that one block sorts
LONGEST = 2**30  # elements of a row whose length has no bound
LAST = 2**64 - 1  # behind every word


def sorting(graph: Graph, fuel: Fuel, target: Target) -> Graph:
    """Needs primitive ops. Leaves no argsort or searchsorted on types that kernels have, but for searches among
    boundaries that there may be none of."""
    return _Sorting(graph, fuel).run()


class _Sorting(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        name = node.op.name
        if name not in ("argsort", "searchsorted") or not has_native_types(node) or not self.fuel.spend("sorting"):
            return None
        if name == "argsort":
            return (sort_order(inputs[0], **node.attrs),)
        least = dim.bounds(inputs[0].shape[-1])[0]
        return None if least is None or least < 1 else (ops.search_rows(*inputs, **node.attrs),)


def sort_order(x: Value, axis: int, descending: bool) -> Value:
    """argsort, in terms of sorted words."""
    order: Value | None = None
    for key in key_words(x, descending):
        found = positions_of(
            sorted_words(key if order is None else take_along(key, order, axis), axis), axis, x.shape[axis]
        )
        order = found if order is None else take_along(order, found, axis)
    assert order is not None
    return order


def key_words(x: Value, descending: bool) -> list[Value]:
    """uint32 words, the lowest first, that are in the order of the elements of `x`, NaN last; or in the opposite one."""
    wide = x.dtype.bits == 64 and x.dtype.kind != "b"
    bits = _ordered_bits(x, uint64 if wide else uint32)
    if descending:
        bits = ops.not_(bits)
    if not wide:
        return [bits]
    return [ops.cast(bits, dtype=uint32), ops.cast(ops.shr(bits, _number(32, uint64)), dtype=uint32)]


def _ordered_bits(x: Value, unsigned: DType) -> Value:
    sign = _number(1 << (unsigned.bits - 1), unsigned)
    if x.dtype.kind in "bu":
        return ops.cast(x, dtype=unsigned)
    if x.dtype.kind == "i":
        return ops.xor(ops.bitcast(ops.cast(x, dtype=int64 if unsigned is uint64 else int32), dtype=unsigned), sign)
    x = ops.cast(x, dtype=float64 if unsigned is uint64 else float32)
    zero = _number(0, x.dtype)
    bits = ops.bitcast(ops.where(ops.eq(x, zero), zero, x), dtype=unsigned)  # -0 is equal to 0
    flipped = ops.where(ops.ge(bits, sign), ops.not_(bits), ops.or_(bits, sign))
    return ops.where(ops.ne(x, x), ops.not_(_number(0, unsigned)), flipped)


def sorted_words(key: Value, axis: int) -> Value:
    """The words of uint32 keys, sorted along `axis`, which is padded with `LAST` to whole chunks if it has several."""
    shape = key.shape
    before, n, after = shape[:axis], shape[axis], shape[axis + 1 :]
    position = ops.iota(shape=shape, axis=axis, dtype=uint64)
    words = ops.or_(ops.shl(ops.cast(key, dtype=uint64), _number(32, uint64)), position)
    if isinstance(n, int) and n <= CHUNK:
        return ops.sort_rows(words, axis=axis)
    chunks = dim.ceildiv(n, CHUNK)
    padding = tuple(chunks * CHUNK - n if k == axis else 0 for k in range(len(shape)))
    words = ops.pad(words, low=(0,) * len(shape), high=padding, value=LAST)
    words = ops.sort_rows(ops.reshape(words, shape=(*before, chunks, CHUNK, *after)), axis=axis + 1)
    words = ops.reshape(words, shape=(*before, chunks * CHUNK, *after))
    run, most = CHUNK, dim.bounds(chunks * CHUNK)[1] or LONGEST
    while run < most:
        words = ops.merge_runs(words, np.array([run]), axis=axis)
        run *= 2
    return words


def positions_of(words: Value, axis: int, n: dim.DimLike) -> Value:
    """Where the first n of the sorted elements were: int64."""
    start, stop = (0,) * words.ndim, tuple(n if k == axis else d for k, d in enumerate(words.shape))
    first = words if words.shape == stop else ops.slice_(words, start=start, stop=stop, step=(1,) * words.ndim)
    return ops.cast(ops.and_(first, _number(0xFFFFFFFF, uint64)), dtype=int64)


def _number(value: int, dtype: DType) -> Value:
    return ops.full(value=value, shape=(), dtype=dtype)
