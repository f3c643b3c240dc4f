"""What keeps an op declaration to a few adjacent lines: `pointwise`, wrappers for references, and sample generators."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from .. import scalar
from ..dim import DimLike
from ..dtypes import DType, bfloat16, bool_, float16, from_numpy
from ..op import Attrs, ErrorSample, OpDef, Sample, VjpContext, VjpRule, get_op, register, value_type
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError, broadcast_shapes

NARROW = frozenset((float16.np, bfloat16.np))
KINDS = {"b": "bool", "i": "signed", "u": "unsigned", "f": "floating", "c": "complex"}
FLOATING, NUMBERS, BITS, ANY = "f", "iuf", "biu", "biuf"

# ------------------------------------------------------------------ type rules


def common_dtype(types: Iterable[TensorType], takes: str) -> DType:
    """The one dtype of all operands, of a kind in `takes`. DTypeRuleError if they differ or are of another kind."""
    listed = tuple(types)
    dtype = listed[0].dtype
    if any(t.dtype is not dtype for t in listed):
        raise DTypeRuleError(f"operand dtypes differ: {' and '.join(t.dtype.code for t in listed)}; cast one of them")
    if dtype.kind not in takes:
        accepted = " or ".join(KINDS[k] for k in takes)
        raise DTypeRuleError(f"takes {accepted} operands, not {dtype.code}")
    return dtype


def shape_text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"


def checked_axes(axes: Any, t: TensorType) -> tuple[int, ...]:
    """`axes` if it is a sorted tuple of distinct axes of `t`. TypeRuleError otherwise."""
    if not isinstance(axes, tuple) or list(axes) != sorted(set(axes)) or any(not 0 <= a < t.ndim for a in axes):
        raise TypeRuleError(f"axes={axes!r} must be sorted, unique and within the {t.ndim} dimensions of {t}")
    return axes


def without_axes(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def with_ones(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """The shape with `axes` kept as size 1."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape))


def with_length(shape: Shape, axis: int, n: DimLike) -> Shape:
    """The shape with another size of one axis."""
    return tuple(n if i == axis else d for i, d in enumerate(shape))


# ------------------------------------------------------------------ values, for rules and decompositions


def const_like(x: Any, value: float | DimLike) -> Any:
    """A rank-0 constant in the interpreter of `x`, of its dtype. `value` may be a symbolic size."""
    if isinstance(x, np.ndarray):
        return np.asarray(value, x.dtype)
    if hasattr(x, "builder"):
        return create_like(x, "full", {"value": value, "shape": (), "dtype": value_type(x).dtype})
    return x._like(value)


def create_like(x: Any, op: str, attrs: Attrs) -> Any:
    """The op without operands `op`, in the interpreter of `x`."""
    builder = getattr(x, "builder", None)
    return get_op(op)(**attrs) if builder is None else builder.emit(get_op(op), (), attrs)[0]


def zeros_like(x: Any) -> Any:
    from . import broadcast_to

    return broadcast_to(const_like(x, 0), shape=value_type(x).shape)


def expand(x: Any, axes: tuple[int, ...], shape: Shape) -> Any:
    """Undoes the dropping of `axes`: `x` repeated along them, giving `shape`."""
    from . import broadcast_to, reshape

    if not axes:
        return x
    return broadcast_to(reshape(x, shape=with_ones(shape, axes)), shape=shape)


def wanted(c: VjpContext, *cotangents: Callable[[], Any]) -> tuple:
    """The cotangents of the operands that need one; None for the others, which are not computed."""
    return tuple(make() if need else None for make, need in zip(cotangents, c.needs, strict=True))


def no_change(c: VjpContext, g: Any) -> tuple:
    """The rule of steps: the gradient is zero (which is something else than no gradient)."""
    zero = zeros_like(g)
    return tuple(zero if need else None for need in c.needs)


# ------------------------------------------------------------------ references


