"""Random numbers: counter-based, so that eager and compiled code draw the same ones.

Words come from `random_bits` (Philox4x32-10). Floats are `word >> 8` scaled by 2^-24 (float64: 53 bits of two words),
normals are Box-Muller's cosine branch of two uniforms. A generator's state is a tensor (seed, offset) that every draw
writes in place, which is how traces see it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ir.dim import ceildiv, numel
from ..ir.dtypes import DType, bool_, dtype_of, float32, float64, int64, uint64
from ..ir.op import get_op
from .autograd import no_grad
from .convert import as_tensor, cast_to
from .creation import as_shape
from .devices import gpu_of, host, moved, on_device
from .dispatch import assign, run
from .elementwise import (
    add,
    bitwise_right_shift,
    cos,
    divide,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    sqrt,
    subtract,
)  # fmt: skip
from .manipulation import cumulative_sum, narrow, take
from .sorting import argsort
from .state import state
from .tensor import Tensor, new_tensor


class Generator:
    """A stream of random numbers. `state`: uint64[2], the seed and the number of Philox blocks drawn so far."""

    def __init__(self, seed: int = 0):
        self.state: Tensor = new_tensor(np.array([seed % 2**64, 0], np.uint64))

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream of `seed` from its beginning."""
        with no_grad():
            assign(self.state, new_tensor(np.array([int(seed) % 2**64, 0], np.uint64)))
        return self

    def initial_seed(self) -> int:
        return int(self.state.numpy()[0])

    def get_state(self) -> Tensor:
        """A copy of the state, for `set_state`."""
        return self.state.clone()

    def set_state(self, saved: Tensor) -> None:
        """Goes on from a state that `get_state` gave."""
        with no_grad():
            assign(self.state, cast_to(as_tensor(saved), uint64))

    def bits(self, shape: Any, like: Tensor | None = None) -> Tensor:
        """Independent uint32 words, all values equally likely: the same ones on every device. They are made where `like`
        lies, else where new tensors go."""
        sizes = as_shape(shape)
        with no_grad():
            gpu = state.place if like is None else gpu_of(like)
            at = self.state if gpu is None or state.tracer is not None else new_tensor(moved(self.state._data, gpu))
            out = run(get_op("random_bits"), (at,), {"shape": sizes})
        self._advance(sizes)
        return out

    def reserve(self, shape: Any) -> Tensor:
        """The state from which `random_bits` gives what `bits(shape)` would; the stream goes on behind that."""
        before = self.get_state()
        self._advance(as_shape(shape))
        return before

    def _advance(self, sizes: tuple) -> None:
        with no_grad():
            blocks = ceildiv(numel(sizes) * state.draws, 4)
            if state.tracer is None:
                with np.errstate(over="ignore"):
                    self.state._data[1] += np.uint64(int(blocks))  # type: ignore[arg-type]
                self.state._version = (self.state._version or 0) + 1
            else:
                step = new_tensor(np.array([0, 1], np.uint64))
                assign(self.state, add(self.state, multiply(step, _words(blocks))))


def _words(blocks: Any) -> Tensor:
    from .convert import scalar_tensor

    return scalar_tensor(blocks, uint64)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seeds the default generator."""
    return default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seeds tracefuse's default generator, NumPy's and Python's."""
    import random as python_random

    manual_seed(seed)
    np.random.seed(seed % 2**32)
    python_random.seed(seed)


def get_rng_state() -> Tensor:
    """A copy of the default generator's state."""
    return default_generator.get_state()


def set_rng_state(saved: Tensor) -> None:
    """Sets the default generator's state."""
    default_generator.set_state(saved)


# ------------------------------------------------------------------ distributions


def _float_dtype(dtype: Any) -> DType:
    wanted = state.default_dtype if dtype is None else dtype_of(dtype)
    if not wanted.is_floating:
        raise TypeError(f"random floats cannot be of type {wanted.name}")
    return wanted


def _shape(sizes: tuple) -> tuple:
    return as_shape(sizes[0] if len(sizes) == 1 and hasattr(sizes[0], "__iter__") else sizes)


