"""What compilers make of dynamic Python: the programs of `tests/programs`, compiled whole by tracefuse, torch.compile and
jax.jit, each on several inputs that take different ways.

    python benchmarks/dynamic_programs.py [--markdown FILE]

A program uses names that the three libraries share (`tr.exp`, `tr.where`, ...); where a library does not have one, or
where it runs the program in plain Python with an error, the program does not count for it. "whole" is: compiled without
leaving anything to plain Python (`fullgraph=True`; jit always), and for every input the results of plain Python, and the
same arguments, state, printed text and exceptions afterwards. Files with stateful programs (`stateful.py`) are loaded
once for each library, with it in the place of tracefuse.
torch.compile runs with its backend "eager": only what it captures is looked at, not the code that it would generate.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import dataclasses
import importlib.util
import io
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
    "sizes that depend on values": ("test_sizes.py", "VECTOR_PROGRAMS", "VECTORS"),
}
STATEFUL = {
    "mutation": ("test_mutation.py",),
    "aliasing": ("test_aliasing.py",),
    "randomness": ("test_randomness.py",),
    "exceptions and contexts": ("test_exceptions.py",),
    "Python: statements, functions, iteration": ("test_language.py",),
    "Python: classes and objects": ("test_objects.py",),
    "Python: text and printing": ("test_text.py",),
    "modules made inside": ("test_modules.py",),
    "what changes between calls": ("test_guards.py",),
}
STARTS_NAN = 4  # inputs used: the ones with NaN behind them have no plain result in some programs


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"programs_{name[:-3]}", HERE / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def in_place_of_tracefuse(side: Side) -> Any:
    """Imports of tracefuse, its `nn` and `optim`, and `stateful` give what `side` has."""
    names = ("tracefuse", "tracefuse.nn", "tracefuse.nn.functional", "tracefuse.optim", "tracefuse.runtime", "stateful")
    before = {n: sys.modules.get(n) for n in names}
    shim = types.ModuleType("tracefuse")
    shim.__dict__.update({k: v for k, v in vars(side.library).items() if not k.startswith("__")})
    shim.__dict__.setdefault("compile", lambda f=None, **options: f or (lambda g: g))  # of tests, which are not run
    stateful = types.ModuleType("stateful")
    stateful.__dict__.update(Box=Box, Point=Point, Programs=Programs, described=None)
    stateful.__dict__.update(vector=lambda i, n=3: side.array(np.arange(n, dtype=np.float32) * 0.5 + i + 1))
    absent = types.ModuleType("nn")
    absent.__dict__.update(Module=object, functional=types.ModuleType("functional"))
    nn, optim = getattr(side.library, "nn", absent), getattr(side.library, "optim", types.ModuleType("optim"))
    functional = nn.functional
    shim.__dict__.update(nn=nn, optim=optim)
    runtime = types.ModuleType("runtime")
    runtime.__dict__.update(entry=None)
    if side.library is tr:
        sys.modules["stateful"] = stateful
    else:
        sys.modules.update(zip(names, (shim, nn, functional, optim, runtime, stateful)))
    try:
        yield
    finally:
        for n, module in before.items():
            sys.modules.pop(n, None)
            sys.modules.update({} if module is None else {n: module})


class Box:
    def __init__(self, **members: Any):
        self.__dict__.update(members)


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 2.0


class Programs(list):
    def __call__(self, **settings: Any) -> Callable:
        return lambda make: self.append((make, settings)) or make


def snapshot(x: Any, depth: int = 0) -> Any:
    """A value, as nested Python, after a call: objects by their attributes, modules by their tensors."""
    if depth > 12 or isinstance(x, (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return "..."
    if isinstance(x, (str, int, float, complex, bytes, type(None))):
        return x if type(x) in (str, int, float, complex, bytes, bool, type(None)) else (type(x).__name__, str(x))
    if hasattr(type(x), "state_dict"):
        return [type(x).__name__, snapshot(dict(x.state_dict()), depth + 1)]
    if hasattr(type(x), "shape") and hasattr(type(x), "dtype"):
        return plain(x)
    if isinstance(x, collections.abc.Mapping):
        return [type(x).__name__, [[snapshot(k, depth + 1), snapshot(v, depth + 1)] for k, v in x.items()]]
    if isinstance(x, (list, tuple, collections.deque)):
        return [type(x).__name__, [snapshot(v, depth + 1) for v in x]]
    if isinstance(x, (set, frozenset)):
        return [type(x).__name__, sorted(map(str, x))]
    return [type(x).__name__, snapshot(getattr(x, "__dict__", str(type(x))), depth + 1)]


def played(side: Side, make: Callable, settings: dict[str, Any], compiled: bool) -> list[Any]:
    """What the calls of a stateful program give and leave behind."""
    if hasattr(side.library, "manual_seed"):
        side.library.manual_seed(7)
    f, state = make()
    arguments, between = settings.get("arguments"), settings.get("between")
    f = side.whole(f) if compiled else f
    out = []
    for i in range(settings.get("n", 5)):
        if between is not None:
            between(i, state)
        args = arguments(i) if arguments else (side.array(np.arange(3, dtype=np.float32) * 0.5 + i + 1),)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                result = snapshot(f(*args))
            except Exception as e:
                result = ["raised", type(e).__name__, str(e)]
        out.append(copy.deepcopy([result, snapshot(list(args)), snapshot(state), printed.getvalue()]))
    return out


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

    def judge_stateful(self, make: Callable, settings: dict[str, Any]) -> str:
        """The same for a stateful program."""
        try:
            want = played(self, make, settings, False)
        except Exception:
            return "not expressible"
        raised = any(step[0][:1] == ["raised"] for step in want if isinstance(step[0], list))
        if raised and not settings.get("fails"):
            return "not expressible"
        try:
            got = played(self, make, settings, True)
        except Exception as e:
            return type(e).__name__
        for g, w in zip(got, want):
            if isinstance(g[0], list) and g[0][:1] == ["raised"] and g[0] != w[0]:
                return g[0][1]
            if not same(g, w):
                return "wrong"
        return "whole"


def sides() -> list[Side]:
    out = [Side("tracefuse", tr, lambda x: tr.tensor(x.copy()), lambda f: tr.compile(f, fullgraph=True))]
    torch, jax = peer("torch"), peer("jax")
    if torch is not None:
        import torch._dynamo

        torch._dynamo.config.recompile_limit = 64  # of 8: some programs need a trace for each call
        torch._dynamo.config.capture_scalar_outputs = True
        torch._dynamo.config.capture_dynamic_output_shape_ops = True

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
    for group, files in STATEFUL.items():
        found = {}
        for side in judges:
            with in_place_of_tracefuse(side):
                listed = [p for file in files for p in load(file).program]
                for make, settings in listed:
                    found.setdefault(make.__name__, []).append(side.judge_stateful(make, settings))
        verdicts = list(zip(*found.values()))
        counts = []
        for column in verdicts:
            able = [v for v in column if v != "not expressible"]
            counts.append(f"{sum(v == 'whole' for v in able)} of {len(able)}")
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
