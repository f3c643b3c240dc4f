"""Gradients of every differentiable op, three ways: the eager tape, a compiled value_and_grad, and differences of values.

Each op's samples are one function: the sum of a random projection of every result. The tape runs the ops' NumPy references,
the compiled function one joint graph on the LLVM backend.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.op import NO_GRADIENT, REGISTRY, OpDef, Sample

import tracefuse as tr

DIFFERENTIABLE = sorted(n for n, op in REGISTRY.items() if op.vjp != NO_GRADIENT and op.operands and op.samples)
TOLERANCE = {2: 2e-2, 4: 2e-5, 8: 1e-10}  # by itemsize; relative to the largest gradient of the operand


def floating(a: np.ndarray) -> bool:
    return from_numpy(a.dtype).is_floating


WITHOUT_GRADIENT = {  # samples whose gradient is refused, with an error that says so
    "qr": lambda s: s.attrs["mode"] == "complete" and s.args[0].shape[-2] > s.args[0].shape[-1],
    "while_vjp": lambda s: True,
}


def samples_of(op: OpDef, smooth: bool) -> list[Sample]:
    """The samples with a floating operand: those away from kinks and infinities, or the others."""
    assert op.samples is not None
    without = WITHOUT_GRADIENT.get(op.name, lambda s: False)
    return [s for s in op.samples() if s.gradcheck is smooth and any(map(floating, s.args)) and not without(s)]


def projections(op: OpDef, samples: list[Sample]) -> list[list[np.ndarray]]:
    """For each sample an array like each of its results."""
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    found = []
    for s in samples:
        with np.errstate(all="ignore"):
            out = op.evaluate(s.args, s.attrs)
        outs = out if isinstance(out, tuple) else (out,)
        found.append([np.asarray(rng.uniform(0.5, 1.5, o.shape)).astype(o.dtype) for o in outs])
    return found


def projected(op: OpDef, samples: list[Sample]) -> Callable:
    """f(differentiated, others): both lists of tensors, in the samples' order."""
    weights = [[tr.asarray(w) for w in ws] for ws in projections(op, samples)]
    kinds = [[floating(a) for a in s.args] for s in samples]
    attrs = [s.attrs for s in samples]

    def f(differentiated, others):
        total = tr.zeros((), dtype=tr.float64)
        at_floating = at_other = 0
        for k in range(len(attrs)):
            args = []
            for is_floating in kinds[k]:
                if is_floating:
                    args.append(differentiated[at_floating])
                    at_floating += 1
                else:
                    args.append(others[at_other])
                    at_other += 1
            out = op(*args, **attrs[k])
            outs = out if isinstance(out, tuple) else (out,)
            for i in range(len(outs)):
                if outs[i].dtype.is_floating:
                    total = total + (outs[i] * weights[k][i]).sum().astype(tr.float64)
        return total

    return f


def operands(samples: list[Sample]) -> tuple[list[tr.Tensor], list[tr.Tensor]]:
    arrays = [a for s in samples for a in s.args]
    return [tr.tensor(a) for a in arrays if floating(a)], [tr.tensor(a) for a in arrays if not floating(a)]


def assert_same_gradients(op: OpDef, samples: list[Sample], factor: float = 1.0) -> None:
    f, (differentiated, others) = projected(op, samples), operands(samples)
    with np.errstate(all="ignore"):
        value, grads = tr.value_and_grad(f)(differentiated, others)
        compiled = tr.compile(tr.value_and_grad(f), fullgraph=True)
        compiled_value, compiled_grads = compiled(differentiated, others)
    assert compiled.cache_info()["eager"] == 0
    np.testing.assert_allclose(float(compiled_value), float(value), rtol=1e-3 * factor)
    for x, want, got in zip(differentiated, grads, compiled_grads, strict=True):
        assert got.shape == want.shape and got.dtype is want.dtype
        w, g = (np.asarray(t.astype(tr.float64)) for t in (want, got))
        tolerance = TOLERANCE[x.itemsize] * factor
        scale = np.max(np.abs(w[np.isfinite(w)]), initial=0.0)
        message = f"{op.name} of {x.dtype}{list(x.shape)}"
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * scale + 1e-12, err_msg=message)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiled_gradients_equal_eager_ones(name):
    op = REGISTRY[name]
    samples = samples_of(op, smooth=True)
    if samples:
        assert_same_gradients(op, samples)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_at_kinks_and_infinities(name):
    """Ties, zeros, NaN and infinities get the same gradients compiled as eagerly, the same NaN included."""
    op = REGISTRY[name]
    samples = samples_of(op, smooth=False)
    if samples:
        assert_same_gradients(op, samples)


DIFFERENCED = """
add mul div pow where maximum exp log tanh erf gelu silu softplus atan2 logaddexp lgamma broadcast_to permute slice pad
concat gather scatter windows unwindows reduce_sum reduce_prod reduce_max matmul conv mean var softmax log_softmax
cross_entropy layer_norm rms_norm batch_norm
""".split()


@pytest.mark.parametrize("name", DIFFERENCED)
def test_compiled_gradients_are_slopes_of_compiled_values(name):
    """Along a random direction, in float64: (f(x + h d) - f(x - h d)) / 2h = <gradient, d>."""
    op = REGISTRY[name]
    samples = [
        Sample(tuple(np.asarray(a, np.float64) if a.dtype == np.float32 else a for a in s.args), s.attrs)
        for s in samples_of(op, smooth=True)
        if all(a.dtype == np.float32 or not floating(a) for a in s.args)
    ]
    f, (differentiated, others) = projected(op, samples), operands(samples)
    compiled = tr.compile(tr.value_and_grad(f), fullgraph=True)
    rng, h = np.random.default_rng(0), 1e-6
    directions = [tr.tensor(rng.uniform(-1, 1, tuple(x.shape))) for x in differentiated]
    _, grads = compiled(differentiated, others)
    above, _ = compiled([x + h * d for x, d in zip(differentiated, directions)], others)
    below, _ = compiled([x - h * d for x, d in zip(differentiated, directions)], others)
    slope = sum(float((g * d).sum()) for g, d in zip(grads, directions))
    size = sum(float((g * d).abs().sum()) for g, d in zip(grads, directions))
    np.testing.assert_allclose((float(above) - float(below)) / (2 * h), slope, rtol=1e-6, atol=1e-6 * max(size, 1.0))
    assert compiled.cache_info()["misses"] == 1
