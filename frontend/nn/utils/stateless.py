"""Modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...tensor import Tensor
from ..module import Module


def functional_call(
    module: Module,
    parameters_and_buffers: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """module(*args, **kwargs) with other tensors in place of its parameters and buffers, by dotted name.

    What the call writes into buffers goes to the given tensors. tie_weights: a tensor that the module has in several
    places is replaced in all of them. strict: every parameter and buffer has to be given. RuntimeError for names that
    the module lacks.
    """
    given: dict[str, Tensor] = {}
    for part in (parameters_and_buffers,) if isinstance(parameters_and_buffers, Mapping) else parameters_and_buffers:
        given.update(part)
    places: dict[str, tuple[dict[str, Any], str, Any]] = {}
    for path, m in module.named_modules(remove_duplicate=False):
        for registry in (m._parameters, m._buffers):
            for name, value in registry.items():
                if value is not None:
                    places[f"{path}.{name}" if path else name] = (registry, name, value)
    unknown = [k for k in given if k not in places]
    replaced = {id(places[k][2]): v for k, v in given.items() if k in places} if tie_weights else {}
    missing = [k for k, (_, _, value) in places.items() if k not in given and id(value) not in replaced]
    if unknown or strict and missing:
        what = f"unexpected key(s): {', '.join(unknown)}" if unknown else f"missing key(s): {', '.join(missing)}"
        raise RuntimeError(f"functional_call of {type(module).__name__}: {what}")
    if args is not None and not isinstance(args, tuple):
        args = (args,)
    try:
        for k, (registry, name, value) in places.items():
            registry[name] = given.get(k, replaced.get(id(value), value))
        return module(*(args or ()), **(kwargs or {}))
    finally:
        for registry, name, value in places.values():
            registry[name] = value
