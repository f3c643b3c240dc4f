"""nextafter: the neighbour of a float in its own type. Narrow floats are refused, since kernels widen them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import scalar as s
from ..dtypes import float32, uint32, uint64
from ..op import NO_GRADIENT, ErrorSample, OpDef, Sample, register
from ..scalar import Expr, select
from ..types import DTypeRuleError, TensorType, TypeRuleError, broadcast_shapes
from ._declare import FLOATING, SPECIAL, common_dtype, draw, rng_of


def _type(x: TensorType, y: TensorType) -> TensorType:
    dtype = common_dtype((x, y), FLOATING)
    if dtype.bits < 32:
        raise DTypeRuleError(f"takes float32 or float64 operands, not {dtype.code}")
    return TensorType(dtype, broadcast_shapes(x.shape, y.shape))


def _scalar(x: Expr, y: Expr) -> Expr:
    """The bits of floats of one sign are ordered as the floats are: one more is one step away from 0."""
    integer = uint32 if x.dtype is float32 else uint64
    bits = s.bitcast(x, integer)
    away = ~((y > x) ^ (x > 0))
    moved = s.bitcast(select(away, bits + 1, bits - 1), x.dtype)
    smallest = s.apply("copysign", s.bitcast(s.const(1, integer), x.dtype), y)
    out = select(s.apply("eq", x, 0), smallest, moved)
    out = select(s.apply("eq", x, y), y, out)
    return select(s.apply("ne", x, x) | s.apply("ne", y, y), x + y, out)


def _samples() -> Iterator[Sample]:
    rng = rng_of("nextafter")
    for shapes in (((), ()), ((5, 17), (5, 17)), ((5, 1), (1, 17)), ((0, 3), (1, 3))):
        yield Sample((draw(rng, shapes[0]), draw(rng, shapes[1])), gradcheck=False)
    for dtype in (np.float32, np.float64):
        special = np.array([*SPECIAL, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal], dtype)
        yield Sample((special[:, None], special[None, :]), gradcheck=False)


nextafter = register(
    OpDef(
        name="nextafter", kind="pointwise", operands=("x", "y"), infer=_type,
        reference=np.errstate(all="ignore")(np.nextafter), vjp=NO_GRADIENT, saves=(), scalar=_scalar,
        samples=_samples,
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float16),) * 2, {}, DTypeRuleError, "float32 or float64"),
            ErrorSample((np.zeros(3, np.int32),) * 2, {}, DTypeRuleError, "not i32"),
            ErrorSample((np.zeros(3), np.zeros(4)), {}, TypeRuleError, "do not broadcast"),
        ],
        doc="The next float after x in the direction of y.",
    )
)  # fmt: skip

__all__ = ["nextafter"]
