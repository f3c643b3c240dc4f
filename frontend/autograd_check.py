"""`gradcheck` and `gradgradcheck`: derivatives against differences of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import autograd
from .tensor import Tensor, alias, new_tensor


class GradcheckError(RuntimeError):
    """A derivative is not the slope of the values."""


def gradcheck(
    func: Callable,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    check_batched_grad: bool = False,
    check_forward_ad: bool = False,
    fast_mode: bool = False,
    nondet_tol: float = 0.0,
) -> bool:
    """Whether the gradients of func(*inputs) with respect to the inputs that require grad are its slopes,
    (f(x + eps) - f(x - eps)) / (2 eps), to rtol and atol. Use float64.

    fast_mode: along one random direction instead of for every element. check_batched_grad: also under vmap.
    check_forward_ad: jvp too. nondet_tol: how far two backward passes may differ. GradcheckError (or False without
    `raise_exception`) says which derivative is wrong; ValueError if no input requires grad.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not any(isinstance(a, Tensor) and a.requires_grad for a in args):
        raise ValueError("gradcheck: at least one input must require grad")
    try:
        _check(func, args, eps, atol, rtol, fast_mode, nondet_tol, check_batched_grad, check_forward_ad)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    fast_mode: bool = False,
    nondet_tol: float = 0.0,
) -> bool:
    """`gradcheck` of the gradients of func(*inputs): with respect to the inputs, and to the grad_outputs (random if None)
    that weight the results."""
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    outputs = _outputs(func(*args))
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        weights = [new_tensor(_draw(rng, t)).requires_grad_() for t in outputs]
    else:
        weights = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    n = len(args)

    def gradients(*both: Any) -> tuple:
        own, ws = both[:n], both[n:]
        wanted = [a for a in own if isinstance(a, Tensor) and a.requires_grad]
        found = autograd.grad(_outputs(func(*own)), wanted, list(ws), create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None and g.requires_grad)

    return gradcheck(
        gradients, (*args, *weights), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
        fast_mode=fast_mode, nondet_tol=nondet_tol,
    )  # fmt: skip


def _outputs(out: Any) -> list[Tensor]:
    """The results that have a gradient."""
    listed = out if isinstance(out, (tuple, list)) else (out,)
    return [t for t in listed if isinstance(t, Tensor) and t.requires_grad]


def _draw(rng: np.random.Generator, t: Tensor) -> np.ndarray:
    x = rng.standard_normal(tuple(t.shape))
    if t.dtype.is_complex:
        x = x + 1j * rng.standard_normal(tuple(t.shape))
    return np.asarray(x, t.dtype.np)


def _parts(x: np.ndarray) -> np.ndarray:
    """The real numbers that `x` consists of."""
    return np.stack([np.real(x), np.imag(x)], -1).ravel() if x.dtype.kind == "c" else x.astype(np.float64).ravel()


