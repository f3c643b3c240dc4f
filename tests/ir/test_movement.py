"""Creation, movement, window and indexing ops: values, views, gradients, symbolic shapes."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.ir import interpreter, ops, subgraph
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import float32, float64, from_numpy, int64, uint64
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.op import NO_GRADIENT, REGISTRY, OpDef, VjpContext
from tracefuse.ir.types import TensorType, TypeRuleError

LINEAR = [
    "broadcast_to",
    "reshape",
    "permute",
    "flip",
    "slice",
    "slice_scatter",
    "pad",
    "concat",
    "windows",
    "unwindows",
]
LINEAR += ["gather", "scatter"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def pullback(op: OpDef, args: tuple, attrs: dict, g, out=None) -> tuple:
    """The op's vjp at `args`, wanting every operand's cotangent."""
    types = tuple(a.type if hasattr(a, "type") else TensorType(from_numpy(a.dtype), a.shape) for a in args)
    return op.vjp(VjpContext(args, (out,), types, attrs, (True,) * len(args)), g)  # type: ignore[operator]


def differentiable_samples(name: str):
    for s in REGISTRY[name].samples():  # type: ignore[misc]
        if s.gradcheck:
            args = tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in s.args)
            if args[0].dtype.kind == "f":
                yield args, s.attrs


@pytest.mark.parametrize("name", LINEAR)
def test_vjp_is_the_adjoint(name):
    """These ops are linear up to a constant: <g, f(x) - f(0)> = <vjp(g), x>, exactly."""
    op = REGISTRY[name]
    for args, attrs in differentiable_samples(name):
        floats = [i for i, a in enumerate(args) if a.dtype.kind == "f"]
        zero = tuple(np.zeros_like(a) if i in floats else a for i, a in enumerate(args))
        out = op.evaluate(args, attrs)
        g = normal(*out.shape, seed=1)
        cotangents = pullback(op, args, attrs, g)
        assert len(cotangents) == len(args)
        assert all((ct is None) == (i not in floats) for i, ct in enumerate(cotangents))
        assert all(cotangents[i].shape == args[i].shape for i in floats)
        expected = (g * (out - op.evaluate(zero, attrs))).sum()
        np.testing.assert_allclose(sum((cotangents[i] * args[i]).sum() for i in floats), expected, rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_vjp_can_be_differentiated_again(name):
    """Every op that a vjp rule records on the way from its cotangent has a rule itself, for the same shapes."""
    op = REGISTRY[name]
    for args, attrs in differentiable_samples(name):
        with GraphBuilder("vjp") as b:
            values = tuple(b.input(TensorType(from_numpy(a.dtype), a.shape)) for a in args)
            (t,) = op.result_types(tuple(v.type for v in values), attrs)
            pullback(op, values, attrs, b.input(t))
        for node in tuple(b.nodes):
            assert node.op.vjp != NO_GRADIENT
            if node.inputs and node.out.type.dtype is float64:
                with b:
                    ct = pullback(node.op, node.inputs, node.attrs, b.input(node.out.type), node.out)
                assert all(c is None or c.type == v.type for c, v in zip(ct, node.inputs, strict=True))


def test_views_share_memory():
    x = np.arange(24.0).reshape(4, 6)
    step = {"start": (1, 0), "stop": (4, 6), "step": (2, 1)}
    sliding = {"window": (2,), "stride": (2,), "low": (0,), "high": (0,), "dilation": (1,)}
    for view in (
        ops.reshape(x, shape=(2, 2, 6)),
        ops.permute(x, perm=(1, 0)),
        ops.slice_(x, **step),
        ops.flip(x, axes=(0,)),
        ops.broadcast_to(x, shape=(3, 4, 6)),
        ops.windows(x, **sliding),
    ):
        assert np.shares_memory(view, x)
    for copy in (
        ops.pad(x, low=(0, 0), high=(0, 0)),
        ops.concat(x, axis=0),
        ops.slice_scatter(x, x[1::2], **step),
        ops.gather(x, np.array(1)),
    ):
        assert not np.shares_memory(copy, x)


def test_full_and_iota():
    assert np.signbit(ops.full(value=-0.0, shape=(2,), dtype=float32)).all()
    assert ops.full(value=2**64 - 1, shape=(), dtype=uint64) == 2**64 - 1
    a = ops.iota(shape=(2, 3), axis=1, dtype=int64)
    assert a.tolist() == [[0, 1, 2], [0, 1, 2]] and a.flags.writeable


def test_windows_by_definition():
    x = normal(2, 5, 6)
    attrs = {"window": (2, 3), "stride": (2, 1), "low": (1, 2), "high": (1, 0), "dilation": (2, 2)}
    out = ops.windows(x, fill=9.0, **attrs)
    for c, o1, o2, w1, w2 in np.ndindex(out.shape):
        i, j = o1 * 2 - 1 + w1 * 2, o2 - 2 + w2 * 2
        assert out[c, o1, o2, w1, w2] == (x[c, i, j] if 0 <= i < 5 and 0 <= j < 6 else 9.0)
    g = normal(*out.shape, seed=1)
    back = ops.unwindows(g, size=(5, 6), **attrs)
    for c, i, j, w1, w2 in np.ndindex(back.shape):
        a, b = i + 1 - w1 * 2, j + 2 - w2 * 2
        inside = a % 2 == 0 and 0 <= a // 2 < out.shape[1] and 0 <= b < out.shape[2]
        assert back[c, i, j, w1, w2] == (g[c, a // 2, b, w1, w2] if inside else 0)


def test_scatter_add_counts_duplicates_and_set_keeps_the_last():
    x, i = np.zeros(3), np.array([1, 1, -2, 0])
    u = np.array([1.0, 2, 4, 8])
    assert ops.scatter(x, u, i, mode="add").tolist() == [8, 7, 0]
    assert ops.scatter(x, u, i).tolist() == [8, 4, 0]
    assert x.tolist() == [0, 0, 0]


def test_scatter_is_the_inverse_of_gather():
    x = normal(4, 5, 3)
    i, j = np.array([[0], [-1]]), np.array([4, 0, 2], np.int32)
    picked = ops.gather(x, i, j)
    assert picked.shape == (2, 3, 3)
    np.testing.assert_array_equal(picked, x[i, j])
    np.testing.assert_array_equal(ops.scatter(x, picked, i, j), x)


def test_out_of_range_names_index_and_size():
    x = normal(3, 2)
    for call in (
        lambda: ops.gather(x, np.array([0, -4])),
        lambda: ops.scatter(x, normal(1, 2), np.array([-4])),
        lambda: ops.check_index(np.array([1, -4]), size=3),
    ):
        with pytest.raises(IndexError, match="index -4 is out of bounds.*size 3"):
            call()


# ------------------------------------------------------------------ symbolic sizes

B, S = symbol("b", 1), symbol("s", 4)
CASES = [
    (ops.broadcast_to, [(1, 3)], {"shape": (B, 1, 3)}),
    (ops.broadcast_to, [(S,)], {"shape": (2, S)}),
    (ops.reshape, [(B, S, 6)], {"shape": (B * S, 2, 3)}),
    (ops.permute, [(B, 2, S)], {"perm": (2, 0, 1)}),
    (ops.flip, [(B, S)], {"axes": (1,)}),
    (ops.slice_, [(B, S)], {"start": (0, 1), "stop": (B, S - 1), "step": (1, 2)}),
    (ops.slice_, [(B, S)], {"start": (0, S - 3), "stop": (B, S), "step": (1, 1)}),
    (ops.slice_scatter, [(B, S), (B, S - 2)], {"start": (0, 1), "stop": (B, S - 1), "step": (1, 1)}),
    (ops.pad, [(B, S)], {"low": (0, B), "high": (1, 2), "value": 0}),
    (ops.concat, [(B, S), (B, 3), (B, S)], {"axis": 1}),
    (ops.windows, [(B, S)], {"window": (3,), "stride": (2,), "low": (1,), "high": (1,), "dilation": (1,), "fill": 0}),
    (
        ops.unwindows,
        [(B, (S - 3) // 2 + 1, 3)],
        {"size": (S,), "window": (3,), "stride": (2,), "low": (0,), "high": (0,), "dilation": (1,)},
    ),
]


@pytest.mark.parametrize("op, shapes, attrs", CASES, ids=lambda v: v.name if isinstance(v, OpDef) else "")
def test_symbolic_sizes_give_the_same_graph_for_every_size(op, shapes, attrs):
    """Forward and vjp, recorded once and run at several sizes, equal the references at these sizes."""
    with GraphBuilder("symbolic") as b:
        for d in (B, S):
            b.input(TensorType(int64, (d,)))  # where the interpreter reads the sizes
        values = tuple(b.input(TensorType(float64, shape)) for shape in shapes)
        out = op(*values, **attrs)
        g = b.input(out.type)
        graph = b.finish((out, *pullback(op, values, attrs, g, out)))
    for n, s in ((1, 4), (3, 7), (2, 10)):
        env = {"b": n, "s": s}
        concrete = {k: subgraph.concrete_value(v, env) for k, v in attrs.items()}
        args = tuple(normal(*subgraph.concrete_value(shape, env), seed=i) for i, shape in enumerate(shapes))
        expected = op.evaluate(args, concrete)
        ct = normal(*expected.shape, seed=9)
        got = interpreter.run(graph, (np.zeros(n, np.int64), np.zeros(s, np.int64), *args, ct))
        for a, e in zip(got, (expected, *pullback(op, args, concrete, ct)), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-12)


def test_certain_violations_are_refused_with_symbolic_sizes():
    x = TensorType(float32, (B, S))
    with pytest.raises(TypeRuleError, match="within"):
        ops.slice_.result_types((x,), {"start": (0, 0), "stop": (B, S + 1), "step": (1, 1)})
    with pytest.raises(TypeRuleError, match="elements"):
        ops.reshape.result_types((x,), {"shape": (B, S + 1)})
    with pytest.raises(TypeRuleError, match="broadcast"):
        ops.broadcast_to.result_types((x,), {"shape": (S, B)})
