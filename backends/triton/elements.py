"""Writes index and scalar expressions of a kernel for one tile of points.

A *tile* has one or two dimensions, each a block of outer points, inner points, rows, columns or contracted points. Axis
symbols are bound to index tensors along one of them. A piece of source text knows along which tile dimensions it
varies, and in which open block (loop) it has to stand, so that what a loop does not change is written before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType
from ...ir.kernel import Axis, Buffer, Kernel, Store, roots
from ...ir.scalar import Expr, walk
from ...ir.target import Target
from .exprs import form, literal, takes_literals, type_name
from .indices import index_dtype
from .text import Writer

LONGEST_INLINE = 72  # characters of an expression that is read once and still gets no name


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of source. dims: bit k set if it varies along tile dimension k. level: the block it has to stand in.
    constant: a Python number, without a type of its own. infix: needs parentheses inside a larger expression."""

    text: str
    dims: int = 0
    level: int = 0
    constant: bool = False
    infix: bool = False

    @property
    def operand(self) -> str:
        """For use inside a larger expression."""
        return f"({self.text})" if self.infix else self.text


ZERO = Text("0", constant=True)


@dataclass(eq=False)
class Tile:
    """sizes: the names of the block sizes. live: per dimension, the mask of the points that exist, None if all do.
    inside: the mask of those points of all dimensions together that count, None if all do. bound: the index of each axis
    symbol; units: the symbols of axes of one point, which are 0. zeros: what is loaded is 0 at points that do not exist
    (else anything)."""

    sizes: tuple[str, ...]
    live: list[Text | None]
    inside: Text | None = None
    bound: dict[Dim, Text] = field(default_factory=dict)
    numbered: list[tuple[Dim, list[Axis]]] = field(
        default_factory=list
    )  # a row-major position, and the axes it runs through
    units: dict[Dim, DimLike] = field(default_factory=dict)
    zeros: bool = False

    def shape(self, dims: int | None = None) -> str:
        """The shape of what varies along `dims` (all of them by default)."""
        chosen = (n if dims is None or dims >> k & 1 else "1" for k, n in enumerate(self.sizes))
        return f"[{', '.join(chosen)}]"

    def share(self, other: "Tile", axes: Sequence[Axis]) -> None:
        """Binds axes as in another tile."""
        self.bound |= {a.sym: other.bound[a.sym] for a in axes if a.sym in other.bound}
        self.units |= {a.sym: 0 for a in axes if a.sym in other.units}

    @property
    def all(self) -> int:
        return (1 << len(self.sizes)) - 1

    def along(self, k: int) -> str:
        """The subscript that turns a vector into an index tensor along dimension k."""
        return (
            ""
            if len(self.sizes) == 1
            else "[" + ", ".join(":" if j == k else "None" for j in range(len(self.sizes))) + "]"
        )