def _check(
    func: Callable,
    args: tuple,
    eps: float,
    atol: float,
    rtol: float,
    fast: bool,
    nondet_tol: float,
    batched: bool,
    forward: bool,
) -> None:
    leaves = [(i, a) for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
    rng = np.random.default_rng(0)
    outputs = _outputs(func(*args))
    if not outputs:
        return  # nothing depends on the inputs
    weights = [_draw(rng, t) for t in outputs] if fast else None
    for k, t in enumerate(outputs):
        rows = [weights[k]] if weights is not None else _unit_arrays(t)
        pulled = [_pull(t, leaves, row) for row in rows]
        if nondet_tol is not None and rows:
            _same(_pull(t, leaves, rows[0]), pulled[0], nondet_tol, "two backward passes differ")
        if batched and rows:
            _check_batched(t, leaves, rows, pulled, atol, rtol)
        for j, (i, leaf) in enumerate(leaves):
            analytic = np.stack([_parts(p[j]) for p in pulled]) if pulled else np.zeros((0, leaf.size))
            directions = [_draw(rng, leaf)] if fast else _unit_arrays(leaf)
            for column, d in enumerate(directions):
                slope = _slope(func, args, i, d, eps, k)
                numeric = np.array([_pairing(row, slope) for row in rows])
                found = analytic @ _parts(d)
                _compare(found, numeric, atol, rtol, f"output {k} with respect to input {i}, direction {column}")
                if forward:
                    _compare_forward(func, args, i, d, k, rows, numeric, atol, rtol)


def _unit_arrays(t: Tensor) -> list[np.ndarray]:
    """One array for each real number that `t` consists of."""
    out = []
    for at in range(math.prod(tuple(t.shape))):
        for one in (1.0, 1j) if t.dtype.is_complex else (1.0,):
            e = np.zeros(tuple(t.shape), t.dtype.np)
            e.reshape(-1)[at] = one
            out.append(e)
    return out


def _pairing(row: np.ndarray, slope: np.ndarray) -> float:
    return float(np.dot(_parts(row), _parts(slope)))


def _pull(t: Tensor, leaves: Sequence[tuple[int, Tensor]], row: np.ndarray) -> list[np.ndarray]:
    found = autograd.grad(t, [a for _, a in leaves], new_tensor(row), retain_graph=True, allow_unused=True)
    return [np.zeros(tuple(a.shape), a.dtype.np) if g is None else g.numpy() for (_, a), g in zip(leaves, found)]


def _moved(args: tuple, i: int, change: np.ndarray) -> tuple:
    x = new_tensor(np.asarray(args[i]._data + change, args[i].dtype.np)).requires_grad_()
    return (*args[:i], x, *args[i + 1 :])


def _slope(func: Callable, args: tuple, i: int, direction: np.ndarray, eps: float, k: int) -> np.ndarray:
    ends = [_outputs(func(*_moved(args, i, sign * eps * direction)))[k].numpy() for sign in (1, -1)]
    return np.asarray((ends[0] - ends[1]) / (2 * eps))


def _compare(found: np.ndarray, numeric: np.ndarray, atol: float, rtol: float, what: str) -> None:
    if not np.allclose(found, numeric, rtol=rtol, atol=atol, equal_nan=True):
        worst = int(np.argmax(np.abs(np.nan_to_num(found - numeric, nan=np.inf))))
        raise GradcheckError(
            f"the gradient of {what} is {found[worst]:.8g}, the slope of the values {numeric[worst]:.8g}"
        )


def _same(a: list[np.ndarray], b: list[np.ndarray], tolerance: float, what: str) -> None:
    for x, y in zip(a, b):
        if not np.allclose(x, y, rtol=0, atol=tolerance, equal_nan=True):
            raise GradcheckError(f"{what} by {float(np.max(np.abs(x - y))):.3g}")


def _check_batched(t: Tensor, leaves: Any, rows: list, pulled: list, atol: float, rtol: float) -> None:
    found = autograd.grad(
        t, [a for _, a in leaves], new_tensor(np.stack(rows)), retain_graph=True, allow_unused=True,
        is_grads_batched=True, materialize_grads=True,
    )  # fmt: skip
    for j, g in enumerate(found):
        assert g is not None
        if not np.allclose(g.numpy(), np.stack([p[j] for p in pulled]), rtol=rtol, atol=atol, equal_nan=True):
            raise GradcheckError(f"the gradient of input {leaves[j][0]} under vmap is another one than row by row")


def _compare_forward(
    func: Callable,
    args: tuple,
    i: int,
    d: np.ndarray,
    k: int,
    rows: list,
    numeric: np.ndarray,
    atol: float,
    rtol: float,
) -> None:
    from .forward_ad import jvp

    def of_one(x: Tensor) -> Tensor:
        return _outputs(func(*args[:i], x, *args[i + 1 :]))[k]

    tangent = jvp(of_one, (alias(args[i]),), (new_tensor(d),))[1].numpy()
    found = np.array([_pairing(row, tangent) for row in rows])
    _compare(found, numeric, atol, rtol, f"output {k} with respect to input {i}, by jvp")


__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]