def _unit(shape: tuple, dtype: DType, generator: Generator | None) -> Tensor:
    """Uniform on [0, 1): multiples of 2^-24 (float64: of 2^-53)."""
    source = generator or default_generator
    if dtype is float64:
        words = source.bits((2, *shape))
        high, low = bitwise_right_shift(words[0], 5), bitwise_right_shift(words[1], 6)
        return multiply(add(multiply(cast_to(high, float64), 2.0**26), cast_to(low, float64)), 2.0**-53)
    words = bitwise_right_shift(source.bits(shape), 8 if dtype is float32 else 32 - _digits(dtype))
    return cast_to(multiply(cast_to(words, float32), 2.0**-24 if dtype is float32 else 2.0 ** -_digits(dtype)), dtype)


def _digits(dtype: DType) -> int:
    """Bits of precision of a narrow float: with more of them, rounding would give 1."""
    return 11 if dtype.name == "float16" else 8


def _finished(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_() if requires_grad else x


@on_device
def rand(
    *size: Any, dtype: Any = None, generator: Generator | None = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform on [0, 1), of a shape given as one tuple or as sizes."""
    with no_grad():
        out = _unit(_shape(size), _float_dtype(dtype), generator)
    return _finished(out, requires_grad)


def uniform(
    low: float = 0.0, high: float = 1.0, size: Any = (), *, dtype: Any = None, generator: Generator | None = None
) -> Tensor:
    """Uniform on [low, high)."""
    with no_grad():
        return add(multiply(_unit(as_shape(size), _float_dtype(dtype), generator), high - low), low)


@on_device
def randn(
    *size: Any, dtype: Any = None, generator: Generator | None = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal, of a shape given as one tuple or as sizes."""
    wanted, shape = _float_dtype(dtype), _shape(size)
    work = float64 if wanted is float64 else float32
    with no_grad():
        u = _unit((2, *shape), work, generator)
        radius = sqrt(multiply(log(subtract(1.0, u[0])), -2.0))  # 1 - u is in (0, 1]: no logarithm of 0
        out = cast_to(multiply(radius, cos(multiply(u[1], 2 * math.pi))), wanted)
    return _finished(out, requires_grad)


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, dtype: Any = None, generator: Generator | None = None
) -> Tensor:
    """Normal with a mean and standard deviation; of the shape of those if they are tensors and `size` is None."""
    shape = as_shape(size) if size is not None else next((x.shape for x in (mean, std) if isinstance(x, Tensor)), ())
    with no_grad():
        return add(multiply(randn(shape, dtype=dtype, generator=generator), std), mean)


def randint(
    low: int, high: Any = None, size: Any = None, *, dtype: Any = None, generator: Generator | None = None
) -> Tensor:
    """Integers in [low, high), or in [0, low) if `high` is None; int64. PyTorch's randint(high, size) works too.

    ValueError for an empty range or one longer than 2^32.
    """
    if size is None and high is not None and hasattr(high, "__iter__"):
        high, size = None, high
    if high is None:
        low, high = 0, low
    span = int(high) - int(low)
    if not 0 < span <= 2**32:
        raise ValueError(f"randint: the range [{low}, {high}) must hold between 1 and 2^32 integers")
    wanted = int64 if dtype is None else dtype_of(dtype)
    with no_grad():
        words = cast_to((generator or default_generator).bits(as_shape(() if size is None else size)), uint64)
        picked = bitwise_right_shift(multiply(words, span), 32)
        return cast_to(add(cast_to(picked, int64), int(low)), wanted)


def bernoulli(p: Any, size: Any = None, *, dtype: Any = None, generator: Generator | None = None) -> Tensor:
    """1 with probability p, else 0. `p`: a tensor of probabilities (its shape and type are the result's), or a
    number."""
    with no_grad():
        if isinstance(p, Tensor) and size is None:
            return cast_to(
                _unit(p.shape, float32, generator) < cast_to(p, float32), p.dtype if dtype is None else dtype_of(dtype)
            )
        drawn = _unit(as_shape(() if size is None else size), float32, generator) < p
        return cast_to(drawn, bool_ if dtype is None else dtype_of(dtype))


@on_device
def exponential(*size: Any, dtype: Any = None, generator: Generator | None = None, device: Any = None) -> Tensor:
    """Exponentially distributed with rate 1, of a shape given as one tuple or as sizes."""
    wanted, shape = _float_dtype(dtype), _shape(size)
    work = float64 if wanted is float64 else float32
    with no_grad():
        return cast_to(negative(log(subtract(1.0, _unit(shape, work, generator)))), wanted)


def multinomial(
    input: Any, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with probabilities proportional to `input` [C] or [N, C]: int64 [num_samples] or [N, num_samples].

    Without replacement they are the largest of p / Exp(1). ValueError for more samples than categories then.
    """
    weights = as_tensor(input)
    if weights.ndim not in (1, 2) or not weights.dtype.is_floating:
        raise ValueError(f"multinomial takes floating probabilities of 1 or 2 dimensions, not {weights.type}")
    classes = weights.shape[-1]
    if not replacement and num_samples > classes:
        raise ValueError(f"multinomial: {num_samples} samples of {classes} categories need replacement=True")
    with no_grad():
        if not replacement:
            keys = divide(weights, maximum(exponential(weights.shape, dtype=weights.dtype, generator=generator), 1e-30))
            return narrow(argsort(keys, axis=-1, descending=True), weights.ndim - 1, 0, num_samples)
        edges = cumulative_sum(cast_to(weights, float64), axis=-1)
        total = narrow(edges, weights.ndim - 1, classes - 1, classes)
        drawn = multiply(rand((*weights.shape[:-1], num_samples), dtype=float64, generator=generator), total)
        at = run(get_op("searchsorted"), (edges, drawn), {"right": True})
        return minimum(at, classes - 1)


def poisson(input: Any, *, generator: Generator | None = None) -> Tensor:
    """Poisson distributed with the rates `input`: arrivals one Exp(1) apart are counted, so it takes as many draws as
    the largest rate needs. Needs its value, so it ends a capture. ValueError for negative rates and above 10^4."""
    rates = as_tensor(input)
    known = host(rates._data) if state.tracer is None else np.asarray(state.tracer.concretize(rates, "poisson"))
    if known.size and not 0 <= known.min() <= known.max() <= 1e4:
        raise ValueError("poisson: the rates must lie between 0 and 10^4")
    out, at = np.zeros(known.shape), np.zeros(known.shape)
    while True:
        at = at + exponential(known.shape, dtype=float64, generator=generator, device="cpu").numpy()
        if not (at < known).any():
            return new_tensor(moved(out.astype(rates.dtype.np), gpu_of(rates)))
        out += at < known


def randint_like(
    x: Any, low: int, high: int | None = None, *, dtype: Any = None, generator: Generator | None = None
) -> Tensor:
    """Integers of [low, high) (or [0, low)), of the shape and type of `x`."""
    x = as_tensor(x)
    return randint(low, high, x.shape, dtype=x.dtype if dtype is None else dtype, generator=generator)


def randperm(n: int, *, dtype: Any = None, generator: Generator | None = None) -> Tensor:
    """0 .. n - 1 in random order; int64."""
    with no_grad():
        words = cast_to((generator or default_generator).bits((2, n)), uint64)
        keys = add(multiply(words[0], 2**32), words[1])
        return cast_to(argsort(keys), int64 if dtype is None else dtype_of(dtype))


def permutation(x: Any, *, generator: Generator | None = None) -> Tensor:
    """A shuffled range for an int; a tensor shuffled along its first axis."""
    if isinstance(x, int):
        return randperm(x, generator=generator)
    x = as_tensor(x)
    return take(x, randperm(x.shape[0], generator=generator), axis=0)


def rand_like(x: Any, *, dtype: Any = None, generator: Generator | None = None) -> Tensor:
    """Uniform on [0, 1), of the shape and type of `x`."""
    x = as_tensor(x)
    return rand(x.shape, dtype=x.dtype if dtype is None else dtype, generator=generator)


def randn_like(x: Any, *, dtype: Any = None, generator: Generator | None = None) -> Tensor:
    """Standard normal, of the shape and type of `x`."""
    x = as_tensor(x)
    return randn(x.shape, dtype=x.dtype if dtype is None else dtype, generator=generator)


__all__ = [
    "Generator", "bernoulli", "default_generator", "exponential", "get_rng_state", "manual_seed", "multinomial",
    "normal", "permutation", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like",
    "randperm", "seed_everything", "set_rng_state", "uniform",
]  # fmt: skip
