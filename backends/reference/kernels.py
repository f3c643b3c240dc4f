"""Interprets Kernel IR with NumPy: what a fused kernel and a whole plan mean, without any generated code.

Every stage is evaluated on the whole grid of its outer and inner points at once, so memory grows with that grid: this
is for checking other backends, not for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.interpreter import concrete_attrs
from ...ir.kernel import Axis, Buffer, Contraction, Kernel, Reduction, Schedule, Stage, Store
from ...ir.plan import ControlStep, HostStep, Plan
from ...ir.scalar import Expr, load, transform
from .attention import run_attention
from .scalar_eval import evaluate, evaluate_all, holds, index_value

Env = dict[object, np.ndarray]
KernelRunner = Callable[[Kernel, dict[str, np.ndarray], dict[str, int], Schedule | None], None]


def run_kernel(
    kernel: Kernel, buffers: Mapping[str, np.ndarray], dims: Mapping[str, int], schedule: Schedule | None = None
) -> None:
    """Runs `kernel` on `buffers` (one C-contiguous array for each parameter that is not scratch), writing its outputs
    in place. `dims`: the symbolic sizes by name. `schedule`: none of its business. IndexError if a load or store leaves its buffer."""
    _KernelRun(_with_outer_scratch(kernel), buffers, dims).run()


class _KernelRun:
    def __init__(self, kernel: Kernel, buffers: Mapping[str, np.ndarray], dims: Mapping[str, int]):
        self.kernel, self.dims = kernel, dims
        self.views = {b.name: self._view(b, buffers.get(b.name)) for b in kernel.params}
        self.outer = self._extents(kernel.axes)
        self.results: dict[str, np.ndarray] = {}  # of reductions and contractions, each of the outer shape
        self.anchored: dict[str, tuple[tuple[Axis, ...], np.ndarray]] = {}  # results that have axes of their own

    def run(self) -> None:
        anchor = self.kernel.anchor
        if isinstance(anchor, Contraction):
            self.results[anchor.name] = self._contract(anchor)
        elif anchor is not None:
            found = run_attention(anchor, self._values)
            self.anchored = {name: (anchor.axes_of(k), found[k]) for k, name in enumerate(anchor.names)}
        for stage in self.kernel.stages:
            self._stage(stage)

    # ---- index grids
    def _extents(self, axes: Iterable[Axis]) -> tuple[int, ...]:
        return tuple(dim.evaluate(a.extent, self.dims) for a in axes)

    def _env(self, axes: Sequence[Axis]) -> Env:
        """Buffers, sizes, and the index grids of `axes`, each along its own dimension."""
        env: Env = {**self.views}
        for d in self.kernel.dims:
            env[d] = np.asarray(self.dims[str(d)], np.int64)
        for k, (axis, n) in enumerate(zip(axes, self._extents(axes), strict=True)):
            env[axis.sym] = np.arange(n, dtype=np.int64).reshape(-1, *(1,) * (len(axes) - 1 - k))
        return env

    def _view(self, b: Buffer, array: np.ndarray | None) -> np.ndarray:
        shape = tuple(dim.evaluate(n, self.dims) for n in b.shape)
        if array is None:
            assert b.role == "scratch", f"no array for parameter {b.name}"
            array = np.zeros(shape, b.dtype.np)
        assert array.dtype == b.dtype.np and array.flags.c_contiguous, f"{b.name} needs a contiguous {b.dtype} array"
        strides = tuple(dim.evaluate(s, self.dims) * b.dtype.itemsize for s in b.strides)
        return np.lib.stride_tricks.as_strided(array, shape, strides)

    # ---- stages
    def _stage(self, stage: Stage) -> None:
        env = self._env((*self.kernel.axes, *stage.axes))
        for name, value in self.results.items():
            env[name] = value.reshape(self.outer + (1,) * len(stage.axes))
        for name, (axes, value) in self.anchored.items():
            env[name] = self._along(value, axes, (*self.kernel.axes, *stage.axes))
        grid = self.outer + self._extents(stage.axes)
        roots = tuple(x for r in stage.reductions for x in r.inputs)
        values = iter([np.broadcast_to(v, grid) for v in evaluate_all(roots, env)])
        found: dict[str, np.ndarray] = {}
        inside = self._inside(stage, env, grid)
        for r in stage.reductions:
            inputs = [next(values).reshape(*self.outer, -1) for _ in r.inputs]
            if r.running:
                env[r.names[0]] = _RUNNING[r.kind](inputs[0].astype(r.dtype.np))
                continue
            if stage.span is not None:
                inputs = [np.where(inside, x, _neutral(r)) for x in inputs]
            found |= zip(r.names, fold(r, inputs), strict=True)
        stored = evaluate_all(tuple(s.value for s in stage.stores), env)
        for store, value in zip(stage.stores, stored, strict=True):
            self._store(store, value, env, grid)
        self.results |= found

    def _inside(self, stage: Stage, env: Env, grid: tuple[int, ...]) -> np.ndarray:
        """Which points of the stage are in its span."""
        if stage.span is None:
            return np.ones((), np.bool_)
        first, end = (evaluate(e, env) for e in stage.span)
        at = env[stage.axes[0].sym]
        return np.broadcast_to((first <= at) & (at < end), grid)

    def _store(self, store: Store, value: np.ndarray, env: Env, grid: tuple[int, ...]) -> None:
        target = self.views[store.buffer]
        live = np.broadcast_to(holds(store.mask, env), grid)
        at = tuple(np.broadcast_to(self._index(i, env), grid)[live] for i in store.index)
        for k, (position, size) in enumerate(zip(at, target.shape, strict=True)):
            if position.size and not (0 <= position.min() and position.max() < size):
                raise IndexError(f"a store to {store.buffer} leaves axis {k} of size {size}")
        chosen = np.broadcast_to(value, grid)[live].astype(target.dtype, copy=False)
        if store.accumulate:
            _JOINS[store.accumulate].at(target, at, chosen)
        else:
            target[at] = chosen

    def _index(self, i: DimLike | Expr, env: Env) -> np.ndarray:
        return evaluate(i, env) if isinstance(i, Expr) else index_value(i, env)

    # ---- anchors
    def _contract(self, c: Contraction) -> np.ndarray:
        """The contraction at every outer point, accumulated in its dtype."""
        batch, m, n, k = (self._extents(axes) for axes in (c.batch, c.m, c.n, c.k))
        lhs = self._operand(c.lhs, (*c.batch, *c.m, *c.k), c).reshape(*batch, int(np.prod(m)), -1)
        rhs = self._operand(c.rhs, (*c.batch, *c.k, *c.n), c).reshape(*batch, int(np.prod(k)), -1)
        return np.matmul(lhs, rhs).reshape(*batch, *m, *n)

    def _along(self, value: np.ndarray, own: tuple[Axis, ...], axes: Sequence[Axis]) -> np.ndarray:
        """A value over `own` axes, which are in the order of `axes`, along the dimensions of these. The last of its own
        axes may be missing there: then nothing reads it."""
        sizes = {a.sym: n for a, n in zip(own, value.shape, strict=True)}
        if any(a not in axes for a in own):
            return value
        return value.reshape([sizes.get(a.sym, 1) for a in axes])

    def _values(self, e: Expr, axes: tuple[Axis, ...], results: Mapping[str, np.ndarray]) -> np.ndarray:
        """An expression at all points of some axes, given results over them."""
        return np.broadcast_to(evaluate(e, {**self._env(axes), **results}), self._extents(axes))

    def _operand(self, e: Expr, axes: tuple[Axis, ...], c: Contraction) -> np.ndarray:
        value = evaluate(e, self._env(axes)).astype(c.dtype.np, copy=False)
        return np.broadcast_to(value, self._extents(axes))


def _with_outer_scratch(kernel: Kernel) -> Kernel:
    """Scratch holds one outer point's values; with all points evaluated at once it needs the outer axes too."""
    scratch = {b.name for b in kernel.params if b.role == "scratch"}
    if not scratch:
        return kernel
    outer = tuple(a.sym for a in kernel.axes)

    def widened(b: Buffer) -> Buffer:
        shape = (*(a.extent for a in kernel.axes), *b.shape)
        return replace(b, shape=shape, strides=dim.contiguous_strides(shape))

    def leaf(e: Expr) -> Expr | None:
        if e.op == "load" and e.attr.buffer in scratch:
            return load(e.dtype, e.attr.buffer, (*outer, *e.attr.index), e.attr.mask)
        return None

    memo: dict[int, Expr] = {}
    stages = tuple(
        Stage(
            s.axes,
            tuple(replace(r, inputs=tuple(transform(x, leaf, memo) for x in r.inputs)) for r in s.reductions),
            tuple(
                replace(
                    x,
                    value=transform(x.value, leaf, memo),
                    index=(*outer, *x.index) if x.buffer in scratch else x.index,
                )
                for x in s.stores
            ),
        )
        for s in kernel.stages
    )
    params = tuple(widened(b) if b.role == "scratch" else b for b in kernel.params)
    return replace(kernel, params=params, stages=stages)


_FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
    "any": np.logical_or.reduce,
    "all": np.logical_and.reduce,
}


_RUNNING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda x: np.add.accumulate(x, axis=-1, dtype=x.dtype),
    "prod": lambda x: np.multiply.accumulate(x, axis=-1, dtype=x.dtype),
    "sort": lambda x: np.sort(x, axis=-1),
}
_JOINS: dict[str, np.ufunc] = {"add": np.add, "max": np.maximum}


def fold(r: Reduction, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results of a reduction whose inputs have the folded points along their last axis."""
    value = inputs[0].astype(r.dtype.np, copy=False)
    with np.errstate(all="ignore"):
        if r.kind in ("argmax", "argmin"):
            at = (np.argmax if r.kind == "argmax" else np.argmin)(value, axis=-1)[..., None]
            return tuple(np.take_along_axis(x, at, -1)[..., 0] for x in (value, inputs[1]))
        if r.kind == "welford":
            mean = value.mean(axis=-1, dtype=r.dtype.np)
            return mean, np.square(value - mean[..., None]).sum(axis=-1, dtype=r.dtype.np)
        if r.kind in ("sum", "prod"):
            return (_FOLDS[r.kind](value, axis=-1, dtype=r.dtype.np),)
        if r.kind in ("max", "min"):
            return (_FOLDS[r.kind](value, axis=-1, initial=_neutral(r)),)
        return (_FOLDS[r.kind](value, axis=-1),)


def _neutral(r: Reduction) -> Any:
    """What a sum, product, maximum or minimum over nothing is."""
    if r.kind in ("sum", "prod"):
        return r.dtype.np.type(r.kind == "prod")
    up = r.kind == "max"
    if r.dtype.kind == "f":
        return r.dtype.np.type(-np.inf if up else np.inf)
    if r.dtype.kind == "b":
        return not up
    limits = np.iinfo(r.dtype.np)
    return limits.min if up else limits.max


# ------------------------------------------------------------------ plans


def run_plan(
    plan: Plan,
    inputs: Sequence[np.ndarray],
    run: KernelRunner = run_kernel,
    sizes: Mapping[str, int] | None = None,
) -> list[np.ndarray]:
    """The plan's outputs, checks left out. Inputs that the plan writes are copied first; such an output is the new contents.

    `run`: runs one kernel in place, given its arrays by parameter name, the sizes and its schedule; another backend may take part
    here. Temporaries share memory as the plan says. `sizes`: the symbolic ones, for plans inside of others. IndexError
    with the message of a check that failed.
    """
    dims = bind_sizes(plan, inputs) if sizes is None else dict(sizes)
    arena = np.full(dim.evaluate(plan.arena, dims), 0xA5, np.uint8)  # what was never written should show
    arrays: list[np.ndarray] = []
    for b in plan.buffers:
        shape = tuple(dim.evaluate(n, dims) for n in b.type.shape)
        if b.kind == "input":
            arrays.append(np.array(inputs[b.slot], order="C"))
        elif b.kind == "constant":
            arrays.append(np.ascontiguousarray(plan.constants[b.slot]).reshape(shape))
        elif b.kind == "output":
            arrays.append(np.empty(shape, b.type.dtype.np))
        else:
            start, size = dim.evaluate(b.offset, dims), int(np.prod(shape)) * b.type.dtype.itemsize
            arrays.append(arena[start : start + size].view(b.type.dtype.np).reshape(shape))
    for number, step in enumerate(plan.steps):
        if number == plan.commit_from:
            _raise_failed(plan, arrays)
        if isinstance(step, HostStep):
            _run_on_host(step, arrays, dims)
            continue
        if isinstance(step, ControlStep):
            _run_control(step, arrays, dims, run)
            continue
        params = [p for p in step.kernel.params if p.role != "scratch"]
        offsets = step.offsets or (0,) * len(step.args)
        given = {p.name: _from(arrays[b], o, p) for p, b, o in zip(params, step.args, offsets, strict=True)}
        run(step.kernel, given, dims, step.schedule)
    _raise_failed(plan, arrays)
    checks = {b for b, _ in plan.checks}
    return [arrays[b] for b in plan.outputs if b not in checks]


def _run_on_host(step: HostStep, arrays: list[np.ndarray], dims: Mapping[str, int]) -> None:
    node = step.node
    shapes = [tuple(dim.evaluate(d, dims) for d in v.shape) for v in node.inputs]
    operands = tuple(arrays[b].reshape(s) for b, s in zip(step.args, shapes, strict=True))
    out = node.op.evaluate(operands, concrete_attrs(node, dims))
    for b, result in zip(step.results, out if isinstance(out, tuple) else (out,), strict=True):
        if b >= 0:
            arrays[b][...] = result


def _run_control(step: ControlStep, arrays: list[np.ndarray], dims: Mapping[str, int], run: KernelRunner) -> None:
    """The op's meaning, with the plans in place of the graphs."""
    node = step.node
    shapes = [tuple(dim.evaluate(d, dims) for d in v.shape) for v in node.inputs]
    operands = [arrays[b].reshape(s) for b, s in zip(step.args, shapes, strict=True)]
    attrs = concrete_attrs(node, dims)

    def call(k: int, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        return run_plan(step.plans[k], values, run, dims)

    if node.op.name == "cond":
        out = call(0 if operands[0] else 1, operands[1:])
    elif node.op.name == "while":
        n = attrs["carried"]
        out, rest = operands[:n], operands[n:]
        while call(0, [*out, *rest])[0]:
            out = call(1, [*out, *rest])
    else:
        n, end = attrs["carried"], attrs["carried"] + attrs["scanned"]
        carry, rows = operands[:n], operands[n:end]
        for i in reversed(range(attrs["length"])) if attrs["reverse"] else range(attrs["length"]):
            found = call(0, [*carry, *(x[i, ...] for x in rows), *operands[end:]])
            carry = found[:n]
            for b, y in zip(step.results[n:], found[n:]):
                arrays[b][i] = y
        out = carry
    for b, result in zip(step.results, out):
        arrays[b][...] = result


def _from(array: np.ndarray, offset: int, param: Buffer) -> np.ndarray:
    """The memory of `array` from element `offset` on. Complex numbers are copied as pairs."""
    if array.dtype != param.dtype.np:
        array = array.reshape(-1).view(param.dtype.np)
    return array.reshape(-1)[offset:] if offset else array


def _raise_failed(plan: Plan, arrays: list[np.ndarray]) -> None:
    for b, message in plan.checks:
        if b >= 0 and arrays[b].any():
            raise IndexError(message)


def bind_sizes(plan: Plan, inputs: Sequence[np.ndarray]) -> dict[str, int]:
    """The plan's symbolic sizes, read off the inputs where a whole axis is one."""
    wanted: dict[Dim, str] = {d: str(d) for d in plan.dims}
    out: dict[str, int] = {}
    for b in plan.buffers:
        if b.kind == "input":
            for d, size in zip(b.type.shape, inputs[b.slot].shape, strict=True):
                if isinstance(d, Dim) and d in wanted:
                    out.setdefault(wanted[d], size)
    return out
