"""What compilers make of dynamic Python: the programs of `tests/programs`, compiled whole by tracefuse, torch.compile and
jax.jit, each on several inputs that take different ways.

    python benchmarks/dynamic_programs.py [--markdown FILE]

A program uses names that the three libraries share (`tr.exp`, `tr.where`, ...); where a library does not have one, or
where it runs the program in plain Python with an error, the program does not count for it. "whole" is: compiled without
leaving anything to plain Python (`fullgraph=True`; jit always), and the results of plain Python for every input.
torch.compile runs with its backend "eager": only what it captures is looked at, not the code that it would generate.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import peer, table

import tracefuse as tr

HERE = Path(__file__).resolve().parent.parent / "tests" / "programs"
GROUPS = {
    "branches": ("test_control_flow.py", "BRANCHES", "SIGNS"),
    "numbers out of tensors": ("test_control_flow.py", "NUMBERS", "SIGNS"),
    "loops that close": ("test_loops.py", "CLOSED", "STARTS"),
    "other loops": ("test_loops.py", "OPEN", "STARTS"),
}
STARTS_NAN = 4  # inputs used: the ones with NaN behind them have no plain result in some programs


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"programs_{name[:-3]}", HERE / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rebound(program: Callable, library: Any) -> Callable:
    """The program with another library in the place of `tr`."""
    namespace = {**program.__globals__, "tr": library}
    return types.FunctionType(program.__code__, namespace, program.__name__, program.__defaults__, program.__closure__)


def plain(x: Any) -> Any:
    """A result as nested Python and NumPy."""
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if hasattr(x, "detach"):
        x = x.detach()
    return np.asarray(x.numpy() if hasattr(x, "numpy") else x).tolist() if hasattr(x, "shape") else x


def same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (bool, int, float)) and isinstance(b, (bool, int, float)):
        return bool(np.isclose(float(a), float(b), rtol=1e-3, atol=1e-4, equal_nan=True))
    return a == b


class Side:
    """A library: its arrays, and how it compiles a function whole."""

    def __init__(
        self, name: str, library: Any, array: Callable[[np.ndarray], Any], whole: Callable[[Callable], Callable]
    ):
        self.name, self.library, self.array, self.whole = name, library, array, whole

    def judge(self, program: Callable, inputs: list[np.ndarray]) -> str:
        """ "whole", "wrong", the name of an error, or "not expressible"."""
        f = rebound(program, self.library)
        try:
            want = [plain(f(self.array(x))) for x in inputs]
        except Exception:
            return "not expressible"
        try:
            compiled = self.whole(f)
            got = [plain(compiled(self.array(x))) for x in inputs]
        except Exception as e:
            return type(e).__name__
        return "whole" if all(map(same, got, want)) else "wrong"


def sides() -> list[Side]:
    out = [Side("tracefuse", tr, lambda x: tr.tensor(x.copy()), lambda f: tr.compile(f, fullgraph=True))]
    torch, jax = peer("torch"), peer("jax")
    if torch is not None:
        import torch._dynamo

        def compiled(f: Callable) -> Callable:
            torch._dynamo.reset()
            return torch.compile(f, fullgraph=True, backend="eager")

        make = lambda x: torch.tensor(x.copy())  # noqa: E731
        out.append(Side("torch.compile", torch, make, compiled))
    if jax is not None:
        import jax.numpy as jnp

        out.append(Side("jax.jit", jnp, jnp.asarray, jax.jit))
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--markdown", help="a file to write the tables to")
    p.add_argument("--verbose", action="store_true")
    given = p.parse_args()
    warnings.simplefilter("ignore")
    rows: list[list[str]] = []
    details: list[list[str]] = []
    judges = sides()
    for group, (file, listed, starts) in GROUPS.items():
        module = load(file)
        programs = [f for f in getattr(module, listed) if f.__name__ not in ("asserts", "raises")]
        inputs = [args[0].numpy() for args in getattr(module, starts)[:STARTS_NAN]]
        counts = []
        found: dict[str, list[str]] = {f.__name__: [] for f in programs}
        for side in judges:
            verdicts = [side.judge(f, inputs) for f in programs]
            able = [v for v in verdicts if v != "not expressible"]
            counts.append(f"{sum(v == 'whole' for v in able)} of {len(able)}")
            for f, v in zip(programs, verdicts):
                found[f.__name__].append(v)
        rows.append([group, *counts])
        details += [[f"`{name}`", *vs] for name, vs in found.items()]
        print(rows[-1], flush=True)
    head = ["", *(s.name for s in judges)]
    text = table("Programs compiled whole, with the results of plain Python", head, rows)
    print(text)
    more = table("One by one", head, details)
    if given.verbose:
        print(more)
    if given.markdown:
        Path(given.markdown).write_text(f"{text}\n\n{more}\n")


if __name__ == "__main__":
    main()
