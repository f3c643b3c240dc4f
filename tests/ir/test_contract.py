"""matmul and conv against their definitions; their gradients against the adjoint identity and numbers of any size."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest
from tracefuse.ir import interpreter, ops, subgraph
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import float64, from_numpy, int64
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.op import NO_GRADIENT, REGISTRY, OpDef, VjpContext
from tracefuse.ir.types import TensorType, TypeRuleError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def pullback(op: OpDef, args: tuple, attrs: dict, g, needs=(True, True)) -> tuple:
    types = tuple(a.type if hasattr(a, "type") else TensorType(from_numpy(a.dtype), a.shape) for a in args)
    return op.vjp(VjpContext(args, (None,), types, attrs, needs), g)  # type: ignore[operator]


def check_adjoint(op: OpDef, x: np.ndarray, y: np.ndarray, attrs: dict) -> None:
    """Both ops are bilinear: <g, f(x, y)> = <gx, x> = <gy, y>."""
    out = op.evaluate((x, y), attrs)
    g = normal(*out.shape, seed=5)
    gx, gy = pullback(op, (x, y), attrs, g)
    assert gx.shape == x.shape and gy.shape == y.shape
    expected = (g * out).sum()
    np.testing.assert_allclose((gx * x).sum(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose((gy * y).sum(), expected, rtol=1e-9, atol=1e-9)
    only_x, no_y = pullback(op, (x, y), attrs, g, (True, False))
    no_x, only_y = pullback(op, (x, y), attrs, g, (False, True))
    assert no_x is None and no_y is None
    np.testing.assert_array_equal(only_x, gx)
    np.testing.assert_array_equal(only_y, gy)


@pytest.mark.parametrize(
    "x, y",
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 1)),
        ((1, 3, 4), (2, 4, 5)),
        ((2, 3, 0), (0, 5)),
        ((0, 3, 4), (4, 5)),
        ((2, 0, 4), (2, 4, 5)),
    ],
)
def test_matmul(x, y):
    a, b = normal(*x), normal(*y, seed=1)
    np.testing.assert_allclose(ops.matmul(a, b), np.einsum("...mk,...kn->...mn", a, b), rtol=1e-12)
    check_adjoint(ops.matmul, a, b, {})


def test_matmul_of_strided_operands():
    a, b = normal(4, 2, 3).transpose(1, 0, 2), normal(5, 3, seed=1).T
    np.testing.assert_allclose(ops.matmul(a, b), np.einsum("bmk,kn->bmn", a, b), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_summed_in_float32(dtype):
    """1 + 4096 * 2**-12 is 2 only if the small terms are not rounded away one by one."""
    x = np.full((1, 4097), 2.0**-12, dtype)
    x[0, 0] = 1
    out = ops.matmul(x, np.ones((4097, 1), dtype))
    assert out.dtype == dtype and float(out[0, 0]) == 2
    out = ops.conv(x[None], np.ones((1, 1, 4097), dtype), **conv_attrs(1))
    assert out.dtype == dtype and float(out[0, 0, 0]) == 2


# ------------------------------------------------------------------ conv


def conv_attrs(k: int, **given) -> dict:
    one, none = (1,) * k, (0,) * k
    return {"stride": one, "low": none, "high": none, "lhs_dilation": one, "rhs_dilation": one, "groups": 1} | given


def conv_by_definition(x, w, stride, low, high, lhs_dilation, rhs_dilation, groups):
    k = x.ndim - 2
    length = [(d - 1) * e + 1 for d, e in zip(x.shape[2:], lhs_dilation)]
    reach = [(f - 1) * e + 1 for f, e in zip(w.shape[2:], rhs_dilation)]
    outs = [(n + a + b - r) // s + 1 for n, a, b, r, s in zip(length, low, high, reach, stride)]
    out = np.zeros((x.shape[0], w.shape[0], *outs))
    channels, filters = w.shape[1], w.shape[0] // groups
    for n, o, *at in np.ndindex(out.shape):
        for c, *f in np.ndindex(w.shape[1:]):
            places = [at[i] * stride[i] - low[i] + f[i] * rhs_dilation[i] for i in range(k)]
            if all(0 <= p < n_ and p % e == 0 for p, n_, e in zip(places, length, lhs_dilation)):
                source = tuple(p // e for p, e in zip(places, lhs_dilation))
                out[(n, o, *at)] += x[(n, o // filters * channels + c, *source)] * w[(o, c, *f)]
    return out


def random_conv(seed: int):
    """Operands and attributes of a conv whose filter fits."""
    r = random.Random(seed)
    while True:
        k = r.choice((1, 1, 2, 2, 3))
        pick = lambda *values: tuple(r.choice(values) for _ in range(k))  # noqa: E731
        groups, channels, filters = r.choice((1, 1, 2, 3)), r.choice((1, 2)), r.choice((1, 2))
        spatial, window = pick(1, 2, 4, 5), pick(1, 2, 3)
        attrs = {
            "stride": pick(1, 1, 2, 3),
            "low": pick(-1, 0, 1, 2),
            "high": pick(-1, 0, 1, 2),
            "lhs_dilation": pick(1, 1, 2),
            "rhs_dilation": pick(1, 1, 2),
            "groups": groups,
        }
        x = normal(r.choice((1, 2)), groups * channels, *spatial, seed=seed)
        w = normal(groups * filters, channels, *window, seed=seed + 1)
        try:
            ops.conv.result_types(tuple(TensorType(float64, a.shape) for a in (x, w)), attrs)
            return x, w, attrs
        except TypeRuleError:
            continue


@pytest.mark.parametrize("seed", range(60))
def test_conv(seed):
    x, w, attrs = random_conv(seed)
    out = ops.conv(x, w, **attrs)
    np.testing.assert_allclose(out, conv_by_definition(x, w, **attrs), rtol=1e-10, atol=1e-12)
    check_adjoint(ops.conv, x, w, attrs)


@pytest.mark.parametrize("size, groups, channels", [(16, 1, 3), (3, 1, 3), (12, 2, 2), (9, 4, 1)])
def test_conv_by_every_path(size, groups, channels):
    """Many points, few points, groups, depthwise: each has its own products."""
    x, w = normal(3, groups * channels, size, size), normal(groups, channels, 3, 3, seed=1)
    attrs = conv_attrs(2, low=(1, 1), high=(1, 1), groups=groups)
    np.testing.assert_allclose(ops.conv(x, w, **attrs), conv_by_definition(x, w, **attrs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("x, w", [((0, 2, 4), (3, 2, 2)), ((2, 0, 4), (3, 0, 2)), ((2, 2, 4), (0, 2, 2))])
def test_conv_of_nothing(x, w):
    out = ops.conv(normal(*x), normal(*w), **conv_attrs(1))
    assert out.shape == (x[0], w[0], 3) and not out.any()
    check_adjoint(ops.conv, normal(*x), normal(*w), conv_attrs(1))


@pytest.mark.parametrize("name", ["matmul", "conv"])
def test_vjp_can_be_differentiated_again(name):
    op = REGISTRY[name]
    for s in op.samples():  # type: ignore[misc]
        with GraphBuilder("vjp") as b:
            values = tuple(b.input(TensorType(float64, a.shape)) for a in s.args)
            (t,) = op.result_types(tuple(v.type for v in values), s.attrs)
            ct = pullback(op, values, s.attrs, b.input(t))
            assert tuple(c.type for c in ct) == tuple(v.type for v in values)
        assert all(node.op.vjp != NO_GRADIENT for node in b.nodes)


N, H = symbol("n", 1), symbol("h", 5)


@pytest.mark.parametrize(
    "op, shapes, attrs",
    [
        (ops.matmul, ((N, H, 3), (3, 4)), {}),
        (ops.matmul, ((N, 2, H), (N, H, 2)), {}),
        (ops.conv, ((N, 2, H, 5), (4, 1, 3, 2)), conv_attrs(2, stride=(2, 1), low=(1, 0), high=(1, 0), groups=2)),
        (ops.conv, ((N, 2, H), (3, 2, 3)), conv_attrs(1, lhs_dilation=(2,), rhs_dilation=(2,))),
    ],
    ids=lambda v: v.name if isinstance(v, OpDef) else "",
)
def test_symbolic_sizes(op, shapes, attrs):
    """Forward and vjp, recorded once, run at several sizes."""
    with GraphBuilder("symbolic") as b:
        for d in (N, H):
            b.input(TensorType(int64, (d,)))  # where the interpreter reads the sizes
        values = tuple(b.input(TensorType(float64, shape)) for shape in shapes)
        out = op(*values, **attrs)
        ct = pullback(op, values, attrs, b.input(out.type))
        assert tuple(c.type.shape for c in ct) == shapes
        graph = b.finish((out, *ct))
    for n, h in ((1, 5), (2, 6), (3, 9)):
        args = tuple(normal(*subgraph.concrete_value(s, {"n": n, "h": h}), seed=i) for i, s in enumerate(shapes))
        expected = op.evaluate(args, attrs)
        g = normal(*expected.shape, seed=3)
        got = interpreter.run(graph, (np.zeros(n, np.int64), np.zeros(h, np.int64), *args, g))
        for a, e in zip(got, (expected, *pullback(op, args, attrs, g)), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12)
