"""Kernels written by hand in Kernel IR: the fusions that the form has to be able to say."""

from __future__ import annotations

from dataclasses import replace

from tracefuse.ir import dim
from tracefuse.ir.dim import DimLike
from tracefuse.ir.dtypes import float32, int64
from tracefuse.ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store, size_symbols
from tracefuse.ir.scalar import apply, cast, const, in_bounds, index, load, result, select

EPS = 1e-5


def axis(name: str, extent: DimLike) -> Axis:
    return Axis(dim.symbol(name, 0, extent - 1), extent)


def matrix(name: str, n: DimLike, m: DimLike, role: str = "in", dtype=float32) -> Buffer:
    return Buffer(name, dtype, (n, m), (m, 1), role)


def vector(name: str, n: DimLike, role: str = "in", dtype=float32) -> Buffer:
    return Buffer(name, dtype, (n,), (1,), role)


def finished(name: str, params: tuple[Buffer, ...], axes: tuple[Axis, ...], *stages: Stage) -> Kernel:
    kernel = Kernel(name, params, axes, stages)
    return replace(kernel, dims=size_symbols(kernel))


def count(n: DimLike):
    return const(n, float32) if isinstance(n, int) else cast(index(n), float32)


def total(name: str, value) -> Reduction:
    return Reduction((name,), "sum", (value,), float32)


def softmax(n: DimLike, m: DimLike) -> Kernel:
    """y[n, m] = softmax of the rows of x: a maximum, a sum that reads it, and a store that reads both."""
    i, j = axis("i", n), axis("j", m)
    x = load(float32, "x", (i.sym, j.sym))
    e = apply("exp", x - result("top", float32))
    return finished(
        "softmax",
        (matrix("x", n, m), matrix("y", n, m, "out")),
        (i,),
        Stage((j,), (Reduction(("top",), "max", (x,), float32),)),
        Stage((j,), (total("s", e),)),
        Stage((j,), stores=(Store("y", (i.sym, j.sym), e / result("s", float32)),)),
    )


def layer_norm_backward(n: DimLike, m: DimLike) -> Kernel:
    """dx[n, m] for x, dy [n, m] and weight w [m], with the statistics that dw needs stored on the way: four stages, two
    reductions in one of them, stores of rows and of single values."""
    i, j = axis("i", n), axis("j", m)
    at = (i.sym, j.sym)
    x, dy, w = load(float32, "x", at), load(float32, "dy", at), load(float32, "w", (j.sym,))
    mean = result("sx", float32) / count(m)
    rstd = apply("rsqrt", result("sxx", float32) / count(m) + EPS)
    normal, g = (x - mean) * rstd, dy * w
    dx = rstd * (g - result("sg", float32) / count(m) - normal * (result("sgx", float32) / count(m)))
    return finished(
        "layer_norm_backward",
        (
            matrix("x", n, m), matrix("dy", n, m), vector("w", m),
            matrix("dx", n, m, "out"), vector("mean", n, "out"), vector("rstd", n, "out"),
        ),
        (i,),
        Stage((j,), (total("sx", x),)),
        Stage((j,), (total("sxx", (x - mean) * (x - mean)),)),
        Stage((), stores=(Store("mean", (i.sym,), mean), Store("rstd", (i.sym,), rstd))),
        Stage((j,), (total("sg", g), total("sgx", g * normal))),
        Stage((j,), stores=(Store("dx", at, dx),)),
    )  # fmt: skip


def layer_norm_weights(n: DimLike, m: DimLike) -> Kernel:
    """dw[m] and db[m]: sums down the columns."""
    i, j = axis("i", n), axis("j", m)
    at = (i.sym, j.sym)
    x, dy = load(float32, "x", at), load(float32, "dy", at)
    normal = (x - load(float32, "mean", (i.sym,))) * load(float32, "rstd", (i.sym,))
    stores = (Store("dw", (j.sym,), result("sw", float32)), Store("db", (j.sym,), result("sb", float32)))
    return finished(
        "layer_norm_weights",
        (
            matrix("x", n, m), matrix("dy", n, m), vector("mean", n), vector("rstd", n),
            vector("dw", m, "out"), vector("db", m, "out"),
        ),
        (j,),
        Stage((i,), (total("sw", dy * normal), total("sb", dy))),
        Stage((), stores=stores),
    )  # fmt: skip


def argmax(n: DimLike, m: DimLike) -> Kernel:
    """at[n] and top[n]: the first largest element of each row, NaN above all: a reduction of pairs."""
    i, j = axis("i", n), axis("j", m)
    x = load(float32, "x", (i.sym, j.sym))
    stores = (Store("at", (i.sym,), result("p", int64)), Store("top", (i.sym,), result("v", float32)))
    return finished(
        "argmax",
        (matrix("x", n, m), vector("at", n, "out", int64), vector("top", n, "out")),
        (i,),
        Stage((j,), (Reduction(("v", "p"), "argmax", (x, index(j.sym)), float32),)),
        Stage((), stores=stores),
    )


def concat_gather(n: DimLike, m: DimLike, k: DimLike, rows: DimLike) -> Kernel:
    """y[n, m + k] = relu(concat(table[ids], x)): a computed address on one side of a predicate, a shifted one on the other.

    table [rows, m], ids [n], x [n, k]."""
    i, j = axis("i", n), axis("j", m + k)
    left, right = (m - 1 - j.sym,), (j.sym - m,)
    picked = load(float32, "table", (load(int64, "ids", (i.sym,)), j.sym), left)
    value = select(in_bounds(left), picked, load(float32, "x", (i.sym, j.sym - m), right))
    return finished(
        "concat_gather",
        (matrix("table", rows, m), vector("ids", n, dtype=int64), matrix("x", n, k), matrix("y", n, m + k, "out")),
        (i, j),
        Stage((), stores=(Store("y", (i.sym, j.sym), apply("max", value, 0.0)),)),
    )