def exact(fn: Callable[..., Any], gives: DType | None = None) -> Callable[..., Any]:
    """A reference of `fn` that returns the operands' dtype (or `gives`), computes f16 and bf16 in float32 and rounds
    once, and does not warn about infinities and NaNs. One of two operands may be a Python number, as in NumPy."""
    if isinstance(fn, np.ufunc) and gives is None:
        return _exact_ufunc(fn)

    def reference(x, *rest, **attrs):
        dtype = x.dtype if hasattr(x, "dtype") else rest[0].dtype
        if dtype in NARROW:
            x, rest = _widened(x), tuple(map(_widened, rest))
        out = fn(x, *rest, **attrs)
        result = dtype if gives is None else gives.np
        if type(out) is tuple:
            return tuple(o.astype(result) for o in out)
        return out if out.dtype == result else out.astype(result)

    return quietly(wraps(fn)(reference))


def _widened(x: Any) -> Any:
    return x.astype(np.float32) if getattr(x, "dtype", None) in NARROW else x


def _exact_ufunc(fn: np.ufunc) -> Callable[..., Any]:
    """`exact` for a ufunc that keeps dtypes: every eager call passes here, so it does the least possible."""

    def unary(x):
        return fn(x) if x.dtype not in NARROW else fn(x.astype(np.float32)).astype(x.dtype)

    def binary(x, y):
        dtype = x.dtype if hasattr(x, "dtype") else y.dtype
        return fn(x, y) if dtype not in NARROW else fn(_widened(x), _widened(y)).astype(dtype)

    return quietly(unary if fn.nin == 1 else binary)


