"""Every op under the transforms, from its own samples: vmap against a loop, derivatives against differences of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tracefuse.frontend.autograd import gradcheck, gradgradcheck
from tracefuse.ir.dtypes import float32, float64, from_numpy
from tracefuse.ir.graph import Graph
from tracefuse.ir.op import NO_GRADIENT, REGISTRY, OpDef, Sample
from tracefuse.ir.subgraph import retyped

import tracefuse as tr

LANES = 3
WHOLE = {"segment_reduce"}  # its starts rise, and end with the number of updates: rolled, they mean nothing
BATCHED = sorted(n for n, op in REGISTRY.items() if op.operands and n not in WHOLE)
IN_PART = {"while_vjp"}  # in its last operands only
DIFFERENTIABLE = sorted(n for n, op in REGISTRY.items() if op.vjp != NO_GRADIENT and op.operands and n not in IN_PART)
ONCE = {"while"}  # its gradient is while_vjp
PRECISION = {1: 0.0, 2: 1e-2, 4: 1e-5, 8: 1e-12}  # by bytes of a real number


def spaced(samples: list[Sample], n: int) -> list[Sample]:
    """At most `n` of them, evenly spaced, the first and the last included."""
    if len(samples) <= n:
        return samples
    return [samples[round(i * (len(samples) - 1) / (n - 1))] for i in range(n)]


def all_samples(op: OpDef) -> list[Sample]:
    assert op.samples is not None
    return [s for s in op.samples() if sum(a.size for a in s.args) < 5000]


def inexact(a: np.ndarray) -> bool:
    return from_numpy(a.dtype).is_inexact


def lanes_of(a: np.ndarray) -> np.ndarray:
    """Different operands for each lane, which are as good as the one of the sample."""
    if inexact(a):
        with np.errstate(all="ignore"):
            return np.stack([(a * (1 - 0.1 * k)).astype(a.dtype) for k in range(LANES)])
    return np.stack([np.roll(a, k) for k in range(LANES)])


def results(x: Any) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def assert_same(got: Any, want: Any, factor: float, message: str) -> None:
    got, want = got.numpy(), want.numpy()
    assert got.shape == want.shape and got.dtype == want.dtype, message
    if inexact(want):
        rtol = PRECISION[want.real.dtype.itemsize] * factor
        wide = np.complex128 if want.dtype.kind == "c" else np.float64
        got, want = got.astype(wide), want.astype(wide)
        finite = np.abs(want[np.isfinite(want)])
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * max(1.0, finite.max(initial=0)), err_msg=message)
    else:
        np.testing.assert_array_equal(got, want, message)


def looped(f: Callable, stacks: tuple, batched: tuple[bool, ...]) -> tuple:
    rows = [results(f(*(x[k] if b else x for x, b in zip(stacks, batched)))) for k in range(LANES)]
    return tuple(tr.stack(list(column)) for column in zip(*rows))


def choices(n: int) -> list[tuple[bool, ...]]:
    """All operands batched, then each alone."""
    alone = [tuple(i == k for i in range(n)) for k in range(n)] if n > 1 else []
    return [(True,) * n, *alone]


def operands(sample: Sample, batched: tuple[bool, ...]) -> tuple:
    return tuple(tr.tensor(lanes_of(a) if b else a) for a, b in zip(sample.args, batched))


@pytest.mark.parametrize("name", BATCHED)
def test_vmap_is_a_loop(name):
    op = REGISTRY[name]
    for sample in spaced(all_samples(op), 8):
        for batched in choices(len(sample.args)):
            stacks = operands(sample, batched)
            f = lambda *xs: op(*xs, **sample.attrs)  # noqa: B023, E731  called before the next sample
            with np.errstate(all="ignore"):
                want = looped(f, stacks, batched)
                got = results(tr.vmap(f, in_axes=tuple(0 if b else None for b in batched))(*stacks))
            assert len(got) == len(want)
            for g, w in zip(got, want):
                assert_same(g, w, 10, f"{name} {sample.attrs} of {[a.shape for a in sample.args]}, batched {batched}")


def double(name: str, v: Any) -> Any:
    """An attribute for operands of float64."""
    if isinstance(v, Graph):
        return retyped(v, [x.type.with_dtype(float64) if x.dtype is float32 else x.type for x in v.inputs])
    return float64 if name == "dtype" and v is float32 else v


def smooth(op: OpDef, largest: int = 200) -> list[Sample]:
    """The float32 (or complex64) samples to differentiate, in double precision."""
    out = []
    for s in all_samples(op):
        floats = [a for a in s.args if inexact(a)]
        if s.gradcheck and floats and all(a.dtype in (np.float32, np.complex64) for a in floats):
            if 0 < sum(a.size for a in floats) <= largest:
                wide = {np.dtype(np.float32): np.float64, np.dtype(np.complex64): np.complex128}
                attrs = {k: double(k, v) for k, v in s.attrs.items()}
                out.append(Sample(tuple(a.astype(wide.get(a.dtype, a.dtype)) for a in s.args), attrs))
    return out


def inputs(sample: Sample) -> tuple:
    return tuple(tr.tensor(a).requires_grad_() if inexact(a) else tr.tensor(a) for a in sample.args)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck_and_gradgradcheck(name):
    op = REGISTRY[name]
    for sample in spaced(smooth(op), 3):
        f = lambda *xs: op(*xs, **sample.attrs)  # noqa: B023, E731
        assert gradcheck(f, inputs(sample), fast_mode=True, rtol=1e-5, atol=1e-7)
        assert name in ONCE or gradgradcheck(f, inputs(sample), fast_mode=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jvp_is_the_slope(name):
    op, h = REGISTRY[name], 1e-6
    rng = np.random.default_rng(0)
    for sample in spaced(smooth(op), 3):
        at = [i for i, a in enumerate(sample.args) if inexact(a)]

        def f(*floats):
            args = [tr.tensor(a) for a in sample.args]  # noqa: B023
            for i, x in zip(at, floats):  # noqa: B023
                args[i] = x
            return op(*args, **sample.attrs)  # noqa: B023

        primals = tuple(tr.tensor(sample.args[i]) for i in at)
        tangents = tuple(tr.tensor(rng.standard_normal(tuple(x.shape)).astype(x.dtype.np)) for x in primals)
        out, found = tr.jvp(f, primals, tangents)
        above = results(f(*(x + h * v for x, v in zip(primals, tangents))))
        below = results(f(*(x - h * v for x, v in zip(primals, tangents))))
        for o, t, a, b in zip(results(out), results(found), above, below):
            assert t.shape == o.shape and t.dtype is o.dtype
            if o.dtype.is_inexact:
                slope = (a.numpy() - b.numpy()) / (2 * h)
                np.testing.assert_allclose(
                    t.numpy(), slope, rtol=1e-5, atol=1e-6 * max(1.0, np.abs(slope).max(initial=0))
                )


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_under_vmap_are_a_loop(name):
    """The rules themselves, with batched operands, saved values and cotangents."""
    op = REGISTRY[name]
    for sample in spaced(smooth(op), 2):
        at = [i for i, a in enumerate(sample.args) if inexact(a)]
        rest = [tr.tensor(a) for a in sample.args]

        def pulled(*floats):
            def f(*xs):
                args = list(rest)  # noqa: B023
                for i, x in zip(at, xs):  # noqa: B023
                    args[i] = x
                return [r for r in results(op(*args, **sample.attrs)) if r.dtype.is_inexact]  # noqa: B023

            out, pullback = tr.vjp(f, *floats)
            return pullback([tr.cos(r) for r in out])

        stacks = tuple(tr.tensor(lanes_of(sample.args[i])) for i in at)
        with np.errstate(all="ignore"):
            want = looped(pulled, stacks, (True,) * len(at))
            got = tr.vmap(pulled)(*stacks)
        for g, w in zip(got, want, strict=True):
            assert_same(g, w, 100, f"{name} {sample.attrs}")
