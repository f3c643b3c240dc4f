"""`autograd.functional`: PyTorch's older names for the transforms, on a tensor or a tuple of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import jacobians, transforms
from .autograd import no_grad
from .creation import ones_like
from .forward_ad import jvp as forward_jvp
from .forward_ad import linearize
from .tensor import Tensor, alias

_STRATEGIES = ("reverse-mode", "forward-mode")


def _as_tuple(x: Any) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def _like(x: Any, values: tuple) -> Any:
    """One value where the argument was one tensor."""
    return values[0] if isinstance(x, Tensor) else tuple(values)


def _results(x: Any, create_graph: bool) -> Any:
    """Results as the caller wants them: with their history, or without."""
    if create_graph or x is None:
        return x
    return alias(x) if isinstance(x, Tensor) else tuple(_results(v, False) for v in x)


def _weights(v: Any, like: Any, what: str) -> tuple[Tensor, ...]:
    if v is not None:
        return _as_tuple(v)
    if not isinstance(like, Tensor) or like.size != 1:
        raise RuntimeError(f"{what}: v may be left out only where there is one tensor with one element")
    return (ones_like(like),)


def vjp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(func(*inputs), v times the Jacobian)."""
    out, pullback = transforms.vjp(func, *_as_tuple(inputs))
    grads = pullback(_like(out, _weights(v, out, "vjp")))
    return _results(out, create_graph), _results(_like(inputs, grads), create_graph)


def jvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(func(*inputs), the Jacobian times v). RuntimeError with `strict` if a result does not depend on the inputs."""
    primals = _as_tuple(inputs)
    out, tangent = forward_jvp(func, primals, _weights(v, inputs, "jvp"), strict=strict)
    return _results(out, create_graph), _results(tangent, create_graph)


def jacobian(
    func: Callable,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = True,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian: a tensor of shape output.shape + input.shape; nested tuples (outputs, then inputs) for several.
    All rows (or columns, with strategy="forward-mode") are computed at once; vectorize=False: one after the other."""
    if strategy not in _STRATEGIES:
        raise ValueError(f"jacobian: strategy={strategy!r} is none of {', '.join(_STRATEGIES)}")
    primals = _as_tuple(inputs)
    transform = jacobians.jacrev if strategy == "reverse-mode" else jacobians.jacfwd
    argnums = 0 if isinstance(inputs, Tensor) else tuple(range(len(primals)))
    return _results(transform(func, argnums, chunk_size=None if vectorize else 1)(*primals), create_graph)


def hessian(
    func: Callable,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = True,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The second derivatives of a scalar function: a tensor of shape input.shape + input.shape; nested tuples for several
    inputs."""
    if outer_jacobian_strategy not in _STRATEGIES:
        raise ValueError(f"hessian: strategy {outer_jacobian_strategy!r} is none of {', '.join(_STRATEGIES)}")
    primals = _as_tuple(inputs)
    argnums = 0 if isinstance(inputs, Tensor) else tuple(range(len(primals)))
    outer = jacobians.jacrev if outer_jacobian_strategy == "reverse-mode" else jacobians.jacfwd
    second = outer(transforms.grad(func, argnums), argnums, chunk_size=None if vectorize else 1)
    return _results(second(*primals), create_graph)


def _gradient_of(func: Callable, inputs: Any) -> Callable:
    """The gradient of a scalar function as a function that returns a tuple."""
    return transforms.grad(func, tuple(range(len(_as_tuple(inputs)))))


def hvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(func(*inputs), the Hessian times v), by forward over reverse mode."""
    primals = _as_tuple(inputs)
    _, tangent_map = linearize(_gradient_of(func, inputs), *primals)
    product = tangent_map(*_weights(v, inputs, "hvp"))
    return _value(func, primals, create_graph), _results(_like(inputs, product), create_graph)


def vhp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> tuple:
    """(func(*inputs), v times the Hessian), by reverse over reverse mode."""
    primals = _as_tuple(inputs)
    _, pullback = transforms.vjp(_gradient_of(func, inputs), *primals)
    product = pullback(_weights(v, inputs, "vhp"))
    return _value(func, primals, create_graph), _results(_like(inputs, product), create_graph)


def _value(func: Callable, primals: tuple, create_graph: bool) -> Any:
    if create_graph:
        return func(*primals)
    with no_grad():
        return func(*primals)


__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]
