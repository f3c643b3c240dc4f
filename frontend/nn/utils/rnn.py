"""Sequences of several lengths in one batch: padded, or packed step by step without the padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ....ir import ops
from ... import creation
from ... import functions as fn
from ...devices import host
from ...dispatch import apply
from ...state import state
from ...tensor import Tensor, new_tensor


class PackedSequence(NamedTuple):
    """Sequences cut into steps: `data` [sum of lengths, ..] holds step 0 of all sequences, then step 1 of those that
    have one, and so on; `batch_sizes` [steps] says how many. Longest first: `sorted_indices` tells which sequence of the
    batch is at which place (None: they were sorted already), `unsorted_indices` is its inverse.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with its data cast or moved by `Tensor.to`."""
        return self._replace(data=self.data.to(*args, **kwargs))

    def double(self) -> PackedSequence:
        return self.to("float64")

    def float(self) -> PackedSequence:
        return self.to("float32")


def _constant(array: np.ndarray) -> Tensor:
    """Numbers that follow from Python numbers: known while tracing, too."""
    t = new_tensor(array)
    if state.tracer is not None:
        state.tracer.made(t)
    return t


def known_sizes(x: Any, what: str) -> list[int]:
    """Numbers that decide shapes, as Python ints. While tracing they have to be constants."""
    if isinstance(x, Tensor):
        known = host(x._data) if state.tracer is None else state.tracer.concretize(x, what)
        return [int(n) for n in np.asarray(known).reshape(-1)]
    return [int(n) for n in np.asarray(x).reshape(-1)]


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes this one."""
    return None if permutation is None else fn.argsort(permutation)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs [T, N, ..] ([N, T, ..] if batch_first) with `lengths` [N] (ints, or an integer tensor, all positive).

    enforce_sorted: ValueError unless the lengths do not increase; otherwise the sequences are sorted here, and what an
    RNN or `pad_packed_sequence` gives back is in the order of the input again.
    """
    sizes = known_sizes(lengths, "pack_padded_sequence")
    x = input if batch_first else fn.swapaxes(input, 0, 1)
    n, longest = x.shape[:2]
    if len(sizes) != n:
        raise ValueError(f"pack_padded_sequence: {len(sizes)} lengths for {n} sequences in {tuple(input.shape)}")
    if any(s <= 0 for s in sizes) or max(sizes) > longest:
        raise ValueError(f"pack_padded_sequence: lengths {sizes} must be in [1, {longest}]")
    order = None
    if not enforce_sorted:
        order = np.argsort(-np.array(sizes), kind="stable")
        sizes = [sizes[i] for i in order]
    elif any(a < b for a, b in zip(sizes, sizes[1:])):
        raise ValueError(
            f"pack_padded_sequence: lengths {sizes} must not increase; sort them, or pass enforce_sorted=False"
        )
    places = np.arange(n) if order is None else order
    counts = [sum(s > t for s in sizes) for t in range(sizes[0])]
    at = np.concatenate([places[:c] * longest + t for t, c in enumerate(counts)])
    data = fn.take(fn.reshape(x, (n * longest, *x.shape[2:])), _constant(at), axis=0)
    batch_sizes = _constant(np.array(counts, np.int64))
    if order is None:
        return PackedSequence(data, batch_sizes)
    return PackedSequence(data, batch_sizes, _constant(order), _constant(np.argsort(order)))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(padded [T, N, ..] or [N, T, ..], lengths [N]): the inverse of `pack_padded_sequence`. total_length: T, at least
    the longest length."""
    counts = known_sizes(sequence.batch_sizes, "pad_packed_sequence")
    steps = len(counts) if total_length is None else total_length
    if steps < len(counts):
        raise ValueError(f"pad_packed_sequence: total_length {steps} is less than the longest sequence, {len(counts)}")
    n, starts = counts[0], np.cumsum([0, *counts[:-1]])
    lengths = np.array([sum(c > i for c in counts) for i in range(n)], np.int64)
    places = np.arange(n)
    if sequence.unsorted_indices is not None:
        places = np.array(known_sizes(sequence.unsorted_indices, "pad_packed_sequence"))
    lengths = lengths[places]
    time = np.arange(steps)[:, None]
    inside = time < lengths
    at = np.where(inside, np.pad(starts, (0, steps - len(counts)))[:, None] + places, 0)
    if batch_first:
        at, inside = at.T, inside.T
    data = sequence.data
    out = apply(ops.gather, data, _constant(np.ascontiguousarray(at)))
    if not inside.all():
        mask = _constant(inside.reshape(inside.shape + (1,) * (data.ndim - 1)))
        out = fn.where(mask, out, padding_value)
    return out, _constant(lengths)


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Tensors [L_i, ..] as one [T, N, ..] ([N, T, ..] if batch_first), T the longest L_i."""
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side is 'left' or 'right', not {padding_side!r}")
    listed = list(sequences)
    if not listed:
        raise ValueError("pad_sequence needs at least one sequence")
    longest = max(s.shape[0] for s in listed)
    padded = []
    for s in listed:
        free = longest - s.shape[0]
        if free:
            filler = creation.full((free, *s.shape[1:]), padding_value, dtype=s.dtype)
            s = fn.concat([s, filler] if padding_side == "right" else [filler, s], axis=0)
        padded.append(s)
    return fn.stack(padded, axis=0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The first `lengths[i]` steps of each sequence of a padded batch: the inverse of `pad_sequence`."""
    x = padded_sequences if batch_first else fn.swapaxes(padded_sequences, 0, 1)
    return [x[i, :n] for i, n in enumerate(known_sizes(lengths, "unpad_sequence"))]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs tensors [L_i, ..]; see `pack_padded_sequence`."""
    listed = list(sequences)
    return pack_padded_sequence(pad_sequence(listed), [s.shape[0] for s in listed], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences [L_i, ..] again: the inverse of `pack_sequence`."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
