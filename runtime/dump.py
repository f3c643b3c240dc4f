"""What a compiled graph looks like at each stage, as text: for TRACEFUSE_DUMP as files, for TRACEFUSE_DEBUG on stderr."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..backends.llvm import engine
from ..ir.kernel_text import format_kernel, format_schedule
from ..ir.plan_text import format_plan
from . import debug, knobs
from .executable import Executable, lower_kernel

LEVELS = ((2, "graph.txt optimized.txt"), (3, "kernels.txt plan.txt"), (4, ".ll"), (5, ".s"))  # of TRACEFUSE_DEBUG
_warned = False


def texts(e: Executable) -> Iterator[tuple[str, str]]:
    """File names and contents: the captured graph, the graph that fusion got, kernels with their schedules, the plan,
    then LLVM text and assembly of each kernel and of the code that calls them."""
    yield "graph.txt", str(e.graph)
    yield "optimized.txt", str(e.report.graph or e.graph)
    steps = {s.kernel.name: s for s in e.plan.all_kernel_steps}
    kernels = [f"{format_kernel(s.kernel)}\n{format_schedule(s.schedule)}" for s in steps.values()]
    yield "kernels.txt", "\n\n".join(kernels)
    yield "plan.txt", format_plan(e.plan)
    code = {"plan": e.plan_code().text}
    for name, s in steps.items():  # those from the cache on disk have left their text behind
        code[name] = e.kernels[name].text or lower_kernel(s.kernel, s.schedule, e.target).text
    for name, text in code.items():
        yield f"{name}.ll", text
        yield f"{name}.s", engine.emit_assembly(text, e.target)


def report(e: Executable) -> None:
    """Does what TRACEFUSE_DEBUG and TRACEFUSE_DUMP ask for a graph that has just been compiled."""
    level = debug.level()
    folder = knobs.KNOBS["TRACEFUSE_DUMP"].get()
    if level > 0:
        debug.say(_summary(e))
    if level > 1:
        wanted = tuple(name for least, names in LEVELS if level >= least for name in names.split())
        for name, text in texts(e):
            if name.endswith(wanted):
                debug.say(f"{e.graph.name}: {name}\n{text}")
    if folder:
        dump(e, Path(folder).expanduser())


def _summary(e: Executable) -> str:
    kernels = {s.kernel.name for s in e.plan.all_kernel_steps}
    hosts = [s.node.op.name for s in e.plan.host_steps]
    times = ", ".join(f"{stage} {debug.milliseconds(s)}" for stage, s in e.seconds.items())
    counts = f"{len(kernels)} kernels, {e.hits} of them from the cache on disk"
    counts += f"; on the host: {', '.join(hosts)}" if hosts else ""
    return f"{e.graph.name}: compiled in {debug.milliseconds(sum(e.seconds.values()))} ({times}): {counts}"


def dump(e: Executable, folder: Path) -> None:
    """Writes `texts` into a subfolder named after the graph and its contents, which appears whole or not at all.

    One RuntimeWarning in the life of the process where that fails.
    """
    global _warned
    digest = hashlib.sha256()
    made = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=".tmp-", dir=folder)
        for name, text in texts(e):
            Path(made, name).write_text(text + "\n", encoding="utf-8")
            digest.update(f"{name}\n{text}\n".encode())
        os.chmod(made, 0o755)
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in e.graph.name)[:60]
        target = folder / f"{plain}-{digest.hexdigest()[:12]}"
        if not target.exists():
            os.rename(made, target)
    except OSError as error:
        if not _warned:
            _warned = True
            warnings.warn(f"TRACEFUSE_DUMP={folder}: {error}; graphs are not written", RuntimeWarning, stacklevel=2)
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
