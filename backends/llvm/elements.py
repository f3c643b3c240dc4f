"""Scalar expressions to vector code: `ElementEmitter` evaluates `Expr`s and performs `Store`s at the bound indices.

One axis may be the *vector* axis: lane l of every value belongs to index base + l. What does not depend on it is
computed once as a scalar. Every value is emitted at the outermost loop level that its axes allow: the generator tells
the emitter about loops with `enter` and `leave`, and code that a loop does not change goes to that loop's preheader.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Iterable, Iterator

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType, bool_
from ...ir.kernel import Buffer, Kernel, Store
from ...ir.math import expand
from ...ir.scalar import MATH, Expr, Load, free_results, free_symbols
from ...ir.target import Target
from .builder import (
    Block,
    Function,
    Loop,
    Val,
    element_of,
    i64,
    lanes_of,
    literal,
    memory_type,
    scalar_type,
    suffix,
    vec,
    vector_of,
)
from .conditions import ranges, small
from .masked import masked_load, masked_store
from .scalars import ScalarEmitter


@dataclass(slots=True)
class _Level:
    """A loop (or the function body): where to put hoisted code, and what has been computed there."""

    preheader: Block | None
    hoisted: dict = field(default_factory=dict)  # valid inside this loop, emitted in its preheader
    computed: dict = field(default_factory=dict)  # emitted in its body


class ElementEmitter:
    """Emits into `function` for `kernel`. `buffers`: base pointer of every parameter; `dims`: values of symbolic sizes."""

    def __init__(
        self, function: Function, kernel: Kernel, target: Target, buffers: dict[str, Val], dims: dict[Dim, Val]
    ):
        self.f, self.kernel, self.target = function, kernel, target
        self.buffers = buffers
        self.types: dict[str, Buffer] = {b.name: b for b in kernel.params}
        self.fma = target.isa in ("avx512", "avx2", "neon")
        self.scalars = ScalarEmitter(target)
        self.levels = [_Level(None)]
        self.bound: dict[Dim, tuple[int, Val]] = {d: (0, v) for d, v in dims.items()}
        self.results: dict[str, tuple[int, bool, Val]] = {}  # name -> (level, varies over lanes, value)
        self.vector_sym: Dim | None = None
        self.vector_base: Val | None = None
        self.lanes = 1
        self.aligned = False  # vector_base is a multiple of lanes
        self._expanded: dict[int, tuple[Expr, Expr]] = {}
        self.prefetch: dict[str, int] = {}  # how many bytes ahead vector loads of a buffer fetch
        self._mask: Val | None = None
        self._iotas: dict[str, Val] = {}

    # ---- loops and indices
    def enter(self, loop: Loop, sym: Dim | None = None) -> None:
        """Starts a loop level; `sym`, if given, is bound to the loop's index."""
        self.levels.append(_Level(loop.preheader))
        if sym is not None:
            self.bound[sym] = (len(self.levels) - 1, loop.index)

    def leave(self) -> None:
        """Ends the innermost level; what was bound there is forgotten."""
        gone = len(self.levels) - 1
        self.levels.pop()
        self.bound = {s: lv for s, lv in self.bound.items() if lv[0] < gone}
        self.results = {n: r for n, r in self.results.items() if r[0] < gone}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Forgets, at its end, what was computed inside: for code that does not dominate what follows."""
        level = self.levels[-1]
        saved = dict(level.computed)
        yield
        level.computed = saved

    def bind(self, sym: Dim, value: Val) -> None:
        """Gives an axis its index at the current level."""
        self.bound[sym] = (len(self.levels) - 1, value)
        self.levels[-1].computed.clear()

    def vector(self, sym: Dim, base: Val, lanes: int, aligned: bool = False) -> None:
        """Makes `sym` the vector axis: its lanes are base, base+1, ... `aligned`: base is a multiple of `lanes`."""
        self.vector_sym, self.vector_base, self.lanes, self.aligned = sym, base, lanes, aligned
        self.bound[sym] = (len(self.levels) - 1, base)
        level = self.levels[-1]
        level.computed = {k: v for k, v in level.computed.items() if not k[1]}

    def scalar(self) -> None:
        """Ends vector mode."""
        if self.vector_sym is not None:
            self.bound.pop(self.vector_sym, None)
        self.vector_sym, self.vector_base, self.lanes = None, None, 1
        level = self.levels[-1]
        level.computed = {k: v for k, v in level.computed.items() if not k[1]}

    def define(self, name: str, value: Val) -> None:
        """The value of `scalar.result(name)`, valid until the current level is left."""
        self.results[name] = (len(self.levels) - 1, lanes_of(value.type) > 1, value)
        self.levels[-1].computed.clear()

    def preset(self, e: Expr, value: Val) -> None:
        """The value of an expression at the vector that the emitter stands at, where the caller knows it."""
        self._expanded.setdefault(id(e), (e, e))
        self.levels[-1].computed[id(e), True] = value

    # ---- analysis
    def _depends(self, e: Expr) -> tuple[int, bool]:
        """(loop level, whether it varies over the lanes) of an expression."""
        level, varies = 0, False
        for s in free_symbols(e):
            if s is self.vector_sym or s == self.vector_sym:
                varies = True
            level = max(level, self.bound[s][0])
        for name in free_results(e):
            lv, va, _ = self.results[name]
            level, varies = max(level, lv), varies or va
        return level, varies

    def lane_stride(self, d: DimLike) -> int | None:
        """How much `d` grows per lane; None when that is not constant over the vector."""
        if isinstance(d, int) or self.vector_sym is None:
            return 0
        total = 0
        for monomial, c in d.terms:
            strides = []
            for a in monomial:
                if a.kind == "sym":
                    strides.append(1 if self.vector_sym.terms[0][0][0] == a else 0)
                    continue
                inner, outer = self.lane_stride(a.a), self.lane_stride(a.b)
                if inner == 0 and outer == 0:
                    strides.append(0)
                elif a.kind in ("floordiv", "mod") and inner == 1 and outer == 0 and self._aligned_parts(a.a, a.b):
                    strides.append(0 if a.kind == "floordiv" else 1)
                else:
                    return None
            moving = [s for s in strides if s]
            if not moving:
                continue
            if len(monomial) != 1:
                return None  # a symbolic stride: still linear, but not a constant number of elements
            total += c * moving[0]
        return total

    def _aligned_parts(self, a: DimLike, b: DimLike) -> bool:
        """Whether a // b is the same for all lanes: the vector starts at a multiple of lanes, which divides b."""
        if not self.aligned or not isinstance(b, int) or b % self.lanes or isinstance(a, int):
            return False
        return all(c % self.lanes == 0 or (m and m[0] == self.vector_sym.terms[0][0][0]) for m, c in a.terms)  # type: ignore[union-attr]

    # ---- placing code
    def _found(self, level: int, key: tuple) -> Val | None:
        """What was emitted for `key`: at its level, or before a loop further in."""
        found = self.levels[min(level, len(self.levels) - 1)].computed.get(key)
        for inner in range(level + 1, len(self.levels)) if found is None else ():
            found = self.levels[inner].hoisted.get(key)
            if found is not None:
                break
        return found

    def _emit_at(self, level: int, key: tuple, make) -> Val:
        """The value for `key`, emitted by `make()` at loop `level` (or found there)."""
        found = self._found(level, key)
        if found is not None:
            return found
        top = len(self.levels) - 1
        if level >= top:
            found = self.levels[top].computed[key] = make()
            return found
        block = self.levels[level + 1].preheader
        assert block is not None
        saved = self.levels
        self.levels = saved[: level + 1]
        inside = self.levels[level].computed
        self.levels[level].computed = _Overlay(inside, saved[level + 1].hoisted)  # type: ignore[assignment]
        try:
            with self.f.at(block):
                found = make()
        finally:
            saved[level].computed = inside
            self.levels = saved
        saved[level + 1].hoisted[key] = found
        return found

    # ---- integer index expressions
    def index(self, d: DimLike) -> Val:
        """An index expression as i64, at the vector's first lane if it varies."""
        if isinstance(d, int):
            return i64(d)
        total: Val | None = None
        by_level: dict[int, list] = {}
        for term in d.terms:
            level = 0
            for s in dim.symbols(_single(term)):
                level = max(level, self.bound[s][0])
            by_level.setdefault(level, []).append(term)
        done: list = []
        for level in sorted(by_level):
            done += by_level[level]
            partial = dim._make({m: c for m, c in done})
            if isinstance(partial, int):
                total = i64(partial)
                continue
            before, terms = total, by_level[level]

            def make(before=before, terms=terms) -> Val:
                out = before
                for monomial, c in terms:
                    v = self._monomial(monomial, c)
                    out = v if out is None else self.f.add(out, v)
                assert out is not None
                return out

            moving = self.vector_sym is not None and self.vector_sym in partial.symbols()
            total = self._emit_at(level, (("index", partial), moving), make)
        assert total is not None
        return total

    def _monomial(self, monomial: tuple, c: int) -> Val:
        out: Val | None = None
        for a in monomial:
            if a.kind == "sym":
                v = self.bound[dim._of_atom(a)][1]
            else:
                x, y = self.index(a.a), self.index(a.b)
                if a.kind in ("floordiv", "mod"):
                    low = dim.bounds(a.a)[0]
                    if low is not None and low >= 0 or dim.nonnegative(a.a):
                        v = self.f.binary("udiv" if a.kind == "floordiv" else "urem", x, y)
                    else:  # floor for negative numerators
                        q = self.f.binary("sdiv", x, y)
                        r = self.f.binary("srem", x, y)
                        below = self.f.cmp("slt", r, i64(0))
                        if a.kind == "floordiv":
                            v = self.f.add(q, self.f.convert("sext", below, "i64"))
                        else:
                            v = self.f.add(r, self.f.select(below, y, i64(0)))
                else:
                    v = self.f.select(self.f.cmp("sgt" if a.kind == "max" else "slt", x, y), x, y)
            out = v if out is None else self.f.mul(out, v)
        if out is None:
            return i64(c)
        return self.f.mul(out, i64(c))

    def lane_index(self, d: DimLike, type: str = "i64") -> Val:
        """An index expression as <lanes x type>, one value per lane. The caller knows that it fits into `type`."""
        f, wide = self.f, vec(type, self.lanes)
        if self.lanes == 1:
            return f.convert("trunc", self.index(d), type)
        stride = self.lane_stride(d)
        if stride is not None:
            base = f.splat(f.convert("trunc", self.index(d), type), self.lanes)
            return base if stride == 0 else f.add(base, vector_of([k * stride for k in range(self.lanes)], type))
        assert isinstance(d, Dim)
        total: Val | None = None
        for monomial, c in d.terms:
            out: Val = literal(c, wide)
            for a in monomial:
                out = f.mul(out, self._lane_atom(a, type)) if out.ref != "splat (i32 1)" else self._lane_atom(a, type)
            total = out if total is None else f.add(total, out)
        assert total is not None
        return total

    def _lane_atom(self, a: dim.Atom, type: str) -> Val:
        if a.kind == "sym":
            return self.lane_index(dim._of_atom(a), type)
        whole = dim._of_atom(a)
        level = max(self.bound[s][0] for s in dim.symbols(whole))
        return self._emit_at(level, (("lanes", whole, type), True), lambda: self._divided(a, type))

    def _divided(self, a: dim.Atom, type: str) -> Val:
        f = self.f
        x, y = self.lane_index(a.a, type), self.lane_index(a.b, type)
        if a.kind in ("max", "min"):
            return f.select(f.cmp("sgt" if a.kind == "max" else "slt", x, y), x, y)
        if dim.nonnegative(a.a):
            return f.binary("udiv" if a.kind == "floordiv" else "urem", x, y)
        q, r = f.binary("sdiv", x, y), f.binary("srem", x, y)
        below = f.cmp("slt", r, literal(0, r.type))  # floor, where C truncates
        if a.kind == "floordiv":
            return f.add(q, f.convert("sext", below, q.type))
        return f.add(r, f.select(below, y, literal(0, y.type)))

    def condition(self, conditions: tuple[DimLike, ...]) -> Val | None:
        """All of `conditions` >= 0: an i1 if the same for all lanes, a vector of them if not, None if always true."""
        f = self.f
        out: Val | None = None
        for d, top in ranges(conditions):
            if isinstance(d, int):
                return literal(0, "i1")
            if self.lane_stride(d) == 0:
                x = self.index(d)
                one = f.cmp("sge", x, i64(0)) if top is None else f.cmp("ule", x, i64(top))
            else:
                one = self._emit_at(*self._mask_place(d, top), lambda d=d, top=top: self._lane_condition(d, top))
            if out is None:
                out = one
            else:
                n = max(lanes_of(out.type), lanes_of(one.type))
                out = f.binary("and", self._widen(out, n), self._widen(one, n))
        return out

    def _mask_place(self, d: DimLike, top: int | None) -> tuple[int, tuple]:
        level = max(self.bound[s][0] for s in dim.symbols(d))
        return level, (("condition", d, top), True)

    def _lane_condition(self, d: DimLike, top: int | None) -> Val:
        v = self.lane_index(d, "i32" if small(d) else "i64")
        return self.f.cmp("sge", v, literal(0, v.type)) if top is None else self.f.cmp("ule", v, literal(top, v.type))

    def _widen(self, v: Val, lanes: int) -> Val:
        return v if lanes_of(v.type) == lanes else self.f.splat(v, lanes)

    # ---- values
    def value(self, e: Expr, lanes: int | None = None, mask: Val | None = None) -> Val:
        """The expression at the bound indices: a vector of the current lanes, or a scalar when `lanes` is 1.

        `mask`: the live lanes; memory of the others is not touched and their values are unspecified.
        """
        lanes = self.lanes if lanes is None else lanes
        saved, self._mask = self._mask, mask
        try:
            return self._widen(self._value(e), lanes)
        finally:
            self._mask = saved

    def _value(self, e: Expr) -> Val:
        """Emits the operands of `e` before what reads them, so that `_compute` finds them: expressions get deep."""
        stack = [e]
        while True:
            n = self._basic(stack[-1])
            waiting = () if self._ready(n) else [a for a in n.args if not self._ready(self._basic(a))]
            if waiting:
                stack.extend(waiting)
                continue
            out = self._emitted(n)
            stack.pop()
            if not stack:
                return out

    def _basic(self, e: Expr) -> Expr:
        """`e`, or what it is in basic operations."""
        if e.op not in MATH:
            return e
        found = self._expanded.get(id(e))
        if found is None:
            found = self._expanded[id(e)] = (e, expand(e, self.fma, self.target.isa == "avx512"))
        return found[1]

    def _ready(self, e: Expr) -> bool:
        if e.op in ("const", "result"):
            return True
        level, varies = self._depends(e)
        return self._found(level, (id(e), varies)) is not None

    def _emitted(self, e: Expr) -> Val:
        if e.op == "const":
            return literal(e.attr, scalar_type(e.dtype))
        if e.op == "result":
            return self.results[e.attr][2]
        level, varies = self._depends(e)
        return self._emit_at(level, (id(e), varies), lambda: self._compute(e, varies))

    def _compute(self, e: Expr, varies: bool) -> Val:
        self._expanded.setdefault(id(e), (e, e))  # keeps e alive: its id is a key
        if e.op == "index":
            v = self.lane_index(e.attr) if varies else self.index(e.attr)
            if e.dtype.bits < 64:
                return self.f.convert("trunc", v, vec(scalar_type(e.dtype), lanes_of(v.type)))
            return v if e.dtype.kind != "f" else self.f.convert("sitofp", v, vec("double", lanes_of(v.type)))
        if e.op == "in_bounds":
            return self.condition(e.attr) or literal(1, "i1")
        if e.op == "load":
            return self._load(e, varies)
        args = [self._value(a) for a in e.args]
        lanes = max(map(lanes_of, (a.type for a in args)))
        return self.scalars.emit(self.f, e.op, [self._widen(a, lanes) for a in args], e.args[-1].dtype, e.dtype, lanes)

    # ---- memory
    def _address(self, buffer: str, at: tuple, lanes_vary: bool) -> tuple[Val, DimLike, Val | None]:
        """(base pointer, affine element offset, indirect element offset or None)."""
        strides = self.types[buffer].strides
        affine: DimLike = 0
        indirect: Val | None = None
        for i, s in zip(at, strides, strict=True):
            if isinstance(i, Expr):
                v = self._value(i)
                if element_of(v.type) != "i64":
                    v = self.f.convert("sext" if i.dtype.kind == "i" else "zext", v, vec("i64", lanes_of(v.type)))
                v = self.f.mul(v, self._widen(self.index(s), lanes_of(v.type)))
                if indirect is None:
                    indirect = v
                else:
                    n = max(lanes_of(indirect.type), lanes_of(v.type))
                    indirect = self.f.add(self._widen(indirect, n), self._widen(v, n))
            else:
                affine = affine + i * s
        return self.buffers[buffer], affine, indirect

    def _pointer(self, buffer: str, dtype: DType, affine: DimLike, indirect: Val | None) -> Val:
        """The address of the first lane."""
        offset = self.index(affine)
        if indirect is not None:
            offset = self.f.add(indirect, offset)
        return self.f.gep(memory_type(dtype), self.buffers[buffer], offset)

    def vector_at(self, e: Expr) -> tuple[Val, str, int]:
        """Where a plain load of the current lanes would start; the type of such a vector in memory; bytes per element."""
        _, affine, indirect = self._address(e.attr.buffer, e.attr.index, True)
        dtype = self.types[e.attr.buffer].dtype
        return (
            self._pointer(e.attr.buffer, dtype, affine, indirect),
            vec(memory_type(dtype), self.lanes),
            dtype.itemsize,
        )

    def _load(self, e: Expr, varies: bool) -> Val:
        f, access = self.f, e.attr
        assert isinstance(access, Load)
        dtype = self.types[access.buffer].dtype
        cell = memory_type(dtype)
        base, affine, indirect = self._address(access.buffer, access.index, varies)
        condition = self.condition(access.mask)
        if not varies or self.lanes == 1:
            offset = self.index(affine)
            if indirect is not None:
                offset = f.add(indirect, offset)
            if condition is not None:
                offset = f.select(condition, offset, i64(0))
            out = f.load(cell, f.gep(cell, base, offset), dtype.itemsize)
            if condition is not None:
                out = f.select(condition, out, literal(0, cell))
            return self.from_memory(out, dtype)
        wide = vec(cell, self.lanes)
        stride = self.lane_stride(affine)
        uniform_indirect = indirect is None or lanes_of(indirect.type) == 1
        live = self._mask
        if condition is not None:
            condition = self._widen(condition, self.lanes)
            live = condition if live is None else f.binary("and", live, condition)
        if stride == 1 and uniform_indirect:
            pointer = self._pointer(access.buffer, dtype, affine, indirect)
            out = masked_load(f, wide, pointer, live, dtype.itemsize)
            if access.buffer in self.prefetch:
                self.fetch_ahead(pointer, self.prefetch[access.buffer])
        elif stride == 0 and uniform_indirect:  # one element, though the index varies: i // lanes, or a mask that does
            offset = self.index(affine)
            if indirect is not None:
                offset = f.add(indirect, offset)
            if condition is not None:
                some = f.intrinsic("vector.reduce.or", "i1", condition, overload=f"v{self.lanes}i1")
                offset = f.select(some, offset, i64(0))
            out = f.splat(f.load(cell, f.gep(cell, base, offset), dtype.itemsize), self.lanes)
            if condition is not None:
                out = f.select(condition, out, literal(0, wide))
        else:
            offsets = self.lane_index(affine)
            if indirect is not None:
                offsets = f.add(offsets, self._widen(indirect, self.lanes))
            pointers = f.emit(vec("ptr", self.lanes), f"getelementptr inbounds {cell}, {base}, {offsets}")
            live = live or literal(1, vec("i1", self.lanes))
            out = f.intrinsic(
                "masked.gather", wide, pointers, Val(f"{live.ref}", live.type), literal(0, wide),
                overload=f"{suffix(wide)}.v{self.lanes}p0",
            )  # fmt: skip
        return self.from_memory(out, dtype)

    def fetch_ahead(self, pointer: Val, distance: int) -> None:
        ahead = self.f.gep("i8", pointer, i64(distance))
        for_reading, keep, data = Val("0", "i32"), Val("3", "i32"), Val("1", "i32")
        self.f.intrinsic("prefetch", "void", ahead, for_reading, keep, data, overload="p0")

    def from_memory(self, v: Val, dtype: DType) -> Val:
        if dtype is bool_:
            return self.f.cmp("ne", v, literal(0, v.type))
        return self.f.convert("bitcast", v, vec(scalar_type(dtype), lanes_of(v.type)))

    def _to_memory(self, v: Val, dtype: DType) -> Val:
        return self.f.convert("zext" if dtype is bool_ else "bitcast", v, vec(memory_type(dtype), lanes_of(v.type)))

    def stores(
        self, stores: Iterable[Store], lanes: int | None = None, mask: Val | None = None, stream: Iterable[str] = ()
    ) -> None:
        """Evaluates the values of all `stores`, then writes them, where their masks and `mask` allow: a store may
        overwrite what another one reads. `stream`: buffers to write past the cache."""
        lanes = self.lanes if lanes is None else lanes
        values = [(s, self.value(s.value, lanes, mask)) for s in stores]
        for s, v in values:
            self.write(s, v, lanes, mask, s.buffer in stream)

    def write(self, store: Store, v: Val, lanes: int, mask: Val | None = None, stream: bool = False) -> None:
        """Writes `v`, the value of `store` computed before."""
        f = self.f
        dtype = self.types[store.buffer].dtype
        cell = memory_type(dtype)
        saved, self._mask = self._mask, mask
        base, affine, indirect = self._address(store.buffer, store.index, lanes > 1)
        condition = self.condition(store.mask)
        self._mask = saved
        if not store.accumulate:
            v = self._to_memory(v, dtype)
        if lanes == 1:
            offset = self.index(affine)
            if indirect is not None:
                offset = f.add(indirect, offset)
            if condition is None:
                self._accumulate(store, v, f.gep(cell, base, offset), dtype)
            else:
                with f.when(condition):
                    self._accumulate(store, v, f.gep(cell, base, offset), dtype)
            return
        if condition is not None:
            condition = self._widen(condition, lanes)
            mask = condition if mask is None else f.binary("and", mask, condition)
        stride = self.lane_stride(affine)
        if store.accumulate:
            assert stride == 1 and (indirect is None or lanes_of(indirect.type) == 1), (
                "scatter-add runs along an axis not indexed"
            )
            pointer = self._pointer(store.buffer, dtype, affine, indirect)
            wide = vec(cell, lanes)
            old = masked_load(f, wide, pointer, mask, dtype.itemsize)
            v = self._added(old, v, dtype, lanes)
        if stride == 1 and (indirect is None or lanes_of(indirect.type) == 1):
            pointer = self._pointer(store.buffer, dtype, affine, indirect)
            if mask is None:
                whole = stream and self._whole_lines(affine) and indirect is None
                f.store(
                    v,
                    pointer,
                    lanes * dtype.itemsize if whole else dtype.itemsize,
                    ", !nontemporal !0" if whole else "",
                )
            else:
                masked_store(f, v, pointer, mask, dtype.itemsize)
            return
        offsets = self.lane_index(affine)
        if indirect is not None:
            offsets = f.add(offsets, self._widen(indirect, lanes))
        pointers = f.emit(vec("ptr", lanes), f"getelementptr inbounds {cell}, {base}, {offsets}")
        live = mask or literal(1, vec("i1", lanes))
        name = f"llvm.masked.scatter.{suffix(v.type)}.v{lanes}p0"
        f.module.declare(name, "void", [v.type, pointers.type, live.type])
        f.do(f"call void @{name}({v}, {vec('ptr', lanes)} align {dtype.itemsize} {pointers.ref}, {live})")

    def _accumulate(self, store: Store, v: Val, pointer: Val, dtype: DType) -> None:
        if store.accumulate == "add":
            v = self._added(self.f.load(memory_type(dtype), pointer, dtype.itemsize), v, dtype, 1)
        self.f.store(v, pointer, dtype.itemsize)

    def _added(self, old: Val, v: Val, dtype: DType, lanes: int) -> Val:
        """`v` and what memory holds, as memory holds it."""
        total = self.scalars.emit(self.f, "add", [self.from_memory(old, dtype), v], dtype, dtype, lanes)
        return self._to_memory(total, dtype)

    def _whole_lines(self, affine: DimLike) -> bool:
        """Whether the vector's address is a multiple of its size (buffers start on one)."""
        if isinstance(affine, int) or not self.aligned:
            return isinstance(affine, int) and affine % self.lanes == 0 and self.aligned
        assert self.vector_sym is not None
        moving = self.vector_sym.terms[0][0][0]
        return all(c % self.lanes == 0 or (len(m) == 1 and m[0] == moving and c == 1) for m, c in affine.terms)


class _Overlay(dict):
    """Reads fall through to `below`; writes stay here: what is hoisted must not be seen outside the loop."""

    def __init__(self, below: dict, own: dict):
        super().__init__()
        self.below, self.own = below, own

    def get(self, key, default=None):
        found = self.own.get(key)
        return self.below.get(key, default) if found is None else found

    def __setitem__(self, key, value):
        self.own[key] = value


def _single(term: tuple) -> DimLike:
    return dim._make({term[0]: term[1]})