def quietly(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` without NumPy's floating-point warnings: `np.errstate(all="ignore")`, at a quarter of its cost where NumPy's
    own context variable is at hand."""
    if _NUMPY_ERRORS is None:
        return np.errstate(all="ignore")(fn)
    variable, ignore = _NUMPY_ERRORS

    @wraps(fn)
    def call(*args, **attrs):
        before = variable.set(ignore)
        try:
            return fn(*args, **attrs)
        finally:
            variable.reset(before)

    return call


def _numpy_errors() -> tuple[Any, Any] | None:
    """The context variable behind `np.errstate`, and its value for all="ignore"."""
    try:
        from numpy._core.umath import _extobj_contextvar, _make_extobj  # type: ignore[attr-defined]

        return _extobj_contextvar, _make_extobj(all="ignore")
    except (ImportError, AttributeError, TypeError):
        return None


_NUMPY_ERRORS = _numpy_errors()


# ------------------------------------------------------------------ scalar lowerings


def lowers_to(op: str) -> Callable[..., scalar.Expr]:
    """The scalar lowering to a single scalar operation."""

    def lowering(*xs: scalar.Expr) -> scalar.Expr:
        return scalar.apply(op, *xs)

    return lowering


# ------------------------------------------------------------------ samples

UNARY_SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (5, 17), (2, 3, 4), (3, 0, 2))
BINARY_SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((), ()), ((5, 17), (5, 17)), ((5, 1), (1, 17)), ((3,), (2, 1, 3)), ((0, 3), (1, 3)), ((4,), ()), ((), (7,)),
)  # fmt: skip
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.5, -2.5, 30.0, -30.0)
Domain = tuple[float, float]


def rng_of(name: str) -> np.random.Generator:
    """The same numbers for the same op in every run."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def draw(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    domain: Domain = (-3, 3),
    away: tuple[float, ...] = (),
    dtype: Any = np.float32,
) -> np.ndarray:
    """Uniform values of `domain`, moved away from the points in `away`, where a function has kinks."""
    x = np.asarray(rng.uniform(*domain, shape))
    for kink in away:
        x = np.where(np.abs(x - kink) < 0.1, kink + 0.2, x)
    return np.asarray(x).astype(dtype)


def integers(dtype: DType) -> np.ndarray:
    info = np.iinfo(dtype.np)
    values = {info.min, info.min + 1, -7, -2, -1, 0, 1, 2, 3, 7, 31, 64, info.max - 1, info.max}
    return np.array(sorted(v for v in values if info.min <= v <= info.max), dtype.np)


def pointwise_samples(
    name: str, takes: str, domains: tuple[Domain, ...], away: tuple[float, ...], attrs: tuple[Attrs, ...]
) -> Iterator[Sample]:
    """Broadcasting shapes in float32, special values, the other float types, integers with their extremes, bools."""
    from ..dtypes import float64, int8, int32, int64, uint8, uint32

    rng, n = rng_of(name), len(domains)
    for i, shapes in enumerate(BINARY_SHAPES if n == 2 else [(s,) * n for s in UNARY_SHAPES]):
        if "f" in takes:
            yield Sample(tuple(draw(rng, s, d, away) for s, d in zip(shapes, domains)), attrs[i % len(attrs)])
    for a in attrs:
        if "f" in takes:
            special = np.array(SPECIAL, np.float32)
            yield Sample((special[:, None], special[None, :]) if n == 2 else (special,) * n, a, gradcheck=False)
            for dtype in (float64, float16, bfloat16):
                yield Sample(
                    tuple(draw(rng, (3, 5), d, away, dtype.np) for d in domains), a, gradcheck=dtype is float64
                )
        for dtype in (int8, int32, int64, uint8, uint32):
            if dtype.kind in takes:
                x = integers(dtype)
                yield Sample((x[:, None], x[None, :]) if n == 2 else (x,) * n, a, gradcheck=False)
        if "b" in takes:
            b = np.array([False, True])
            yield Sample((b[:, None], b[None, :]) if n == 2 else (b,) * n, a, gradcheck=False)


def operand_errors(takes: str, n: int, attrs: Attrs) -> Iterator[ErrorSample]:
    """Wrong kinds, differing dtypes, shapes that don't broadcast."""
    good = np.zeros(3, np.float32 if "f" in takes else np.int32)
    for kind, dtype in (("i", np.int32), ("b", np.bool_), ("f", np.float32)):
        if kind not in takes:
            yield ErrorSample(
                (np.zeros(3, dtype),) * n, attrs, DTypeRuleError, f"not {from_numpy(np.dtype(dtype)).code}"
            )
    if n == 2:
        other = np.zeros(3, np.float64 if "f" in takes else np.int64)
        yield ErrorSample((good, other), attrs, DTypeRuleError, "dtypes differ")
        yield ErrorSample((good, np.zeros(4, good.dtype)), attrs, TypeRuleError, "do not broadcast")


# ------------------------------------------------------------------ declarations


def pointwise(
    name: str,
    reference: Callable[..., Any],
    scalar: Callable[..., Any],
    vjp: VjpRule | str,
    *,
    operands: tuple[str, ...] = ("x",),
    takes: str = FLOATING,
    gives: DType | None = None,
    attrs: dict[str, Any] | None = None,
    check: Callable[..., None] | None = None,
    saves: tuple[str, ...] = (),
    linear: tuple[str, ...] = (),
    multilinear: bool = False,
    domains: tuple[Domain, ...] | None = None,
    away: tuple[float, ...] = (),
    sample_attrs: tuple[Attrs, ...] = ({},),
    complex: bool = False,
    tolerance: float = 1e-6,
    doc: str = "",
) -> OpDef:
    """Declares an op on one element of each operand, all of one dtype of a kind in `takes`.

    `reference` is a NumPy function (`exact` is put around it); `gives`: result dtype if not the operands'.
    `complex`: the reference and the rule hold for complex operands too (the scalar form does not: see `ops.complex`).
    `check(**attrs)` raises TypeRuleError. Samples are drawn from `domains`, one per operand, `away` from kinks.
    """

    def infer(*types: TensorType, **attrs: Any) -> TensorType:
        dtype = common_dtype(types, takes + "c" if complex else takes)
        if check is not None:
            check(**attrs)
        return TensorType(gives or dtype, broadcast_shapes(*(t.shape for t in types)))

    n = len(operands)
    return register(
        OpDef(
            name=name, kind="pointwise", operands=operands, attrs=attrs or {}, infer=infer,
            reference=exact(reference, gives), vjp=vjp, saves=saves, scalar=scalar, linear=linear,
            multilinear=multilinear, tolerance=tolerance, doc=doc,
            samples=lambda: pointwise_samples(name, takes, domains or ((-3, 3),) * n, away, sample_attrs),
            errors=lambda: operand_errors(takes, n, sample_attrs[0]),
        )
    )  # fmt: skip


def compare(
    name: str, reference: Callable[..., Any], scalar: Callable[..., Any], vjp: VjpRule | str, doc: str = ""
) -> OpDef:
    """Declares a comparison: any dtype, bool result."""
    return pointwise(
        name, reference, scalar, vjp, operands=("x", "y"), takes=ANY, gives=bool_, complex=name in ("eq", "ne"), doc=doc
    )
