"""Kernels are told which of their buffers begin at multiples of 16 bytes. The emulated device refuses what is not so."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.interpreter import run as interpret
from tracefuse.ir.subgraph import graph_of
from tracefuse.ir.types import TensorType
from tracefuse.runtime.cuda.alignment import Alignment
from tracefuse.runtime.cuda.array import to_device
from tracefuse.runtime.cuda.device import gpu
from tracefuse.runtime.cuda.driver import DeviceError
from tracefuse.runtime.cuda.executable import build


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def rows(n: int):
    """tanh(w @ (h * x[t])) step by step: kernels that are one but for where they read."""

    def steps(x, h, w):
        for t in range(4):
            row = ops.reshape(ops.slice_(x, start=(t, 0), stop=(t + 1, n), step=(1, 1)), shape=(n,))
            h = ops.tanh(ops.reduce_sum(ops.mul(w, ops.mul(h, row)), axes=(1,)))
        return h

    return graph_of(steps, [TensorType(float32, s) for s in ((4, n), (n,), (n, n))])


def scan(n: int):
    row = TensorType(float32, (n,))
    body = graph_of(lambda c, x: (ops.add(c, x), ops.mul(c, x)), [row, row])
    attrs = {"carried": 1, "scanned": 1, "length": 4, "reverse": False}
    return graph_of(lambda c, x: ops.scan_(c, x, body=body, **attrs), [row, TensorType(float32, (4, n))])


def unaligned(graph) -> set[str]:
    return set().union(*(w.unaligned for w in Alignment(build(graph, gpu(0)).plan).work()))


@pytest.mark.parametrize("n", [5, 8])
def test_rows_of_a_matrix(n):
    graph, given = rows(n), (normal(4, n), normal(n), normal(n, n))
    (y,) = build(graph, gpu(0)).run([to_device(gpu(0), a) for a in given])
    np.testing.assert_allclose(y.numpy(), interpret(graph, given)[0], rtol=1e-4, atol=1e-5)
    assert bool(unaligned(graph)) == (n == 5)


@pytest.mark.parametrize("n", [5, 8])
def test_rows_of_a_scan(n):
    graph, given = scan(n), (normal(n), normal(4, n))
    got = build(graph, gpu(0)).run([to_device(gpu(0), a) for a in given])
    for y, want in zip(got, interpret(graph, given), strict=True):
        np.testing.assert_allclose(y.numpy(), want, rtol=1e-5)
    assert bool(unaligned(graph)) == (n == 5)


def test_copies_of_views_that_begin_anywhere():
    x = to_device(gpu(0), normal(9, 9))
    part = x.view((8, 8), x.strides, 4)
    np.testing.assert_array_equal(part.copy().numpy(), normal(9, 9).reshape(-1)[1:73].reshape(8, 9)[:, :8])


def test_the_emulated_device_refuses_what_is_not_aligned():
    e = build(graph_of(lambda x: ops.exp(x), [TensorType(float32, (4,))]), gpu(0))
    x = to_device(gpu(0), normal(8))
    with pytest.raises(DeviceError, match="at a multiple of 16 bytes"):
        e.program.run([x.address + 4], [x.address], {})
