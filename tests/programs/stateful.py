"""Programs that keep a state: run for several calls as plain Python, and for the same calls compiled, whole.

A program is a function that makes a fresh (function, state). Results, arguments, state, printed text, random numbers,
exceptions, and which tensors share memory must be equal after every call; nothing may run as plain Python, and there
may be only so many traces.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import functools
import io
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tracefuse as tr
from tracefuse import nn


def vector(i, n=3):
    return tr.tensor(np.arange(n, dtype=np.float32) * 0.5 + i + 1)


class Box:
    """An object with attributes."""

    def __init__(self, **members):
        self.__dict__.update(members)


@dataclasses.dataclass
class Point:
    x: object
    y: object = 2.0


def described(x: Any, depth: int = 0) -> Any:
    """A value as something that `==` compares. (Compiled code leaves out histories that backward has used up.)"""
    assert depth < 20
    inner = functools.partial(described, depth=depth + 1)
    if isinstance(x, tr.Tensor):
        a = np.asarray(x.detach())
        grad = None if x.grad is None else inner(x.grad)
        return type(x).__name__, str(a.dtype), a.shape, x.requires_grad and x.is_leaf, _rounded(a), grad
    if isinstance(x, (np.ndarray, np.generic)):
        return type(x).__name__, str(x.dtype), x.shape, _rounded(np.asarray(x))
    if isinstance(x, tr.Generator):
        return "Generator", x.state.tolist()
    if isinstance(x, dict):
        return type(x).__name__, [(inner(k), inner(v)) for k, v in x.items()], inner(getattr(x, "__dict__", None))
    if isinstance(x, (list, tuple, collections.deque)):
        return type(x).__name__, [inner(v) for v in x], inner(getattr(x, "__dict__", None))
    if isinstance(x, (set, frozenset)):
        return type(x).__name__, sorted(repr(inner(v)) for v in x)
    if isinstance(x, nn.Module):
        own = {k: v for k, v in vars(x).items() if not k.startswith("_")}
        names = [name for name, _ in x.named_modules()]
        return type(x).__name__, inner(own), inner(dict(x.named_parameters())), inner(dict(x.named_buffers())), names
    if isinstance(x, (type, functools.partial, types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return "callable"
    if hasattr(x, "__dict__") and not isinstance(x, enum.Enum):
        return type(x).__name__, inner(vars(x))
    if hasattr(type(x), "__slots__"):
        return type(x).__name__, [inner(getattr(x, s, None)) for s in type(x).__slots__]
    return type(x).__name__, repr(x)


def _rounded(a: np.ndarray) -> Any:
    return np.round(a.astype(np.complex128 if a.dtype.kind == "c" else np.float64), 4).tolist()


def tensors(x: Any, depth: int = 0) -> Iterator[Any]:
    """The tensors and arrays in a value, in order."""
    if depth > 8:
        return
    if isinstance(x, (tr.Tensor, np.ndarray)):
        yield x
    elif isinstance(x, dict):
        for v in x.values():
            yield from tensors(v, depth + 1)
    elif isinstance(x, (list, tuple, collections.deque)):
        for v in x:
            yield from tensors(v, depth + 1)
    elif isinstance(x, nn.Module):
        yield from (*x.parameters(), *x.buffers())
    elif isinstance(x, (Box, Point, types.SimpleNamespace)):
        yield from tensors(vars(x), depth + 1)


def sharing(*values: Any) -> list[tuple[int, int, bool]]:
    """Which tensors in `values` are one object, or have memory in common."""
    found = list(tensors(values))
    arrays = [t.detach().numpy() if isinstance(t, tr.Tensor) else t for t in found]
    pairs = [(i, j) for i in range(len(found)) for j in range(i) if np.may_share_memory(arrays[i], arrays[j])]
    return [(i, j, found[i] is found[j]) for i, j in pairs]


def overwrite(x: Any) -> None:
    """Writes into the tensors of a result: what later calls compute must not depend on them."""
    for t in tensors(x):
        if isinstance(t, tr.Tensor) and t.dtype.is_floating and t._data.flags.writeable:
            t.detach().add_(0.25)


def play(f: Callable, state: Any, n: int, arguments: Callable | None, between: Callable | None) -> list[Any]:
    """What `n` calls give and leave behind."""
    out: list[Any] = []
    for i in range(n):
        if between is not None:
            between(i, state)
        args = arguments(i) if arguments else (vector(i),)
        printed, value = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            try:
                value = f(*args)
            except tr.CaptureError:
                raise
            except Exception as e:
                result: Any = ("raised", type(e).__name__, str(e))
            else:
                result = described(value)
        left = described(list(args)), described(state), tr.get_rng_state().tolist()
        out.append((result, *left, sharing(value, args, state), printed.getvalue()))
        overwrite(value)
        out.append((described(value), described(list(args)), described(state)))
    return out


@dataclasses.dataclass
class Program:
    """make: gives (function, state). traces: how many there may be. n: calls. fails: some raise. arguments: of call i.
    between: is called with (i, state) before call i."""

    make: Callable
    traces: int = 1
    n: int = 5
    fails: bool = False
    arguments: Callable | None = None
    between: Callable | None = None

    def __str__(self) -> str:
        return self.make.__name__

    def played(self, wrap: Callable) -> tuple[Any, list[Any]]:
        tr.manual_seed(7)
        f, state = self.make()
        f = wrap(f)
        return f, play(f, state, self.n, self.arguments, self.between)

    def check(self) -> None:
        """Raises AssertionError where compiled calls differ from plain ones."""
        _, want = self.played(lambda f: f)
        assert self.fails == any(result[0] == "raised" for result, *_ in want if type(result) is tuple)
        with warnings.catch_warnings():
            warnings.simplefilter("error", tr.CaptureWarning)
            compiled, got = self.played(lambda f: tr.compile(f, fullgraph=True))
        for i, (g, w) in enumerate(zip(got, want, strict=True)):
            assert g == w, f"call {i // 2}: " + "; ".join(f"{a} instead of {b}" for a, b in zip(g, w) if a != b)
        info = compiled.cache_info()
        assert self.fails or not info["fallbacks"] and not info["eager"]
        assert info["traces"] <= self.traces


class Programs(list):
    """The programs of a file, `@program(...)` above each."""

    def __call__(self, **settings: Any) -> Callable:
        def register(make: Callable) -> Callable:
            self.append(Program(make, **settings))
            return make

        return register
