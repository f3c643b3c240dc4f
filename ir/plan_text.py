"""The text form of plans, for people to read."""

from __future__ import annotations

from .kernel_text import format_schedule
from .plan import ControlStep, HostStep, Plan, PlanBuffer, Step


def format_plan(plan: Plan) -> str:
    """Buffers, then steps in order: kernels with the buffers of their parameters, and what runs on the host."""
    lines = [f"plan @{plan.name}: arena of {plan.arena} bytes, dims ({', '.join(map(str, plan.dims))})", "", "buffers"]
    lines += [f"  {k:>3} {_buffer(b)}" for k, b in enumerate(plan.buffers)]
    lines += ["", "steps"]
    for k, s in enumerate(plan.steps):
        if k == plan.commit_from:
            lines.append("  from here on inputs are overwritten")
        if isinstance(s, ControlStep):
            lines += _control(k, s)
            continue
        lines.append(f"  {k:>3} {_host(s) if isinstance(s, HostStep) else _kernel(s)}")
    lines += ["", f"outputs {', '.join(map(str, plan.outputs)) or 'none'}"]
    lines += [f"check {b}: {message}" for b, message in plan.checks]
    return "\n".join(lines)


def _buffer(b: PlanBuffer) -> str:
    return f"temp {b.type} at {b.offset}" if b.kind == "temp" else f"{b.kind} {b.slot} {b.type}"


def _kernel(s: Step) -> str:
    shifts = s.offsets or (0,) * len(s.args)
    args = ", ".join(f"{b}+{o}" if o else str(b) for b, o in zip(s.args, shifts, strict=True))
    return f"{s.kernel.name}({args})  {' '.join(s.kernel.ops)}  [{format_schedule(s.schedule)}]"


def _control(k: int, s: ControlStep) -> list[str]:
    line = f"  # {s.node.loc}" if s.node.loc else ""
    results = ", ".join(map(str, s.results))
    lines = [f"  {k:>3} {results} = {s.node.op.name}({', '.join(map(str, s.args))}), natively, with{line}"]
    for p in s.plans:
        lines += [f"      {inner}" for inner in format_plan(p).split("\n") if inner]
    return lines


def _host(s: HostStep) -> str:
    results = ", ".join("_" if b < 0 else str(b) for b in s.results)
    line = f"  # {s.node.loc}" if s.node.loc else ""
    return f"{results} = host {s.node.op.name}({', '.join(map(str, s.args))}): {s.reason}{line}"
