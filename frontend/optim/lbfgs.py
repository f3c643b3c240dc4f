"""L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .. import functions as fn
from ..autograd import enable_grad, no_grad
from ..state import traced
from ..tensor import Tensor
from .line_search import Point, dot, strong_wolfe
from .optimizer import Optimizer, Params, as_tensor
from .param_group import ParamGroup


class LBFGS(Optimizer):
    """Liu & Nocedal 1989: quasi-Newton steps from the last `history_size` changes of parameters and gradients.

    step(closure) makes up to max_iter iterations, each with as many calls of `closure` (which must clear the gradients,
    compute the loss and its gradients, and return it) as the line search needs: line_search_fn "strong_wolfe", or None
    for steps of fixed length lr. It ends early after max_eval calls (by default 5/4 max_iter), or when no gradient is
    over tolerance_grad, or loss and parameters change by less than tolerance_change.

    One group of parameters only. What it does depends on the losses, so that step itself can't be part of a compiled
    function; compile what the closure computes.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ):
        defaults = dict(
            lr=lr,
            max_iter=max_iter,
            max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        if self.param_groups:
            raise ValueError("LBFGS takes one parameter group only")
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(f"LBFGS: line_search_fn is 'strong_wolfe' or None, not {group['line_search_fn']!r}")

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        if closure is None:
            raise TypeError("LBFGS.step needs a closure that computes the loss and its gradients")
        with no_grad():
            return _Run(self.param_groups[0], self.state[self.param_groups[0]["params"][0]], closure).run()

    def _load_state(self, state: dict[str, Any], given: Mapping[str, Any], first: Mapping[str, float]) -> None:
        state.clear()
        super()._load_state(state, {k: v for k, v in given.items() if k != "al"}, first)
        for name in ("old_dirs", "old_stps", "ro"):
            state[name] = [x if name == "ro" else as_tensor(x) for x in state.get(name, ())]


class _Run:
    """One call of step."""

    def __init__(self, group: ParamGroup, state: dict[str, Any], closure: Callable[[], Any]):
        self.group, self.state, self.closure = group, state, closure
        self.params: list[Tensor] = group["params"]

    def run(self) -> Any:
        group, state = self.group, self.state
        with enable_grad():
            first_loss = traced(self.closure)()
        loss, gradient = float(first_loss), self.gradient()
        state["func_evals"] = state.get("func_evals", 0) + 1
        state.setdefault("n_iter", 0)
        if self.is_flat(gradient):
            return first_loss
        calls = 1
        for round_ in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = state["d"] = self.direction(gradient)
            state["prev_flat_grad"], before = gradient, loss
            state["prev_loss"] = loss
            lr = float(group["lr"])
            t = min(1.0, 1.0 / float(fn.sum(fn.abs(gradient)))) * lr if state["n_iter"] == 1 else lr
            slope = dot(gradient, direction)
            state["t"] = t
            if slope > -group["tolerance_change"]:
                break
            if group["line_search_fn"] is not None:
                start = Point(0.0, loss, gradient, slope)
                found, used = self.search(direction, t, start, group["max_eval"] - calls)
                t, loss, gradient = found.t, found.loss, found.gradient
                self.shift(t, direction)
            else:
                self.shift(t, direction)
                used = 0
                if round_ != group["max_iter"]:  # nobody would look at it after the last one
                    loss, gradient = self.evaluate()
                    used = 1
            state["t"] = t
            calls += used
            state["func_evals"] += used
            if (
                calls >= group["max_eval"]
                or self.is_flat(gradient)
                or float(fn.max(fn.abs(direction))) * t <= group["tolerance_change"]
                or abs(loss - before) < group["tolerance_change"]
            ):
                break
        return first_loss

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian, as the history knows it, times the gradient (the two-loop recursion)."""
        state = self.state
        if state["n_iter"] == 1:
            state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            return -gradient
        changes, moves, inverses = state["old_dirs"], state["old_stps"], state["ro"]
        change, move = gradient - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = dot(change, move)
        if curvature > 1e-10:
            if len(changes) == self.group["history_size"]:
                for history in (changes, moves, inverses):
                    history.pop(0)
            changes.append(change)
            moves.append(move)
            inverses.append(1.0 / curvature)
            state["H_diag"] = curvature / dot(change, change)
        out = -gradient
        shares = [0.0] * len(changes)
        for i in reversed(range(len(changes))):
            shares[i] = dot(moves[i], out) * inverses[i]
            out = out - changes[i] * shares[i]
        out = out * state["H_diag"]
        for i in range(len(changes)):
            out = out + moves[i] * (shares[i] - dot(changes[i], out) * inverses[i])
        return out

    def search(self, direction: Tensor, t: float, start: Point, most: int) -> tuple[Point, int]:
        here = [p.clone() for p in self.params]

        def evaluate(t: float) -> tuple[float, Tensor]:
            self.shift(t, direction)
            out = self.evaluate()
            for p, old in zip(self.params, here):
                p.copy_(old)
            return out

        tolerance = self.group["tolerance_change"]
        return strong_wolfe(evaluate, direction, t, start, tolerance_change=tolerance, max_ls=most)

    def evaluate(self) -> tuple[float, Tensor]:
        with enable_grad():
            loss = float(self.closure())
        return loss, self.gradient()

    def gradient(self) -> Tensor:
        """All gradients as one vector; a copy."""
        flat = [fn.reshape(fn.zeros_like(p) if p.grad is None else p.grad, (-1,)) for p in self.params]
        return fn.concat(flat, axis=0)

    def shift(self, t: float, direction: Tensor) -> None:
        """Moves the parameters by t * direction."""
        begin = 0
        for p in self.params:
            end = begin + math.prod(p.shape)
            p.add_(fn.astype(fn.reshape(direction[begin:end], tuple(p.shape)) * t, p.dtype, copy=False))
            begin = end

    def is_flat(self, gradient: Tensor) -> bool:
        return float(fn.max(fn.abs(gradient))) <= self.group["tolerance_grad"]
