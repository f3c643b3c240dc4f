"""A line search for the strong Wolfe conditions: Nocedal & Wright, Numerical Optimization, algorithms 3.5 and 3.6, with
the cubic interpolation of their equation 3.59."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from .. import functions as fn
from ..tensor import Tensor


class Point(NamedTuple):
    """A step length, and there: the loss, the gradient (1-D), and its slope along the direction."""

    t: float
    loss: float
    gradient: Tensor
    slope: float


def dot(x: Tensor, y: Tensor) -> float:
    return float(fn.sum(x * y))


def strong_wolfe(
    evaluate: Callable[[float], tuple[float, Tensor]],
    direction: Tensor,
    t: float,
    start: Point,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_change: float = 1e-9,
    max_ls: int = 25,
) -> tuple[Point, int]:
    """A point along `direction` with loss(t) <= loss(0) + c1 t slope(0) and |slope(t)| <= c2 |slope(0)|, or the best one
    met in `max_ls` rounds; and how often `evaluate` (t -> loss, gradient) was called."""
    calls = 0

    def at(t: float) -> Point:
        nonlocal calls
        calls += 1
        loss, gradient = evaluate(t)
        return Point(t, loss, gradient, dot(gradient, direction))

    def too_high(p: Point) -> bool:
        return p.loss > start.loss + c1 * p.t * start.slope

    def flat(p: Point) -> bool:
        return abs(p.slope) <= -c2 * start.slope

    # Lengthen the step until some interval holds a point to accept.
    last, now, rounds = start, at(t), 0
    bracket: list[Point] | None = None
    while rounds < max_ls:
        if too_high(now) or rounds > 1 and now.loss >= last.loss or now.slope >= 0 and not flat(now):
            bracket = [last, now]
            break
        if flat(now):
            return now, calls
        longest, shortest = now.t * 10, now.t + 0.01 * (now.t - last.t)
        last, now = now, at(_cubic_minimum(last, now, shortest, longest))
        rounds += 1
    if bracket is None:
        bracket = [start, now]

    # Shrink the interval.
    size = float(fn.max(fn.abs(direction)))
    low = 0 if bracket[0].loss <= bracket[1].loss else 1
    stuck = False
    while rounds < max_ls:
        a, b = min(p.t for p in bracket), max(p.t for p in bracket)
        if (b - a) * size < tolerance_change:
            break
        t = _cubic_minimum(bracket[0], bracket[1], a, b)
        margin = 0.1 * (b - a)
        if min(b - t, t - a) < margin:  # no progress if it stays at the border: stay away from it the second time
            if stuck or t >= b or t <= a:
                t = b - margin if abs(t - b) < abs(t - a) else a + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        now = at(t)
        rounds += 1
        if too_high(now) or now.loss >= bracket[low].loss:
            bracket[1 - low] = now
            low = 0 if bracket[0].loss <= bracket[1].loss else 1
            continue
        done = flat(now)
        if not done and now.slope * (bracket[1 - low].t - bracket[low].t) >= 0:
            bracket[1 - low] = bracket[low]
        bracket[low] = now
        if done:
            break
    return bracket[low], calls


def _cubic_minimum(p: Point, q: Point, least: float, most: float) -> float:
    """Where the cubic through two points with their slopes is least, cut to [least, most]; the middle without one."""
    p, q = (p, q) if p.t <= q.t else (q, p)
    if p.t == q.t:
        return (least + most) / 2
    d1 = p.slope + q.slope - 3 * (p.loss - q.loss) / (p.t - q.t)
    square = d1 * d1 - p.slope * q.slope
    if not square >= 0:
        return (least + most) / 2
    d2 = math.sqrt(square)
    divisor = q.slope - p.slope + 2 * d2
    if divisor == 0:
        return (least + most) / 2
    return min(max(q.t - (q.t - p.t) * ((q.slope + d2 - d1) / divisor), least), most)
