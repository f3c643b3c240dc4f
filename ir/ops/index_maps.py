"""What each movement op reads for one element of its result, as index expressions: how lowering sees these ops.

    m = map_index("pad", node.attrs, operand_types, out_index)

Fusing a chain of movement ops is calling this for each of them with the index that the one before asked for. The
expressions simplify by the ranges of the symbols in `out_index`, so give loop symbols their exact bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..dim import DimLike, contiguous_strides, floordiv, mod, negative, nonnegative, numel
from ..op import Attrs
from ..types import Shape, TensorType

Index = tuple[DimLike, ...]


class Alternative(NamedTuple):
    """One possible source: operand number, index into it, and the sizes that must all be >= 0.

    Where the conditions hold the index is in range; elsewhere it may not be, so a load must be masked by them.
    """

    operand: int
    index: Index
    conditions: Index


@dataclass(frozen=True, slots=True)
class IndexMap:
    """The element is read by the first alternative whose conditions hold; where none does it is `fill`.

    fill None: some alternative holds everywhere, so the last one needs no test (its load may still need the mask).
    """

    alternatives: tuple[Alternative, ...]
    fill: bool | int | float | None = None


Rule = Callable[[Attrs, tuple[TensorType, ...], Index], IndexMap]


def map_index(op: str, attrs: Attrs, types: tuple[TensorType, ...], out_index: Index) -> IndexMap:
    """The map of movement op `op` at `out_index`, simplified: conditions that are certain are dropped, as are
    alternatives that can never hold and those behind one that always does. KeyError if `op` has no map."""
    return INDEX_MAPS[op](attrs, types, out_index)


def _simplified(alternatives: list[Alternative], fill: bool | float | None) -> IndexMap:
    kept = []
    for operand, index, conditions in alternatives:
        open_conditions = tuple(dict.fromkeys(c for c in conditions if not nonnegative(c)))
        if any(negative(c) for c in open_conditions):
            continue
        kept.append(Alternative(operand, index, open_conditions))
        if not open_conditions:
            return IndexMap(tuple(kept))
    return IndexMap(tuple(kept), fill)


def _always(index: Index) -> IndexMap:
    return IndexMap((Alternative(0, index, ()),))


def _broadcast_to(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    shape = types[0].shape
    tail = at[len(at) - len(shape) :]
    return _always(tuple(0 if d == 1 else i for d, i in zip(shape, tail)))


def _permute(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    index: list[DimLike] = [0] * len(at)
    for i, p in zip(at, attrs["perm"]):
        index[p] = i
    return _always(tuple(index))


def _slice(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    return _always(tuple(i * s + lo for i, lo, s in zip(at, attrs["start"], attrs["step"])))


def _flip(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    shape, axes = types[0].shape, attrs["axes"]
    return _always(tuple(d - 1 - i if axis in axes else i for axis, (d, i) in enumerate(zip(shape, at))))


def _reshape(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    source, target = types[0].shape, attrs["shape"]
    index: list[DimLike] = [0] * len(source)
    if numel(source) == 0:
        return _always(tuple(index))
    for ins, outs in reshape_groups(source, target):
        if len(ins) == len(outs) == 1:
            index[ins[0]] = at[outs[0]]
            continue
        strides = contiguous_strides(tuple(target[o] for o in outs))
        linear: DimLike = 0
        for o, stride in zip(outs, strides):
            linear = linear + at[o] * stride
        strides = contiguous_strides(tuple(source[i] for i in ins))
        for n, (i, stride) in enumerate(zip(ins, strides)):
            whole = floordiv(linear, stride)
            index[i] = mod(whole, source[i]) if n else whole  # the first one is below its size already
    return _always(tuple(index))


def reshape_groups(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of `source` and of `target` with equal products, as short as they come; axes of size 1 are left out.

    Sizes are compared as expressions, so a group may be longer than it has to be, never wrong.
    """
    ins = [i for i, d in enumerate(source) if d != 1]
    outs = [i for i, d in enumerate(target) if d != 1]
    ends: dict[DimLike, int] = {}  # product of the first n target sizes -> n
    product: DimLike = 1
    for n, o in enumerate(outs):
        product = product * target[o]
        ends[product] = n + 1
    groups: list[tuple[list[int], list[int]]] = []
    product, first_in, first_out = 1, 0, 0
    for n, i in enumerate(ins):
        product = product * source[i]
        end = ends.get(product)
        if end is not None:
            groups.append((ins[first_in : n + 1], outs[first_out:end]))
            first_in, first_out = n + 1, end
    return groups


def _pad(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    index = tuple(i - lo for i, lo in zip(at, attrs["low"]))
    return _simplified([Alternative(0, index, _inside(index, types[0].shape))], attrs["value"])


def _inside(index: Index, shape: Shape) -> Index:
    return tuple(c for i, d in zip(index, shape) for c in (i, d - 1 - i))


def _concat(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    axis = attrs["axis"]
    alternatives = []
    begin: DimLike = 0
    for operand, t in enumerate(types):
        i = at[axis] - begin
        n = t.shape[axis]
        conditions = (() if operand == 0 else (i,)) + (() if operand == len(types) - 1 else (n - 1 - i,))
        alternatives.append(Alternative(operand, (*at[:axis], i, *at[axis + 1 :]), conditions))
        begin = begin + n
    return _simplified(alternatives, None)


def _slice_scatter(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    index, conditions = [], []
    for i, n, lo, s in zip(at, types[1].shape, attrs["start"], attrs["step"]):
        offset = i - lo
        index.append(floordiv(offset, s))
        conditions += [offset, (n - 1) * s - offset, -mod(offset, s)]
    return _simplified([Alternative(1, tuple(index), tuple(conditions)), Alternative(0, at, ())], None)


def _windows(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    shape, k = types[0].shape, len(attrs["window"])
    lead = len(shape) - k
    spatial = tuple(
        o * s - lo + w * e
        for o, w, s, lo, e in zip(at[lead : lead + k], at[lead + k :], attrs["stride"], attrs["low"], attrs["dilation"])
    )
    return _simplified([Alternative(0, (*at[:lead], *spatial), _inside(spatial, shape[lead:]))], attrs["fill"])


def _unwindows(attrs: Attrs, types: tuple[TensorType, ...], at: Index) -> IndexMap:
    shape, k = types[0].shape, len(attrs["window"])
    lead = len(shape) - 2 * k
    places = at[lead + k :]
    index, conditions = [], []
    each = zip(at[lead : lead + k], places, shape[lead:], attrs["stride"], attrs["low"], attrs["dilation"])
    for d, w, n, s, lo, e in each:
        offset = d + lo - w * e
        o = floordiv(offset, s)
        index.append(o)
        conditions += [-mod(offset, s), o, n - 1 - o]
    return _simplified([Alternative(0, (*at[:lead], *index, *places), tuple(conditions))], 0)


INDEX_MAPS: dict[str, Rule] = {
    "broadcast_to": _broadcast_to,
    "reshape": _reshape,
    "permute": _permute,
    "slice": _slice,
    "flip": _flip,
    "pad": _pad,
    "concat": _concat,
    "slice_scatter": _slice_scatter,
    "windows": _windows,
    "unwindows": _unwindows,
}
