"""`tr.func`: transforms of functions under PyTorch's names (torch.func), and modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .forward_ad import jvp, linearize
from .jacobians import hessian, jacfwd, jacobian, jacrev
from .state import state, traced
from .tensor import Tensor, alias
from .transforms import grad, value_and_grad, vjp
from .vmap import vmap

if TYPE_CHECKING:
    from .nn.module import Module

_REGISTRIES = ("_parameters", "_buffers")


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """module(*args, **kwargs) with other tensors in the places of parameters and buffers, by their names.

    `args`: a tuple, or a single argument. Names that are left out keep the module's own. The module is not changed: its
    forward runs on a copy of its structure, so attributes that forward sets are lost. tie_weights: a tensor that the
    module has under several names is replaced under all of them. KeyError for names that the module does not have, and
    with `strict` for missing ones; ValueError where tied names get different tensors.
    """
    dicts = (
        [parameter_and_buffer_dicts] if isinstance(parameter_and_buffer_dicts, Mapping) else parameter_and_buffer_dicts
    )
    given: dict[str, Tensor] = {}
    for d in dicts:
        twice = given.keys() & d.keys()
        if twice:
            raise ValueError(f"functional_call: {sorted(twice)[0]!r} is in several of the dicts")
        given.update(d)
    module = getattr(type(module), "__tracefuse_original__", module)
    own = {
        f"{prefix}.{name}" if prefix else name: t
        for prefix, m in module.named_modules(remove_duplicate=False)
        for registry in _REGISTRIES
        for name, t in getattr(m, registry).items()
        if t is not None
    }
    unknown = given.keys() - own.keys()
    if unknown:
        raise KeyError(f"functional_call: {type(module).__name__} has no parameter or buffer {sorted(unknown)[0]!r}")
    if strict and own.keys() - given.keys():
        raise KeyError(f"functional_call: {sorted(own.keys() - given.keys())[0]!r} is missing")
    copy = _with_tensors(module, _tied(own, given) if tie_weights else given, "", {})
    listed = () if args is None else tuple(args) if isinstance(args, (tuple, list)) else (args,)
    return traced(copy)(*listed, **(kwargs or {}))


def _tied(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`given`, with an entry for every name of the tensors that it replaces."""
    by_tensor: dict[int, tuple[str, Tensor]] = {}
    for name, t in given.items():
        first = by_tensor.setdefault(id(own[name]), (name, t))
        if first[1] is not t:
            raise ValueError(f"functional_call: {first[0]!r} and {name!r} are tied, but get different tensors")
    return {name: by_tensor[id(t)][1] for name, t in own.items() if id(t) in by_tensor}


def _with_tensors(module: Module, tensors: Mapping[str, Tensor], prefix: str, made: dict[Any, Any]) -> Module:
    """A copy of the structure of `module`: the same attributes, with `tensors` in their places."""
    here = {name[len(prefix) :] for name in tensors if name.startswith(prefix)}
    key = (id(module), prefix if here else None)  # shared modules stay shared, unless they get tensors by one name only
    found = made.get(key)
    if found is not None:
        return found
    copy = made[key] = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for registry in _REGISTRIES:
        entries = getattr(module, registry).items()
        copy.__dict__[registry] = {n: tensors.get(prefix + n, t) for n, t in entries}
    copy.__dict__["_modules"] = {
        n: None if m is None else _with_tensors(m, tensors, f"{prefix}{n}.", made) for n, m in module._modules.items()
    }
    if state.tracer is not None:
        state.tracer.made(copy)  # type: ignore[arg-type]
    return copy


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of models of one structure, each stacked along a new first axis: what `vmap` over
    `functional_call` takes to run an ensemble. ValueError if there are none, or their names differ."""
    from .functions import stack

    if not models:
        raise ValueError("stack_module_state needs at least one model")

    def stacked(all_named: list[dict[str, Tensor]], leaf: bool) -> dict[str, Tensor]:
        if any(d.keys() != all_named[0].keys() for d in all_named):
            raise ValueError("stack_module_state: the models differ in the names of their parameters or buffers")
        out = {name: alias(stack([alias(d[name]) for d in all_named])) for name in all_named[0]}
        if leaf:
            for name, t in out.items():
                t.requires_grad_(all_named[0][name].requires_grad)
        return out

    return (
        stacked([dict(m.named_parameters()) for m in models], True),
        stacked([dict(m.named_buffers()) for m in models], False),
    )


def grad_and_value(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns (gradient, value): `value_and_grad` in PyTorch's order. With has_aux: (gradient, (value,
    fn's other result))."""
    both = value_and_grad(fn, argnums, has_aux)

    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        value, gradient = both(*args, **kwargs)
        return gradient, value

    return differentiated


__all__ = [
    "functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacobian", "jacrev", "jvp", "linearize",
    "stack_module_state", "value_and_grad", "vjp", "vmap",
]  # fmt: skip