class Elements:
    """Writes the values of a (prepared) kernel's expressions at the points of one tile. Several tiles may share a writer."""

    def __init__(
        self,
        writer: Writer,
        kernel: Kernel,
        target: Target,
        tile: Tile,
        sizes: Mapping[Dim, Text],
        index_bits: int | None = None,
    ):
        self.writer, self.kernel, self.target, self.tile = writer, kernel, target, tile
        self.buffers: dict[str, Buffer] = {b.name: b for b in kernel.params}
        self.sizes = sizes
        self.index_dtype = index_dtype(kernel, index_bits)
        self.results: dict[str, Text] = {}
        self.uses = _uses(kernel)

    # ---- blocks
    def bind_axes(self, axes: Sequence[Axis], position: Text) -> None:
        """Binds axes to the parts of a row-major position, as named variables."""
        rest = position
        looped = [a for a in axes if a.extent != 1]
        self.tile.units |= {a.sym: 0 for a in axes if a.extent == 1}
        for k in range(len(looped) - 1, 0, -1):
            a, n = looped[k], self.dim(looped[k].extent)
            self.tile.bound[a.sym] = self._name(f"{rest.operand} % {n.operand}", self.writer.name(a.name), rest, n)
            wanted = looped[0].name if k == 1 else f"{rest.text}_rest"
            rest = self._name(f"{rest.operand} // {n.operand}", self.writer.name(wanted), rest, n)
        if looped:
            self.tile.bound[looped[0].sym] = rest
        if len(looped) > 1:
            whole = dim.symbol(f"{position.text} through {looped[0].name}", 0)
            self.tile.bound[whole] = position
            self.tile.numbered = [(p, a) for p, a in self.tile.numbered if a != looped] + [(whole, looped)]

    def _name(self, text: str, name: str, *parts: Text) -> Text:
        self.writer.line(f"{name} = {text}", _level(parts))
        return Text(name, _dims(parts), _level(parts))

    # ---- index expressions
    def dim(self, d: DimLike) -> Text:
        """An index expression as an integer of the kernel's index type."""
        d = dim.substitute(d, self.tile.units)
        for position, axes in self.tile.numbered:
            d = _renumbered(d, position, axes)
        if isinstance(d, int):
            return Text(repr(d), constant=True, infix=d < 0)
        if len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
            return self._atom(d.terms[0][0][0])
        out = ""
        parts: list[Text] = []
        for monomial, coefficient in d.terms:
            factors = [self._atom(a) for a in monomial]
            parts += factors
            texts = [f.operand for f in factors]
            if abs(coefficient) != 1 or not texts:
                texts.append(str(abs(coefficient)))
            product = " * ".join(texts)
            if not out:
                out = product if coefficient > 0 else f"-{product}"
            else:
                out += f" {'+' if coefficient > 0 else '-'} {product}"
        return Text(out, _dims(parts), _level(parts), infix=True)

    def _atom(self, a: dim.Atom) -> Text:
        if a.kind == "sym":
            sym = Dim((((a,), 1),))
            return self.tile.bound[sym] if sym in self.tile.bound else self.sizes[sym]
        x, y = self.dim(a.a), self.dim(a.b)
        if a.kind in ("max", "min"):
            return Text(f"tl.{a.kind}imum({x.text}, {y.text})", _dims((x, y)), _level((x, y)))
        if dim.nonnegative(a.a):
            text = f"{x.operand} {'//' if a.kind == 'floordiv' else '%'} {y.operand}"
        else:  # Triton divides towards zero
            rest = f"({x.operand} % {y.operand} + {y.operand}) % {y.operand}"
            text = rest if a.kind == "mod" else f"({x.operand} - {rest}) // {y.operand}"
        return Text(text, _dims((x, y)), _level((x, y)), infix=True)

    def condition(self, conditions: tuple[DimLike, ...]) -> Text | None:
        """Where every Dim is >= 0; None: everywhere."""
        conditions = tuple(dim.substitute(d, self.tile.units) for d in conditions)
        if any(isinstance(d, int) and d < 0 for d in conditions):
            return Text("tl.full([], 0, tl.int1)")
        parts = [self.dim(d) for d in conditions if not dim.nonnegative(d)]
        if not parts:
            return None
        text = " & ".join(f"({p.text} >= 0)" for p in parts)
        return Text(text, _dims(parts), _level(parts), infix=len(parts) > 1)

    # ---- scalar expressions
    def value(self, e: Expr) -> Text:
        """The value of an expression, with a name if more than one place reads it."""
        for node in walk(e):
            if self._known(node) is None:
                self._define(node)
        found = self._known(e)
        assert found is not None
        return found

    def typed(self, e: Expr) -> Text:
        """`value`, as a tensor of the expression's dtype even if it is a constant."""
        return self._typed(e, self.value(e))

    def _typed(self, e: Expr, found: Text) -> Text:
        if not found.constant:
            return found
        key = ("constant", found.text, e.dtype.code)
        named = self.writer.blocks[0].memo.get(key)
        if named is None:
            number = "1" if e.attr is True else "0" if e.attr is False else found.text
            named = self._name(f"tl.full([], {number}, {type_name(e.dtype)})", self.writer.numbered("c"))
            self.writer.blocks[0].memo[key] = named
        return named

    def forget(self) -> None:
        """From here on everything is evaluated again: memory has changed."""
        for block in self.writer.blocks:
            block.memo = {key: found for key, found in block.memo.items() if key[0] != id(self)}

    def _known(self, e: Expr) -> Text | None:
        key = (id(self), id(e))
        for block in self.writer.blocks:
            if key in block.memo:
                return block.memo[key]
        return None

    def _define(self, e: Expr) -> None:
        out = self._text(e)
        shared = self.uses[id(e)] > 1 and e.op not in ("const", "result")
        if shared or e.op == "load" or len(out.text) > LONGEST_INLINE:
            prefix = e.attr.buffer + "_" if e.op == "load" else "t"
            out = self._name(out.text, self.writer.numbered(prefix), out)
        self.writer.blocks[out.level].memo[(id(self), id(e))] = out

    def _text(self, e: Expr) -> Text:
        if e.op == "const":
            return Text(literal(e.attr), constant=True, infix=e.attr < 0)
        if e.op == "index":
            d = self.dim(e.attr)
            if d.constant or e.dtype is self.index_dtype:
                return d
            return Text(f"{d.operand}.to({type_name(e.dtype)})", d.dims, d.level)
        if e.op == "in_bounds":
            return self.condition(e.attr) or Text("tl.full([], 1, tl.int1)")
        if e.op == "result":
            return self.results[e.attr]
        if e.op == "load":
            return self._load(e)
        args = [found for a in e.args if (found := self._known(a)) is not None]
        how = form(e, self.target)
        literals = takes_literals(e, [a.constant for a in args])
        parts = [a if literals else self._typed(x, a) for x, a in zip(e.args, args, strict=True)]
        texts = [p.operand if how.wraps_operands else p.text for p in parts]
        return Text(how.text.format(*texts), _dims(parts), _level(parts), infix=how.wrapped)

    # ---- memory
    def _load(self, e: Expr) -> Text:
        b = self.buffers[e.attr.buffer]
        offset = self.offset(b, e.attr.index)
        guard = self.condition(e.attr.mask)
        pointer, mask, parts = self.address(b, offset, guard)
        arguments = (
            [pointer] + ([f"mask={mask}"] if mask else []) + (["other=0"] if guard or mask and self.tile.zeros else [])
        )
        text = f"tl.load({', '.join(arguments)})" + (" != 0" if b.dtype.kind == "b" else "")
        return Text(text, _dims(parts), _level(parts))

    def offset(self, b: Buffer, at: tuple[DimLike | Expr, ...]) -> Text:
        """The element offset of an index, computed entries included."""
        total: DimLike = 0
        parts: list[Text] = []
        texts: list[str] = []
        for i, stride in zip(at, b.strides, strict=True):
            if not isinstance(i, Expr):
                total = total + i * stride
                continue
            position, step = self.typed(i), self.dim(stride)
            text = position.operand
            if i.dtype is not self.index_dtype:
                text = f"{text}.to({type_name(self.index_dtype)})"
            texts.append(text if stride == 1 else f"{text} * {step.operand}")
            parts += [position, step]
        if total != 0 or not texts:
            plain = self.dim(total)
            if not texts:
                return plain
            texts.append(plain.text)
            parts.append(plain)
        return Text(" + ".join(texts), _dims(parts), _level(parts), infix=True)

    def address(self, b: Buffer, offset: Text, guard: Text | None, dims: int = 0) -> tuple[str, str, list[Text]]:
        """The pointer text, the mask text ("" for none) and what both are made of. The pointer gets the dimensions of the
        mask too, and at least `dims`."""
        wanted = offset.dims | dims | (guard.dims if guard else 0)
        masks = [m for k, m in enumerate(self.tile.live) if m is not None and wanted >> k & 1]
        if self.tile.inside is not None and wanted == self.tile.all:
            masks = [self.tile.inside]
        if guard is not None:
            masks.append(guard)
        mask = masks[0].text if len(masks) == 1 else " & ".join(m.operand for m in masks)
        pointer = b.name if offset == ZERO else f"{b.name} + {offset.operand}"
        if offset.dims != wanted:
            pointer += f" + tl.full({self.tile.shape(wanted)}, 0, {type_name(self.index_dtype)})"
        return pointer, mask, [offset, *masks, Text("", wanted)]

    def stores(self, stores: Sequence[Store], in_order: bool = False) -> None:
        """Writes stores to the innermost block, after all that they read: an output may lie where an input does. in_order:
        points are handled one after another, and no other program stores to where they do."""
        for s in stores:
            self.typed(s.value)
        for s in stores:
            self._store(s, in_order)

    def _store(self, s: Store, in_order: bool) -> None:
        b = self.buffers[s.buffer]
        value = self.typed(s.value)
        offset = self.offset(b, s.index)
        pointer, mask, _ = self.address(b, offset, self.condition(s.mask), value.dims)
        text = f"{value.operand}.to(tl.uint8)" if b.dtype.kind == "b" else value.text
        tail = f", mask={mask}" if mask else ""
        if s.accumulate and not in_order:
            self.writer.line(f'tl.atomic_{s.accumulate}({pointer}, {value.text}{tail}, sem="relaxed")')
        elif s.accumulate:
            assert s.accumulate == "add", "maxima are atomic"
            there = self.writer.numbered("there")
            self.writer.line(f"{there} = tl.load({pointer}{tail})")
            self.writer.line(f"tl.store({pointer}, {self._sum(there, value, b.dtype)}{tail})")
        else:
            self.writer.line(f"tl.store({pointer}, {text}{tail})")

    def _sum(self, there: str, value: Text, dtype: DType) -> str:
        """Narrow floats are added in float32 and rounded."""
        if dtype.kind == "f" and dtype.bits == 16:
            return f"({there}.to(tl.float32) + {value.operand}.to(tl.float32)).to({type_name(dtype)})"
        if dtype.kind == "b":
            return f"{there} | {value.operand}.to(tl.uint8)"
        return f"{there} + {value.operand}"

    def full(self, value: Text) -> str:
        """The value with all the tile's dimensions."""
        return value.text if value.dims == self.tile.all else f"tl.broadcast_to({value.text}, {self.tile.shape()})"


def _renumbered(d: DimLike, position: Dim, axes: Sequence[Axis]) -> DimLike:
    """`d` with the position that the axes were taken from in place of what they add up to: it is known to be contiguous."""
    if isinstance(d, int) or not all(d.is_linear_in(a.sym) for a in axes):
        return d
    step = d.coefficient(axes[-1].sym)
    new: DimLike = d + step * position
    for a in reversed(axes):
        if dim.same(step, 0) or not dim.same(d.coefficient(a.sym), step):
            return d
        new = new - step * a.sym
        step = step * a.extent
    return new


def _dims(parts: Sequence[Text]) -> int:
    out = 0
    for p in parts:
        out |= p.dims
    return out


def _level(parts: Sequence[Text]) -> int:
    return max((p.level for p in parts), default=0)


def _uses(kernel: Kernel) -> Counter[int]:
    """How many places read each expression."""
    everything = [e for s in kernel.stages for e in roots(s)]
    if kernel.anchor is not None:
        everything += kernel.anchor.operands
    uses = Counter(map(id, everything))
    for e in walk(*everything):
        uses.update(map(id, e.args))
    return uses
