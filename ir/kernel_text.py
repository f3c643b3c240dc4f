"""The text form of kernels, schedules and scalar expressions: what `explain` shows and cache keys hash."""

from __future__ import annotations

from .kernel import Axis, Kernel, Schedule, Store
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
    counter = 0
    if k.anchor:
        c = k.anchor
        sides = f"batch ({_axes(c.batch)}) m ({_axes(c.m)}) n ({_axes(c.n)})"
        lines.append(f"    {c.name}: {c.dtype} = contract {sides} over ({_axes(c.k)})")
        lines.append(f"      lhs {format_expr(c.lhs)}")
        lines.append(f"      rhs {format_expr(c.rhs)}")
    for s in k.stages:
        names: dict[int, str] = {}
        span = f" from {format_expr(s.span[0])} to {format_expr(s.span[1])}" if s.span else ""
        lines.append(f"    for {_axes(s.axes)}{span}:" if s.axes else "    then:")
        roots = [x for r in s.reductions for x in r.inputs] + [x.value for x in s.stores]
        for e in _shared(roots):
            text = format_expr(e, names)
            names[id(e)] = f"t{counter}"
            lines.append(f"      t{counter} = {text}")
            counter += 1
        for r in s.reductions:
            inputs = ", ".join(format_expr(x, names) for x in r.inputs)
            kind = f"running {r.kind}" if r.running else r.kind
            lines.append(f"      {', '.join(r.names)}: {r.dtype} = {kind} {inputs}")
        for x in s.stores:
            lines.append(f"      {_store(x, names)}")
    return "\n".join(lines)


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
