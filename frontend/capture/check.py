"""`check=n`: a compiled call next to the same call in plain Python."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy as np

from ..devices import host
from ..tensor import Tensor
from . import pytree
from .replay import Captured, GradEffect


def checked(
    function: Callable,
    captured: Captured,
    values: Sequence[Sequence[np.ndarray]],
    leaves: Sequence[Any],
    args: tuple,
    kwargs: dict[str, Any],
    error: type[Exception],
) -> Any:
    """Runs both from the same state and compares results, written tensors and gradients. The plain results stay."""
    arrays = [s.fetch(leaves) for s in captured.sources]
    before = [a.copy() for a in arrays]
    grads = [(e, e.target.tensor(leaves)._grad) for e in captured.effects]
    got = captured.commit(leaves, arrays, captured.run(arrays, values), values, (args, kwargs), False)
    written = [(captured.sources[k].path, arrays[k].copy(), k) for _, k in captured.writes]
    got_grads = [_grad(e, leaves) for e in captured.effects]
    for _, _, k in written:
        arrays[k][...] = before[k]
    for effect, grad in grads:
        effect.target.tensor(leaves)._grad = grad
    want = function(*args, **kwargs)
    problems: list[str] = []
    got_leaves, got_spec = pytree.flatten(got)
    want_leaves, want_spec = pytree.flatten(want)
    if got_spec != want_spec:
        problems.append("the result has another structure")
    else:
        for path, g, w in zip(pytree.paths(want_spec, "result"), got_leaves, want_leaves):
            problems += _compare(path, _values(g), _values(w))
    for path, g, k in written:
        problems += _compare(path, g, arrays[k])
    for effect, g in zip(captured.effects, got_grads):
        problems += _compare(f"{effect.target.path}.grad", g, _grad(effect, leaves))
    if problems:
        raise error(f"{captured.graph.name}: compiled and plain Python differ: " + "; ".join(problems[:10]))
    return want


def _grad(effect: GradEffect, leaves: Sequence[Any]) -> Any:
    grad = effect.target.tensor(leaves)._grad
    return None if grad is None else grad._data


def _values(x: Any) -> Any:
    return x._data if isinstance(x, Tensor) else x


def _compare(path: str, got: Any, want: Any) -> list[str]:
    got, want = (host(x) if hasattr(x, "gpu") else x for x in (got, want))
    if not isinstance(want, (np.ndarray, np.generic)) or not isinstance(got, (np.ndarray, np.generic)):
        same = got is want or type(got) is type(want) and (got == want or got != got and want != want)
        return [] if same else [f"{path} is {got!r}, not {want!r}"]
    if got.dtype != want.dtype or got.shape != want.shape:
        return [f"{path} is {got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"]
    if want.dtype.kind in "biu":
        return [] if np.array_equal(got, want) else [f"{path} differs in {int(np.sum(got != want))} elements"]
    exact, found = want.astype(np.float64), got.astype(np.float64)
    digits = {2: 2e-2, 4: 2e-4, 8: 1e-9}[want.dtype.itemsize]
    scale = np.max(np.abs(np.asarray(exact)[np.isfinite(exact)]), initial=1e-6)
    if np.allclose(found, exact, rtol=digits, atol=digits * scale, equal_nan=True):
        return []
    return [f"{path} differs by up to {np.nanmax(np.abs(found - exact)):.3g}"]
