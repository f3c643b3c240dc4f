"""The text form of kernels, schedules and scalar expressions: what `explain` shows and cache keys hash."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from .kernel import Anchor, Axis, Contraction, Kernel, Schedule, Store
from .scalar import Expr

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
          "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>"}  # fmt: skip


_DEEP = 40  # levels of an expression on one line


def format_expr(e: Expr, names: dict[int, str] | None = None) -> str:
    """One line; shared parts are repeated unless `names` gives them a name."""
    if names and id(e) in names:
        return names[id(e)]
    if e.op == "const":
        return f"{e.attr}:{e.dtype}"
    if e.op in ("index", "result"):
        return f"{e.attr}" if e.op == "result" else f"index({e.attr}):{e.dtype}"
    if e.op == "in_bounds":
        return "in_bounds(" + " & ".join(f"{d} >= 0" for d in e.attr) + ")"
    if e.op == "load":
        inner = ", ".join(format_expr(i, names) if isinstance(i, Expr) else str(i) for i in e.attr.index)
        guard = f" if {' & '.join(f'{d} >= 0' for d in e.attr.mask)}" if e.attr.mask else ""
        return f"{e.attr.buffer}[{inner}{guard}]"
    args = [format_expr(a, names) for a in e.args]
    if e.op in _INFIX:
        return f"({args[0]} {_INFIX[e.op]} {args[1]})"
    if e.op in ("cast", "bitcast"):
        return f"{e.op}({args[0]}, {e.dtype})"
    return f"{e.op}({', '.join(args)})"


def _shared(roots: list[Expr]) -> list[Expr]:
    """Inner nodes that more than one place reads, and some of those that lie deep, operands first."""
    from .scalar import LEAVES, walk

    uses: dict[int, int] = {}
    order = list(walk(*roots))
    for e in order:
        for a in e.args:
            uses[id(a)] = uses.get(id(a), 0) + 1
    for r in roots:
        uses[id(r)] = uses.get(id(r), 0) + 1
    out: list[Expr] = []
    height: dict[int, int] = {}  # above what has a name
    for e in order:
        height[id(e)] = 1 + max((height[id(a)] for a in e.args), default=0)
        shared = uses.get(id(e), 0) > 1 and (e.op not in LEAVES or e.op == "load" and e.args)
        if shared or height[id(e)] >= _DEEP:
            out.append(e)
            height[id(e)] = 0
    return out


def _axes(axes: tuple[Axis, ...]) -> str:
    return ", ".join(f"{a.name}: {a.extent}" for a in axes)


def format_kernel(k: Kernel) -> str:
    lines = [f"kernel {k.name}({', '.join(map(str, k.dims))})"]
    for b in k.params:
        lines.append(
            f"  {b.role} {b.name}: {b.dtype}[{', '.join(map(str, b.shape))}] strides ({', '.join(map(str, b.strides))})"
        )
    lines.append(f"  for {_axes(k.axes)}:" if k.axes else "  once:")
    count = itertools.count()
    if k.anchor is not None:
        lines += _anchor(k.anchor, count)
    for s in k.stages:
        names: dict[int, str] = {}
        span = ""
        if s.span:
            lines += _named(list(s.span), names, count)
            span = f" from {format_expr(s.span[0], names)} to {format_expr(s.span[1], names)}"
        lines.append(f"    for {_axes(s.axes)}{span}:" if s.axes else "    then:")
        computed = [i for x in s.stores for i in x.index if isinstance(i, Expr)]
        roots = [x for r in s.reductions for x in r.inputs] + [x.value for x in s.stores] + computed
        lines += _named(roots, names, count)
        for r in s.reductions:
            inputs = ", ".join(format_expr(x, names) for x in r.inputs)
            kind = f"running {r.kind}" if r.running else r.kind
            lines.append(f"      {', '.join(r.names)}: {r.dtype} = {kind} {inputs}")
        for x in s.stores:
            lines.append(f"      {_store(x, names)}")
    return "\n".join(lines)


def _named(roots: list[Expr], names: dict[int, str], count: Iterator[int]) -> list[str]:
    """Lines that give names to what is shared, which they add to `names`."""
    lines = []
    for e in _shared(roots):
        if id(e) in names:
            continue
        text = format_expr(e, names)
        names[id(e)] = f"t{next(count)}"
        lines.append(f"      {names[id(e)]} = {text}")
    return lines


def _anchor(a: Anchor, count: Iterator[int]) -> list[str]:
    head = f"    {', '.join(a.names)}: {a.dtype} = "
    if isinstance(a, Contraction):
        head += f"contract batch ({_axes(a.batch)}) m ({_axes(a.m)}) n ({_axes(a.n)}) over ({_axes(a.k)})"
        return [head, *(f"      {what} {format_expr(e)}" for what, e in (("lhs", a.lhs), ("rhs", a.rhs)))]
    head += f"attention {a.part} " + "causal " * a.causal + "hides " * a.hides
    head += f"batch ({_axes(a.batch)}) m ({_axes((a.m,))}) n ({_axes((a.n,))}) d ({_axes((a.d,))}) e ({_axes((a.e,))})"
    names: dict[int, str] = {}
    lines = [head, *_named(list(a.operands), names, count)]
    lines += [f"      {name} {format_expr(e, names)}" for name, e in a.named_operands.items()]
    return lines + [f"      slope {a.slope!r}"] * (a.part != "rows")


def _store(s: Store, names: dict[int, str]) -> str:
    inner = ", ".join(format_expr(i, names) if isinstance(i, Expr) else str(i) for i in s.index)
    guard = f" if {' & '.join(f'{d} >= 0' for d in s.mask)}" if s.mask else ""
    sign = {"": "=", "add": "+=", "max": "max="}[s.accumulate]
    return f"{s.buffer}[{inner}] {sign} {format_expr(s.value, names)}{guard}"


def format_schedule(s: Schedule) -> str:
    parts = [
        f"{f} {getattr(s, f)}"
        for f in ("vector", "lanes", "unroll", "grain", "block", "across", "tile")
        if getattr(s, f)
    ]
    if s.stream:
        parts.append(f"stream {', '.join(s.stream)}")
    if s.prefetch:
        parts.append("prefetch " + ", ".join(f"{b} in stage {k} by {n}" for b, k, n in s.prefetch))
    if s.blocks:
        gpu = ("blocks", "warps", "stages", "split", "group", "precision", "persistent")
        parts += [f"{f} {getattr(s, f)}" for f in gpu if getattr(s, f)]
    return "schedule " + "; ".join(parts)
