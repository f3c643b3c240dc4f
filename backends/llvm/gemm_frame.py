"""A phase function under construction: its arguments, sizes, loops, and the binding of flattened indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType
from ...ir.kernel import Kernel, Store
from ...ir.scalar import Expr
from ...ir.target import Target
from .builder import Function, Loop, Module, Val, i64, literal, scalar_type, vec, vector_of
from .gemm_sides import Side
from .masked import masked_load, masked_store

PHASE_PARAMS = [("ptr noalias", "bufs"), ("ptr noalias", "dims"), ("i64", "begin"), ("i64", "end"), ("i64", "thread")]


class ElementEmitter(Protocol):
    """What contractions need of the evaluator of scalar expressions (elements.py)."""

    def enter(self, loop: Loop, sym: Dim | None = None) -> None: ...
    def leave(self) -> None: ...
    def scope(self) -> Any: ...
    def bind(self, sym: Dim, value: Val) -> None: ...
    def vector(self, sym: Dim, base: Val, lanes: int, aligned: bool = False) -> None: ...
    def scalar(self) -> None: ...
    def define(self, name: str, value: Val) -> None: ...
    def index(self, d: DimLike) -> Val: ...
    def value(self, e: Expr, lanes: int | None = None, mask: Val | None = None) -> Val: ...
    def stores(self, stores: Iterable[Store], lanes: int | None = None, mask: Val | None = None) -> None: ...


EmitterFactory = Callable[[Function, Kernel, Target, dict[str, Val], dict[Dim, Val]], ElementEmitter]


class Frame:
    """`void f(ptr bufs, ptr dims, i64 begin, i64 end, i64 thread)` with its pointers loaded and an emitter on top."""

    def __init__(
        self, module: Module, symbol: str, kernel: Kernel, target: Target, emit: EmitterFactory, thread_scratch: int
    ):
        f = self.f = module.function(symbol, "void", PHASE_PARAMS, "nounwind")
        self.kernel, self.target = kernel, target
        bufs, sizes = f.args[0], f.args[1]
        if "!1 = !{}" not in module.globals:
            module.add_global("!1 = !{}")
        fixed = ", !invariant.load !1"
        buffers = {b.name: f.load("ptr", f.gep("ptr", bufs, i64(j)), 8, fixed) for j, b in enumerate(kernel.params)}
        values = {d: f.load("i64", f.gep("i64", sizes, i64(j)), 8, fixed) for j, d in enumerate(kernel.dims)}
        self.begin, self.end = f.args[2], f.args[3]
        count = len(kernel.params)
        self.workspace = f.load("ptr", f.gep("ptr", bufs, i64(count)), 8, fixed)
        all_scratch = f.load("ptr", f.gep("ptr", bufs, i64(count + 1)), 8, fixed)
        self.scratch = f.gep("i8", all_scratch, f.mul(f.args[4], i64(thread_scratch)))
        self.em = emit(f, kernel, target, buffers, values)
        self.depth = 0
        self._sizes: dict[DimLike, Val] = {}

    def size(self, d: DimLike) -> Val:
        """A size that the arguments determine. Ask for it first outside of loops."""
        if isinstance(d, int):
            return i64(d)
        found = self._sizes.get(d)
        if found is None:
            assert self.depth == 0, "sizes are computed at the top of the function"
            found = self._sizes[d] = self.em.index(d)
        return found

    def prepare(self, *sides: Side) -> None:
        """Computes the extents of the sides at the top of the function."""
        for s in sides:
            self.size(s.extent)
            for a in s.axes:
                self.size(a.extent)

    # ---- control flow
    @contextmanager
    def loop(
        self,
        start: Val,
        stop: Val,
        step: int = 1,
        carried: Iterable[Val] = (),
        sym: Dim | None = None,
        once: bool = False,
    ) -> Iterator[Loop]:
        """A loop of the function that the emitter knows of; `sym` is bound to its index."""
        with self.f.loop(start, stop, i64(step), carried, once) as loop:
            self.em.enter(loop, sym)
            self.depth += 1
            yield loop
            self.depth -= 1
            self.em.leave()

    @contextmanager
    def when(self, condition: Val) -> Iterator[None]:
        self.depth += 1
        with self.f.when(condition), self.em.scope():
            yield
        self.depth -= 1

    # ---- integers
    def divide(self, x: Val, n: DimLike) -> tuple[Val, Val]:
        """(x // n, x % n) for x >= 0."""
        if n == 1:
            return x, i64(0)
        by = self.size(n)
        return self.f.binary("udiv", x, by), self.f.binary("urem", x, by)

    def min(self, x: Val, y: Val) -> Val:
        return self.f.intrinsic("smin", "i64", x, y)

    def max(self, x: Val, y: Val) -> Val:
        return self.f.intrinsic("smax", "i64", x, y)

    def times(self, x: Val, n: int | Val) -> Val:
        return self.f.mul(x, i64(n) if isinstance(n, int) else n)

    def below(self, bound: Val, lanes: int) -> Val:
        """The mask of lanes l < bound."""
        small = self.f.convert("trunc", self.min(self.max(bound, i64(0)), i64(lanes)), "i32")
        return self.f.cmp("slt", vector_of(range(lanes)), self.f.splat(small, lanes))

    # ---- flattened indices
    def bind(self, side: Side, flat: Val) -> None:
        """Binds the axes of a side to one flattened index."""
        rest = flat
        for position in range(len(side.axes) - 1, -1, -1):
            axis = side.axes[position]
            if position == 0:
                self.em.bind(axis.sym, rest)
            else:
                rest, own = self.divide(rest, axis.extent)
                self.em.bind(axis.sym, own)

    def vector(self, side: Side, flat: Val, lanes: int) -> None:
        """Makes the innermost axis of the side the vector axis, from a flattened index that starts whole vectors."""
        rest, own = flat, flat
        if len(side.axes) > 1:
            rest, own = self.divide(flat, side.inner.extent)
            self.bind(Side(side.axes[:-1]), rest)
        self.em.vector(side.inner.sym, own, lanes)

    # ---- memory
    def cell(self, base: Val, index: Val, dtype: DType) -> Val:
        return self.f.gep(scalar_type(dtype), base, index)

    def masked_store(self, value: Val, pointer: Val, mask: Val | None, align: int) -> None:
        masked_store(self.f, value, pointer, mask, align)

    def masked_load(self, type: str, pointer: Val, mask: Val | None, align: int) -> Val:
        return masked_load(self.f, type, pointer, mask, align)

    # ---- arithmetic
    def multiply_add(self, a: Val, b: Val, c: Val, fused: bool) -> Val:
        """a * b + c, in one rounding where the target has it."""
        return self.f.fma(a, b, c) if fused else self.f.add(self.f.mul(a, b), c)

    def zero(self, dtype: DType, lanes: int) -> Val:
        return literal(0, vec(scalar_type(dtype), lanes))
