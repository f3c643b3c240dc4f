"""`Explanation.to_html`: a page without scripts or anything from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .explain import Explanation, TraceReport

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }
pre, code { font: 13px/1.4 ui-monospace, monospace; }
pre { background: #f6f6f4; padding: .7em 1em; overflow-x: auto; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { padding: .15em .8em .15em 0; text-align: left; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid #bbb; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; margin: .3em 0; }
.bad { color: #a40000; }
@media (prefers-color-scheme: dark) {
  body { background: #1c1c1c; color: #ddd; } pre { background: #262626; } .bad { color: #ff7b72; }
}
"""


def page(e: Explanation) -> str:
    """The whole document."""
    c = e.cache
    parts = [
        f"<h1>{escape(e.name)}</h1>",
        f"<p>{c['traces']} traces; {c['hits']} hits, {c['misses']} misses, {c['eager']} calls in plain Python.</p>",
    ]
    if e.reason:
        parts.append(f'<p class="bad">Not captured: {escape(e.reason)}</p>')
    parts += [f'<p class="bad">Plain Python: {escape(f)}</p>' for f in e.fallbacks if f != e.reason]
    if c["failing"]:
        rows = [(str(n), g) for g, n in c["failing"].items()]
        parts += ["<h2>Guards that failed</h2>", _table(("times", "guard"), rows)]
    if e.tree:
        parts += ["<h2>What Python asks</h2>", _pre("\n".join(e.tree))]
    parts += [_trace(t) for t in e.traces]
    title = f"<title>tracefuse: {escape(e.name)}</title>"
    head = f'<meta charset="utf-8">{title}<style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _trace(t: TraceReport) -> str:
    from .explain import quantity

    parts = [f"<h2>Trace {escape(t.name)}</h2>"]
    parts.append(
        f"<p>{t.nodes} nodes, {t.optimized_nodes} after passes; {t.calls} calls, entry: {escape(t.entry)}.</p>"
    )
    if t.answers:
        parts.append(_table(("where", "answer"), t.answers))
    parts += [f'<p class="bad">{escape(n)}</p>' for n in t.notes]
    if t.kernels:
        head = ("kernel", "operations", "lines", "read", "written", "work")
        rows = [
            (
                k.name,
                ", ".join(k.ops),
                ", ".join(k.sources),
                quantity(k.read, "B"),
                quantity(k.written, "B"),
                quantity(k.flops, "flop"),
            )
            for k in t.kernels
        ]
        parts.append(_table(head, rows))
    if t.host_steps:
        rows = [(h.op, h.reason, h.source) for h in t.host_steps]
        parts.append(_table(("on the host", "reason", "line"), rows))
    if t.memory is not None:
        m = t.memory
        sizes = [("inputs", m.inputs), ("constants", m.constants), ("outputs", m.outputs), ("arena", m.arena)]
        parts.append(_table(tuple(n for n, _ in sizes), [tuple(quantity(v, "B") for _, v in sizes)]))
    if t.seconds:
        rows = [(k, f"{1e3 * v:.1f} ms") for k, v in t.seconds.items() if v >= 5e-5]
        parts.append(_fold("Time by stage", _table(("stage", "time"), rows)))
    if t.guards:
        parts.append(_fold(f"Guards ({len(t.guards)})", _pre("\n".join(t.guards))))
    parts.append(_fold("Graph as captured", _pre(t.graph)))
    parts.append(_fold("Graph after the passes", _pre(t.optimized)))
    parts += [_fold(f"Kernel {k.name}", _pre(f"{k.text}\n{k.schedule}")) for k in t.kernels]
    return "\n".join(parts)


def _fold(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]] | tuple[tuple[str, ...], ...]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(x))}</td>" for x in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
