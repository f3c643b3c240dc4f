"""Op declarations (`OpDef`), their registry, and `bind`: the one protocol that eager code, the tape and tracers share.

`bind(op, args, attrs)` looks at the types of the operands and hands the call to the interpreter registered for the
highest-ranked one: an ndarray is computed at once, a graph `Value` records a node, a frontend `Tensor` does either
and keeps a tape. Rules (vjp, decompositions) are written as calls of ops, so they run under every interpreter.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable

import numpy as np

from .dtypes import DType
from .types import TensorType

Attrs = dict[str, Any]


@dataclass(slots=True)
class Sample:
    """One test input of an op: NumPy operands and attributes. `gradcheck`: differentiable there (away from kinks)."""

    args: tuple[np.ndarray, ...]
    attrs: Attrs = field(default_factory=dict)
    gradcheck: bool = True


@dataclass(slots=True)
class ErrorSample:
    """Operands that must be refused with `error` and a message matching `match`."""

    args: tuple[Any, ...]
    attrs: Attrs
    error: type[Exception]
    match: str


class VjpContext:
    """What a vjp rule sees: operands and results (bound values), the operand types, attributes, and which are wanted."""

    __slots__ = ("inputs", "outputs", "types", "attrs", "needs")

    def __init__(
        self, inputs: tuple, outputs: tuple, types: tuple[TensorType, ...], attrs: Attrs, needs: tuple[bool, ...]
    ):
        self.inputs, self.outputs, self.types, self.attrs, self.needs = inputs, outputs, types, attrs, needs

    @property
    def out(self):
        return self.outputs[0]


NO_GRADIENT = "no gradient"  # said, never left out: results do not depend differentiably on the operands

VjpRule = Callable[..., tuple]  # (VjpContext, *cotangents) -> a cotangent or None for each operand


@dataclass(eq=False)
class OpDef:
    """One operation, declared once. Call it to bind it: `exp(x)`, `reduce_sum(x, axes=(0,))`.

    kind: "pointwise" (operands broadcast, `scalar` gives one element), "composite" (`decompose` rewrites it into other
    ops) or "structural" (each stage of the compiler knows it by name).
    operands: their names; a last name starting with * takes any number.
    attrs: attribute names, in order, with defaults (`REQUIRED` for none).
    infer: (operand types, **attrs) -> result type, or a tuple of them.
    reference: (ndarrays, **attrs) -> ndarray or tuple: the meaning of the op.
    vjp: rule, or NO_GRADIENT. saves: which operand names (or "out") the rule reads.
    linear: names of operands in which the op is linear, all at once (add) -- or `multilinear`, one at a time (mul).
    batch: rule for many calls at once (`batching.py`), where neither broadcasting nor the decomposition gives it.
    samples: () -> Samples for the generated tests. errors: () -> ErrorSamples.
    """

    name: str
    kind: str
    operands: tuple[str, ...]
    infer: Callable[..., Any]
    reference: Callable[..., Any]
    vjp: VjpRule | str
    attrs: dict[str, Any] = field(default_factory=dict)
    saves: tuple[str, ...] | None = None
    scalar: Callable[..., Any] | None = None
    decompose: Callable[..., Any] | None = None
    linear: tuple[str, ...] = ()
    multilinear: bool = False
    batch: Callable[..., Any] | None = None
    samples: Callable[[], Iterable[Sample]] | None = None
    errors: Callable[[], Iterable[ErrorSample]] | None = None
    tolerance: float = (
        1e-6  # relative error allowed to backends, in units of the dtype's precision times 1e7 (float32: as is)
    )
    n_outputs: int = 1  # 0: depends on the operands
    pure: bool = True  # False: an assertion or another effect; never removed as dead
    doc: str = ""

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        if len(attrs) != len(self.attrs):
            for name, default in self.attrs.items():
                if name not in attrs:
                    if default is REQUIRED:
                        raise TypeError(f"{self.name}() needs {name}=")
                    attrs[name] = default
        return bind(self, args, attrs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self):
        return (get_op, (self.name,))

    @property
    def variadic(self) -> bool:
        return bool(self.operands) and self.operands[-1].startswith("*")

    def result_types(self, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
        """The types of all results. Raises TypeRuleError naming the op and the operand types."""
        out = self.infer(*types, **attrs)
        return out if isinstance(out, tuple) else (out,)

    def evaluate(self, arrays: tuple[np.ndarray, ...], attrs: Attrs) -> Any:
        """The reference on ndarrays: an ndarray, or a tuple of them."""
        out = self.reference(*arrays, **attrs)
        if type(out) is tuple:
            return tuple(o if type(o) is np.ndarray else np.asarray(o) for o in out)
        return out if type(out) is np.ndarray else np.asarray(out)


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()

# ------------------------------------------------------------------ registry

REGISTRY: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    if op.name in REGISTRY:
        raise ValueError(f"op {op.name} is declared twice")
    lowerings = (op.scalar is not None) + (op.decompose is not None) + (op.kind == "structural")
    if lowerings != 1 or op.kind not in ("pointwise", "composite", "structural"):
        raise ValueError(f"op {op.name} needs exactly one of scalar (pointwise), decompose (composite), structural")
    REGISTRY[op.name] = op
    return op


def get_op(name: str) -> OpDef:
    """The op of that name. KeyError if there is none."""
    return REGISTRY[name]


# ------------------------------------------------------------------ bind

Interpreter = Callable[[OpDef, tuple, Attrs], Any]
_INTERPRETERS: dict[type, tuple[int, Interpreter]] = {}


def register_interpreter(value_type: type, rank: int, interpreter: Interpreter) -> None:
    """Calls that have an operand of `value_type`, and none of a higher rank, go to `interpreter`."""
    _INTERPRETERS[value_type] = (rank, interpreter)


class _Scope(threading.local):
    default: Interpreter | None = None  # for ops without operands, while a graph is being built


scope = _Scope()


def bind(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    """Runs `op` under the interpreter of its operands. Returns one value, or a tuple for ops with several results."""
    best: Interpreter | None = None
    rank = -1
    for a in args:
        found = _INTERPRETERS.get(type(a))
        if found is None:
            raise TypeError(f"{op.name}: a {type(a).__name__} is not a tensor value")
        if found[0] > rank:
            rank, best = found
    if best is None:
        best = scope.default or evaluate_eagerly
    return best(op, args, attrs)


def evaluate_eagerly(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    return op.evaluate(args, attrs)


register_interpreter(np.ndarray, 0, evaluate_eagerly)


def value_type(v: Any) -> TensorType:
    """The TensorType of a bound value: anything with `.type`, or an ndarray."""
    found = getattr(v, "type", None)
    if isinstance(found, TensorType):
        return found
    from .dtypes import from_numpy

    return TensorType(from_numpy(v.dtype), v.shape)


def attr_dtype(x: Any) -> DType:
    from .dtypes import dtype_of

    return dtype_of(x)
