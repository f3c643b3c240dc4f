"""Attention and its gradients to Triton: a block of rows (or of keys) per program, looped over blocks of the other side.

The forward pass keeps each row's largest score and sum so far, and rescales what it has when a larger one comes (online
softmax). The gradients make the weights again from the logarithms of those sums. Blocks that the causal diagonal, or the
end of a side, cuts through get a mask; those beyond the diagonal are not visited, the others need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...ir import dim
from ...ir.dim import DimLike
from ...ir.dtypes import bfloat16, float16
from ...ir.kernel import SCORE, Attention, Kernel, Schedule
from ...ir.scalar import Expr
from ...ir.target import Target
from .elements import ZERO, Text, Tile
from .emit import Frame
from .exprs import INTERPRETER, type_name
from .lowered import TritonKernel

LN_2 = 0.6931471805599453
MINUS_INFINITY = 'float("-inf")'
# The sides along the two dimensions of each tile. Scores lie so that the side a program owns comes first.
INPUTS = {"q": "md", "k": "nd", "v": "ne", "g": "me"}
TILES = {
    "rows": INPUTS | {"scores": "mn", "acc": "me"},
    "queries": INPUTS | {"scores": "mn", "acc": "md"},
    "keys": INPUTS | {"scores": "nm", "acc": "nd", "acc_v": "ne"},
}


def lower_attention(kernel: Kernel, schedule: Schedule, target: Target, index_bits: int | None) -> TritonKernel:
    """The source of a (prepared) kernel whose anchor is an Attention."""
    return _AttentionKernel(kernel, schedule, target, index_bits).lower()


class _AttentionKernel(Frame):
    def __init__(self, kernel: Kernel, schedule: Schedule, target: Target, index_bits: int | None):
        super().__init__(kernel, schedule, target, index_bits)
        assert isinstance(kernel.anchor, Attention)
        self.anchor = a = kernel.anchor
        self.axes = {"m": a.m, "n": a.n, "d": a.d, "e": a.e}
        self.own, self.other = ("n", "m") if a.part == "keys" else ("m", "n")
        self.blocks: dict[str, int] = dict(zip(self.axes, schedule.blocks, strict=True))
        self.tiles = {
            name: Tile((_block(first), _block(second)), [None, None], zeros=name in INPUTS or name == "scores")
            for name, (first, second) in TILES[a.part].items()
        }
        self.parts = {name: self.elements(t) for name, t in self.tiles.items()}
        for side, n in self.blocks.items():
            self.constant(_block(side), n)
        self.wide = ".to(tl.int64)" if self.index_type == "tl.int64" else ""
        self.type = type_name(a.dtype)
        self.scale = _scale(a.score)

    def lower(self) -> TritonKernel:
        totals = {side: self.size_text(self.parts["acc"], x.extent, f"{side}numel") for side, x in self.axes.items()}
        start = self._program(totals[self.own])
        for side in ("d", "e"):
            self._bind(side, f"tl.arange(0, {_block(side)})")
        self._bind(self.own, f"{start} + tl.arange(0, {_block(self.own)})")
        {"rows": self._rows, "queries": self._queries, "keys": self._keys}[self.anchor.part](start, totals)
        for stage in self.kernel.stages:
            name = "acc_v" if self.anchor.part == "keys" and stage.axes == (self.anchor.e,) else "acc"
            self.parts[name].stores(stage.stores)
        batch = dim.numel(tuple(a.extent for a in self.anchor.batch))
        return self.finish((dim.ceildiv(self.axes[self.own].extent, self.blocks[self.own]) * batch,))

    # ---- programs and indices
    def _program(self, total: str) -> str:
        """Takes the number of the program apart: batch, and the block of its own side, whose first point it returns.
        Causal programs with long loops come first."""
        w, block = self.writer, _block(self.own)
        program, blocks, start = w.name("program"), w.name("blocks"), w.name(f"{self.own}_start")
        w.line(f"{program} = tl.program_id(0){self.wide}")
        w.line(f"{blocks} = ({total} + {block} - 1) // {block}")
        number = f"{program} % {blocks}"
        last_first = self.anchor.causal and self.own == "m"
        w.line(f"{start} = {f'({blocks} - 1 - {number})' if last_first else f'({number})'} * {block}")
        first, *others = self.parts.values()
        if any(a.extent != 1 for a in self.anchor.batch):
            batch = w.name("batch")
            w.line(f"{batch} = {program} // {blocks}")
            first.bind_axes(self.anchor.batch, Text(batch))
        else:
            first.bind_axes(self.anchor.batch, ZERO)
        for other in others:
            other.tile.share(first.tile, self.anchor.batch)
        return start

    def _bind(self, side: str, points: str, inside: bool = False) -> None:
        """Binds the axis of a side, in every tile that has it, to a block of points. inside: all of them exist."""
        w, axis, block = self.writer, self.axes[side], self.blocks[side]
        at = w.name(f"{side}i")
        w.line(f"{at} = {points}{self.wide}")
        cut = not inside and (not isinstance(axis.extent, int) or axis.extent % block != 0)
        bound: dict[int, Tile] = {}
        for name, sides in TILES[self.anchor.part].items():
            if side not in sides:
                continue
            tile, along = self.tiles[name], sides.index(side)
            if along not in bound:
                index = w.name(f"{at}_{'row' if along == 0 else 'column'}")
                w.line(f"{index} = {at}{tile.along(along)}")
                tile.live[along] = self._live(index, axis.extent, along) if cut else None
                self.parts[name].bind_axes((axis,), Text(index, 1 << along, w.level))
                bound[along] = tile
            tile.live[along] = bound[along].live[along]
            tile.share(bound[along], (axis,))

    def _live(self, index: str, total: DimLike, along: int) -> Text:
        mask = self.writer.name(f"{index}_live")
        self.writer.line(f"{mask} = {index} < {self.parts['acc'].dim(total).text}")
        return Text(mask, 1 << along, self.writer.level)

    # ---- loops
    @contextmanager
    def _loop(self, begin: str, end: str, inside: bool) -> Iterator[None]:
        w, block = self.writer, _block(self.other)
        at = w.name(f"{self.other}_start")
        with w.indented(f"for {at} in range({begin}, {end}, {block}):"):
            self._bind(self.other, f"{at} + tl.arange(0, {block})", inside)
            yield

    def _whole(self, total: str) -> str:
        """The end of the last block of columns that all exist."""
        n, block = self.axes["n"].extent, self.blocks["n"]
        return str(n // block * block) if isinstance(n, int) else f"{total} // NBLOCK * NBLOCK"

    def _over_columns(self, start: str, total: str) -> Iterator[bool]:
        """Loops over the columns that a block of rows sees: yields in each, whether it needs a mask."""
        w, n, block = self.writer, self.axes["n"].extent, self.blocks["n"]
        whole, end = self._whole(total), total
        if self.anchor.causal:
            end = w.name("end")
            w.line(f"{end} = tl.minimum({start} + MBLOCK, {total})")
        if whole != "0":
            if self.anchor.causal:
                whole, least = w.name("whole"), whole
                w.line(f"{whole} = tl.minimum(({start} + 1) // NBLOCK * NBLOCK, {least})")
            with self._loop("0", whole, True):
                yield False
        if self.anchor.causal or not isinstance(n, int) or n % block:
            with self._loop(whole, end, False):
                yield True

    def _over_rows(self, start: str, total: str) -> Iterator[bool]:
        """Loops over the rows that see a block of columns. Rows that do not exist need no mask: they are all zeros."""
        w, begin = self.writer, "0"
        if self.anchor.causal:
            first, begin = w.name("first"), w.name("below")
            w.line(f"{first} = {start} // MBLOCK * MBLOCK")
            w.line(f"{begin} = tl.minimum(({start} + NBLOCK + MBLOCK - 2) // MBLOCK * MBLOCK, {total})")
            with self._loop(first, begin, False):
                yield True
        with self._loop(begin, total, False):
            yield False

    # ---- the three parts
    def _rows(self, start: str, totals: dict[str, str]) -> None:
        w, a = self.writer, self.anchor
        q = self._operand("q", a.q)
        acc = self._zeros("acc")
        top, total = w.name("top"), w.name("total")
        w.line(f"{top} = tl.full([MBLOCK, 1], {MINUS_INFINITY}, {self.type})")
        w.line(f"{total} = tl.full([MBLOCK, 1], 0.0, {self.type})")
        for masked in self._over_columns(start, totals["n"]):
            k, v = self._operand("k", a.k), self._operand("v", a.v)
            score = self._scores(q, k, masked)
            new, base, weight, rescaled = (w.numbered(x) for x in ("new_top", "base", "weight", "rescaled"))
            scaled = "" if self.scale == 1.0 else f" * {self.scale!r}"
            w.line(f"{new} = tl.maximum({top}, tl.max({score}, 1)[:, None]{scaled})")
            w.line(f"{base} = tl.where({new} == {MINUS_INFINITY}, 0.0, {new})")  # inf - inf is no number
            w.line(f"{weight} = {self._power(score, base)}")
            w.line(f"{rescaled} = tl.exp2({top} - {base})")
            w.line(f"{total} = {total} * {rescaled} + tl.sum({weight}, 1)[:, None]")
            weight = self._narrow(self._dropped(weight), a.v)
            w.line(f"{acc} = {self._dot(weight, v, f'{acc} * {rescaled}')}")
            w.line(f"{top} = {new}")
        w.line(f"{acc} = {acc} / {total}")
        if a.hides:
            w.line(f"{acc} = tl.where({total} == 0.0, 0.0, {acc})")
        lse = w.name("lse")
        w.line(f"{lse} = ({top} + tl.log2({total})) * {LN_2!r}")
        self.parts["acc"].results |= {a.names[0]: Text(acc, 3), a.names[1]: Text(lse, 1)}

    def _queries(self, start: str, totals: dict[str, str]) -> None:
        w, a = self.writer, self.anchor
        q, g = self._operand("q", a.q), self._operand("g", a.g)
        acc = self._zeros("acc")
        for masked in self._over_columns(start, totals["n"]):
            k, v = self._operand("k", a.k), self._operand("v", a.v)
            weight = self._weights(q, k, masked)
            change = self._change(weight, self._dot(g, f"tl.trans({v})"))
            w.line(f"{acc} = {self._dot(self._narrow(change, a.k), k, acc)}")
        self._scaled(acc)
        self.parts["acc"].results[a.names[0]] = Text(acc, 3)

    def _keys(self, start: str, totals: dict[str, str]) -> None:
        w, a = self.writer, self.anchor
        k, v = self._operand("k", a.k), self._operand("v", a.v)
        acc, acc_v = self._zeros("acc"), self._zeros("acc_v")
        for masked in self._over_rows(start, totals["m"]):
            q, g = self._operand("q", a.q), self._operand("g", a.g)
            weight = self._weights(k, q, masked)
            w.line(f"{acc_v} = {self._dot(self._narrow(self._dropped(weight), a.g), g, acc_v)}")
            change = self._change(weight, self._dot(v, f"tl.trans({g})"))
            w.line(f"{acc} = {self._dot(self._narrow(change, a.q), q, acc)}")
        self._scaled(acc)
        self.parts["acc"].results[a.names[0]] = Text(acc, 3)
        self.parts["acc_v"].results[a.names[1]] = Text(acc_v, 3)

    # ---- values
    def _zeros(self, name: str) -> str:
        acc = self.writer.name(name)
        self.writer.line(f"{acc} = tl.full({self.tiles[name].shape()}, 0.0, {self.type})")
        return acc

    def _scores(self, own: str, other: str, masked: bool) -> str:
        """The scores of a block, from the operands of both sides, without their `scale`; -inf where they do not count."""
        w, part, score = self.writer, self.parts["scores"], self.writer.numbered("score")
        w.line(f"{score} = {self._dot(own, f'tl.trans({other})')}")
        part.results[SCORE] = Text(score, 3, w.level)
        text = score if self.scale != 1.0 else part.full(part.typed(self.anchor.score))
        if masked:
            text = f"tl.where({self._visible()}, {text}, {MINUS_INFINITY})"
        if text == score:
            return score
        final = w.numbered("masked" if masked else "final")
        w.line(f"{final} = {text}")
        return final

    def _power(self, score: str, less: str) -> str:
        """2**(scale * score - less)."""
        inner = f"{score} - {less}" if self.scale == 1.0 else f"tl.fma({score}, {self.scale!r}, -{less})"
        return f"tl.exp2({inner})"

    def _visible(self) -> str:
        part = self.parts["scores"]
        live = part.tile.live[TILES[self.anchor.part]["scores"].index("n")]
        below = part.condition((self.anchor.m.sym - self.anchor.n.sym,)) if self.anchor.causal else None
        return " & ".join(t.operand for t in (live, below) if t is not None)

    def _weights(self, own: str, other: str, masked: bool) -> str:
        """The weights of a block, made again from the logarithms of the rows' sums."""
        w, part = self.writer, self.parts["scores"]
        score, weight = self._scores(own, other, masked), w.numbered("weight")
        assert self.anchor.lse is not None
        lse = part.typed(self.anchor.lse).operand
        if self.anchor.hides:  # a hidden row's logarithm is -inf: its weights become 0
            lse = f"tl.where({lse} == {MINUS_INFINITY}, 0.0, {lse})"
        w.line(f"{weight} = {self._power(score, lse)}")
        return weight

    def _dropped(self, weight: str) -> str:
        if self.anchor.factor is None:
            return weight
        name, part = self.writer.numbered("kept"), self.parts["scores"]
        self.writer.line(f"{name} = {weight} * {part.typed(self.anchor.factor).operand}")
        return name

    def _change(self, weight: str, into: str) -> str:
        """The cotangent of the scores, but for their slope."""
        w, found, change = self.writer, self.writer.numbered("into"), self.writer.numbered("change")
        assert self.anchor.delta is not None
        w.line(f"{found} = {into}")
        found = self._dropped(found)
        w.line(f"{change} = {weight} * ({found} - {self.parts['scores'].typed(self.anchor.delta).operand})")
        return change

    def _scaled(self, acc: str) -> None:
        if self.anchor.slope != 1.0:
            self.writer.line(f"{acc} = {acc} * {self.anchor.slope!r}")

    # ---- products
    def _operand(self, name: str, e: Expr | None) -> str:
        """A block of an operand, zero where there are no points."""
        assert e is not None
        part, e = self.parts[name], self._as_factor(e)
        value = part.typed(e)
        zeros = value.dims if e.op == "load" else 0  # along these, loads give zeros
        masks = [t.text for along, t in enumerate(part.tile.live) if t is not None and not zeros >> along & 1]
        text = part.full(value)
        if masks:
            text = f"tl.where({' & '.join(masks)}, {text}, 0.0)"
        if text.isidentifier():
            return text
        block = self.writer.numbered(f"{name}_block")
        self.writer.line(f"{block} = {text}")
        return block

    def _as_factor(self, e: Expr) -> Expr:
        """Narrow floats stay narrow in products, which are exact in float32. (Triton's interpreter can't multiply bfloat16.)"""
        narrow = e.op == "cast" and e.args[0].dtype in (float16, bfloat16) and self.target.cpu != INTERPRETER
        return e.args[0] if narrow else e

    def _narrow(self, block: str, like: Expr | None) -> str:
        """A block of numbers with the precision of another factor of the same product."""
        assert like is not None
        if like.op != "cast" or like.args[0].dtype not in (float16, bfloat16):
            return block
        back = f".to({self.type})" if self.target.cpu == INTERPRETER else ""
        return f"{block}.to({type_name(like.args[0].dtype)}){back}"

    def _dot(self, a: str, b: str, acc: str = "") -> str:
        middle = f", {acc}" if acc else ""
        return f'tl.dot({a}, {b}{middle}, input_precision="{self.schedule.precision}", out_dtype={self.type})'


def _block(side: str) -> str:
    """The name of a side's block size."""
    return f"{side.upper()}BLOCK"


def _scale(score: Expr) -> float:
    """The positive number that raw scores are only multiplied by: the multiply-add that subtracts their largest one does
    that too. 1 if there is more to do."""
    if score.op != "mul" or score.args[0].op != "result" or score.args[1].op != "const":
        return 1.0
    return score.args[1].attr if score.args[1].attr > 0 else 1.0
