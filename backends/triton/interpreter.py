"""Makes Triton's interpreter quick and strict: whole blocks where it goes element by element, and an error where memory
outside of the arguments is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

_allowed: list[tuple[int, int]] = []  # first address and end of each array that a kernel may touch now


@cache
def patch(parts: Any) -> None:
    """Replaces what is slow or lax in `triton.runtime.interpreter`."""
    builder = parts.InterpreterBuilder
    builder.create_splat = _splat
    parts.ReduceOps.generic_reduce = _reduce_by_halves
    parts.ScanOps.generic_scan = _scan_by_doubling
    builder.create_masked_load = _checked(builder.create_masked_load, 1)
    builder.create_masked_store = _checked(builder.create_masked_store, 2)
    # What the overflow checks find is thrown away: they are asserts, which only debug mode keeps.
    parts.interpreter_builder.options = replace(parts.interpreter_builder.options, sanitize_overflow=False)


# ------------------------------------------------------------------ memory


@contextmanager
def memory(arrays: Sequence[np.ndarray]) -> Iterator[None]:
    """While it lasts, kernels may touch these arrays and nothing else: IndexError."""
    _allowed[:] = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
    try:
        yield
    finally:
        _allowed.clear()


def _checked(access: Callable, mask_at: int) -> Callable:
    """A load or store of the interpreter's builder that looks at the addresses first. `mask_at`: which argument behind
    the builder is the mask."""

    def checked(builder: Any, pointers: Any, *args: Any, **named: Any) -> Any:
        used = pointers.data[np.broadcast_to((pointers, *args)[mask_at].data, pointers.data.shape)].astype(np.int64)
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        inside = np.zeros(used.shape, bool)
        for start, end in _allowed:
            inside |= (start <= used) & (used <= end - size)
        if not inside.all():
            raise IndexError(f"{int((~inside).sum())} of {used.size} elements lie outside of the kernel's arrays")
        return access(builder, pointers, *args, **named)

    return checked


# ------------------------------------------------------------------ blocks


def _splat(builder: Any, block_type: Any, scalar: Any) -> Any:
    """A scalar as a block, with the scalar's own bits. The interpreter's version goes by a type that, for comparisons
    of scalars, is that of what was compared."""
    return type(scalar)(np.full(block_type.shape, scalar.data.reshape(-1)[0]), block_type.scalar)


def _reduce_by_halves(reduce: Any, tensors: tuple) -> list:
    """Folds blocks along an axis (a power of two long) with a combining function applied to whole halves. The
    interpreter's version calls it for one pair of elements at a time."""
    axis = reduce.axis
    parts = [(t.handle.data, t.dtype) for t in tensors]
    while parts[0][0].shape[axis] > 1:
        halves = [np.split(data, 2, axis) for data, _ in parts]
        low, high = ([reduce.to_tensor(h[k], d) for h, (_, d) in zip(halves, parts, strict=True)] for k in (0, 1))
        parts = _combined(reduce, low, high)
    squeezed = [(data if reduce.keep_dims else np.squeeze(data, axis), d) for data, d in parts]
    return [reduce.to_tensor(data, d) for data, d in squeezed]


def _scan_by_doubling(scan: Any, tensors: tuple) -> list:
    """Running folds of blocks along an axis: each element takes in the one 1, 2, 4, ... places before it."""
    axis = scan.axis
    parts = [(t.handle.data, t.dtype) for t in tensors]
    place = np.indices(parts[0][0].shape)[axis]
    reach = 1
    while reach < parts[0][0].shape[axis]:
        before = [scan.to_tensor(np.roll(data, reach, axis), d) for data, d in parts]
        joined = _combined(scan, before, [scan.to_tensor(*part) for part in parts])
        parts = [(np.where(place < reach, old, new), d) for (old, d), (new, _) in zip(parts, joined, strict=True)]
        reach *= 2
    return [scan.to_tensor(data, d) for data, d in parts]


def _combined(operation: Any, a: list, b: list) -> list[tuple[np.ndarray, Any]]:
    """The combining function of a reduction or scan on two lists of blocks."""
    out = operation.combine_fn.fn(*a, *b)
    out = out if isinstance(out, tuple) else (out,)
    return [(t.handle.data, old.dtype) for t, old in zip(out, a, strict=True)]
