"""Blocks of a contraction's operands, addressed so that the compiler can let their loads run ahead: what steps from block
to block is a scalar, and the place inside of a block is computed before the loop."""

from __future__ import annotations

from dataclasses import replace

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import bfloat16, float16
from ...ir.kernel import Axis, Contraction, Kernel, Store, offset
from ...ir.scalar import Expr, moved
from ...ir.target import Target
from .descriptors import Descriptor
from .elements import Elements, Text, _dims, _level
from .exprs import INTERPRETER
from .prepare import map_stage

HALVES = (float16, bfloat16)


class Points(Elements):
    """Elements whose quotients and remainders of indices have names: several operands need the same ones."""

    def _atom(self, a: dim.Atom) -> Text:
        found = super()._atom(a)
        return self._once(a, found, "part") if a.kind in ("floordiv", "mod") else found

    def _once(self, key: object, text: Text, prefix: str) -> Text:
        """The text's name: equal ones share it, in the blocks that see it."""
        key = (id(self), prefix, key)
        for block in self.writer.blocks:
            if key in block.memo:
                return block.memo[key]
        named = self._name(text.text, self.writer.numbered(prefix), text)
        self.writer.blocks[text.level].memo[key] = named
        return named


class Operand(Points):
    """Elements of an operand's block. What is outside is 0 if a load gives it. descriptor: that of the whole operand, if the
    hardware copies its blocks."""

    descriptor: Descriptor | None = None
    described: str = ""  # the descriptor's name

    def describe(self) -> None:
        """Writes the operand's descriptor, if it has one."""
        if self.descriptor is not None:
            self.described = self.writer.name(f"{self.descriptor.buffer}_blocks")
            first, second = self.tile.sizes
            self.writer.line(f"{self.described} = {self.descriptor.made((first, second))}")

    def block(self, e: Expr, contracted: int, corner: tuple[str, str]) -> str:
        """The block of `e` that begins with the row and column of `corner`. Along the tile dimension `contracted`, points
        that do not exist are 0: they add nothing, whatever the other operand holds there."""
        if self.descriptor is not None:
            text = self.descriptor.load(self.described, *corner)
        else:
            value = self.typed(e)
            text, live = self.full(value), self.tile.live[contracted]
            if live is None or _loaded(e) and value.dims >> contracted & 1:
                return text
            text = f"tl.where({live.text}, {text}, {'0.0' if e.dtype.kind == 'f' else '0'})"
        name = self.writer.numbered("block")
        self.writer.line(f"{name} = {text}")
        return name

    def _load(self, e: Expr) -> Text:
        at = e.attr.index
        if any(isinstance(i, Expr) for i in at):
            return super()._load(e)
        b, guard = self.buffers[e.attr.buffer], self.condition(e.attr.mask)
        step, place = self._parts(offset(b, at))
        base = replace(b, name=f"({b.name} + {step.operand})") if step.text != "0" else b
        pointer, mask, parts = self.address(base, place, guard)
        arguments = [pointer] + [f"mask={mask}", "other=0"] * bool(mask)
        text = f"tl.load({', '.join(arguments)})" + (" != 0" if b.dtype.kind == "b" else "")
        parts = [step, *parts]
        return Text(text, _dims(parts), _level(parts))

    def _parts(self, at: DimLike) -> tuple[Text, Text]:
        """What the innermost loop adds to an offset, if that is the same for a whole block, and the rest, by name if it was
        known before the loop."""
        step: DimLike = 0
        for term in () if isinstance(at, int) else at.terms:
            one = Dim((term,))
            text = self.dim(one)
            if term[0] and not text.dims and text.level == self.writer.level > 0:
                step = step + one
        place = self.dim(at - step)
        if place.dims and place.level < self.writer.level:
            place = self._once(at - step, place, "at")
        return self.dim(step), place


def _loaded(e: Expr) -> bool:
    """Whether it is an element of memory, converted or not: 0 where a mask leaves it out."""
    return e.op == "load" or e.op == "cast" and e.dtype.kind != "b" and _loaded(e.args[0])


def multiplied(c: Contraction, target: Target) -> tuple[Expr, Expr]:
    """lhs and rhs as the product takes them. (Triton's interpreter does not multiply 16-bit floats as a GPU does.)"""
    x, y = c.unwidened
    return (c.lhs, c.rhs) if x.dtype in HALVES and target.cpu == INTERPRETER else (x, y)


def flattened(kernel: Kernel) -> Kernel:
    """The kernel with one axis for its rows and one for its columns: of a pixel's coordinates, only those get divided out
    that do not add up to its number again."""
    c = kernel.contraction
    env: dict[Dim, DimLike] = {}
    m, n = (_joined(axes, name, env) for axes, name in ((c.m, "mi"), (c.n, "ni")))
    if not env:
        return kernel
    anchor = replace(c, m=(m,), n=(n,), lhs=moved(c.lhs, env), rhs=moved(c.rhs, env))
    stages = tuple(
        replace(s, stores=tuple(_store_moved(x, env) for x in s.stores))
        for s in (map_stage(s, lambda e: moved(e, env)) for s in kernel.stages)
    )
    return replace(kernel, axes=(*c.batch, m, n), stages=stages, anchor=anchor)


def _joined(axes: tuple[Axis, ...], name: str, env: dict[Dim, DimLike]) -> Axis:
    if len(axes) == 1:
        return axes[0]
    extent = dim.numel(tuple(a.extent for a in axes))
    position: DimLike = dim.symbol(name, 0, extent - 1)
    joined = Axis(position, extent)  # type: ignore[arg-type]
    for a in reversed(axes):
        env[a.sym] = dim.mod(position, a.extent)
        position = dim.floordiv(position, a.extent)
    return joined


def _store_moved(s: Store, env: dict[Dim, DimLike]) -> Store:
    entries = tuple(i if isinstance(i, Expr) else dim.substitute(i, env) for i in s.index)
    return replace(s, index=entries, mask=tuple(dim.substitute(d, env) for d in s.mask))


def blocked(c: Contraction, size: int) -> tuple[Contraction, tuple[Axis, ...], Axis | None]:
    """The contraction with blocks of `size` contracted points: the axes that number the blocks, and the axis inside of one.
    As many of the last axes are numbered through as blocks divide evenly. None for the axis inside if blocks are not all
    alike, since other axes change within them."""
    parts = range(len(c.k) - 1, 0, -1)
    first = next((k for k in parts if _divides(size, c.k[k:])), 0)
    env: dict[Dim, DimLike] = {}
    outer, last = c.k[:first], _joined(c.k[first:], "k.point", env)
    if len(c.k) > 1 and not _divides(size, c.k[first:]):
        return c, c.k, None
    count = dim.ceildiv(last.extent, size)
    number, inside = Axis(dim.symbol("k.block", 0, count - 1), count), Axis(dim.symbol("k.inside", 0, size - 1), size)
    place: dict[Dim, DimLike] = {last.sym: number.sym * size + inside.sym}
    lhs, rhs = (moved(moved(e, env), place) for e in (c.lhs, c.rhs))
    return replace(c, lhs=lhs, rhs=rhs), (*outer, number), inside


def _divides(size: int, axes: tuple[Axis, ...]) -> bool:
    n = dim.numel(tuple(a.extent for a in axes))
    return isinstance(n, int) and n % size == 0
