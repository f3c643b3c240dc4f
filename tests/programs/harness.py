"""Runs a program in plain Python and compiled, side by side over several calls, and compares everything it does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tracefuse.frontend.compile import CaptureWarning

import tracefuse as tr
from tracefuse import nn

TOLERANCE = {2: 2e-2, 4: 2e-5, 8: 1e-9}


def equal(got: Any, want: Any, path: str = "result") -> None:
    """Raises AssertionError where two results differ: in structure, types, values (floats within rounding)."""
    if isinstance(want, tr.Tensor):
        assert isinstance(got, tr.Tensor), f"{path}: {type(got).__name__} instead of a Tensor"
        assert got.dtype is want.dtype and got.requires_grad == want.requires_grad, path
        assert got.device == want.device, f"{path}: on {got.device} instead of {want.device}"
        got, want = got.detach().cpu().numpy(), want.detach().cpu().numpy()
    if isinstance(want, (np.ndarray, np.generic)):
        assert type(got) is type(want), f"{path}: {type(got).__name__} instead of {type(want).__name__}"
        assert got.dtype == want.dtype and got.shape == want.shape, f"{path}: {got.dtype}{got.shape}"
        rtol = TOLERANCE[want.dtype.itemsize] if want.dtype.kind == "f" else 0
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol, err_msg=path)
    elif isinstance(want, float):
        assert type(got) is type(want), f"{path}: {type(got).__name__} instead of float"
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6, err_msg=path)
    elif isinstance(want, (list, tuple)):
        assert type(got) is type(want) and len(got) == len(want), f"{path}: {got!r} instead of {want!r}"
        for k, (g, w) in enumerate(zip(got, want)):
            equal(g, w, f"{path}[{k}]")
    elif isinstance(want, dict):
        assert type(got) is type(want) and list(got) == list(want), f"{path}: {list(got)} instead of {list(want)}"
        for k in want:
            equal(got[k], want[k], f"{path}[{k!r}]")
    else:
        assert type(got) is type(want) and got == want, f"{path}: {got!r} instead of {want!r}"


def outcome(f: Callable, args: tuple) -> tuple[Any, Any]:
    """(result, exception)"""
    try:
        return f(*args), None
    except Exception as e:
        return None, e


def compare(
    program: Callable,
    calls: Iterable[tuple],
    *,
    backend: str = "llvm",
    most: int | None = None,
    rounds: int = 2,
    raises: bool = False,
) -> Any:
    """Runs all `calls` (tuples of arguments) `rounds` times: equal results, arguments changed alike, the same exceptions
    (where the program `raises`), and no call in plain Python but those. most: traces there may be. Gives the compiled
    function."""
    compiled = tr.compile(program, fullgraph=True, backend=backend)
    calls = list(calls)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptureWarning)
        for _ in range(rounds):
            for args in calls:
                ours, theirs = copy.deepcopy(args), copy.deepcopy(args)
                want, problem = outcome(program, theirs)
                if problem is not None and not raises:
                    raise problem
                got, raised = outcome(compiled, ours)
                assert type(raised) is type(problem), f"{raised!r} instead of {problem!r}"
                assert raised is None or str(raised) == str(problem)
                equal(got, want)
                equal(ours, theirs, "arguments")
    info = compiled.cache_info()
    assert not info["fallbacks"], info["fallbacks"]
    if most is not None:
        assert info["traces"] <= most, info
    return compiled


class TinyDecoder(nn.Module):
    def __init__(self, vocabulary=11, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, token, hidden):
        hidden = tr.tanh(self.mix(tr.concat([self.embed(token), hidden], axis=-1)))
        return self.out(hidden), hidden


def decoder() -> TinyDecoder:
    """A small one with a hidden state, the same in every program."""
    tr.manual_seed(5)
    return TinyDecoder().eval().requires_grad_(False)
