"""`Module`: the base of layers. Names and behaviour are PyTorch's; every change of structure moves the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from ...ir.dtypes import DType, bfloat16, dtype_of, float16, float32, float64
from .. import functions as fn
from ..autograd import no_grad
from ..convert import native
from ..epoch import epoch
from ..state import traced
from ..tensor import Tensor, new_tensor
from .parameter import Parameter

M = TypeVar("M", bound="Module")
T = TypeVar("T")


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` did not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class RemovableHandle:
    """Takes a hook out again: `handle.remove()`, or a `with` block."""

    _count = 0

    def __init__(self, hooks: dict[int, Any]):
        RemovableHandle._count += 1
        self.id, self._hooks = RemovableHandle._count, hooks

    def remove(self) -> None:
        if self._hooks.pop(self.id, None) is not None:
            epoch.bump()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class _Hook(NamedTuple):
    call: Callable[..., Any]
    with_kwargs: bool


class Module:
    """A layer or model: parameters, buffers and submodules found as attributes, and a `forward` method.

    Subclasses call `super().__init__()` first and define `forward`.
    """

    training: bool
    forward: Callable[..., Any]
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        self.__dict__.update(
            training=True,
            _parameters={},
            _buffers={},
            _modules={},
            _non_persistent=set(),
            _forward_hooks={},
            _forward_pre_hooks={},
        )

    # ------------------------------------------------------------ attributes

    def __getattr__(self, name: str) -> Any:
        d = self.__dict__
        for registry in ("_parameters", "_buffers", "_modules"):
            found = d.get(registry)
            if found is not None and name in found:
                return found[name]
        if name == "forward":
            raise AttributeError(f"{type(self).__name__} has no forward method: define `def forward(self, ...)`")
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        d = self.__dict__
        if isinstance(value, Parameter):
            self._register("_parameters", name, value)
        elif isinstance(value, Module):
            self._register("_modules", name, value)
        elif name in d.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign a {type(value).__name__} as parameter '{name}' (nn.Parameter or None needed)"
                )
            self._register("_parameters", name, None)
        elif name in d.get("_modules", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign a {type(value).__name__} as child module '{name}' (Module or None needed)"
                )
            self._register("_modules", name, None)
        elif name in d.get("_buffers", ()):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign a {type(value).__name__} as buffer '{name}' (Tensor or None needed)")
            self._register("_buffers", name, value)
        elif name not in d or d[name] is not value:
            object.__setattr__(self, name, value)
            epoch.bump()

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                self.__dict__["_non_persistent"].discard(name)
                break
        else:
            object.__delattr__(self, name)
        epoch.bump()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _register(self, kind: str, name: str, value: Any) -> None:
        """Puts `value` into the registry `kind`, out of all others. Checks the name."""
        d = self.__dict__
        registry = d.get(kind)
        if registry is None:
            raise AttributeError(f"call super().__init__() in {type(self).__name__}.__init__ before assigning '{name}'")
        if name in registry:
            if registry[name] is not value:
                registry[name] = value
                epoch.bump()
            return
        if not isinstance(name, str) or "." in name or not name:
            raise KeyError(f"{name!r} is not a valid name here: a non-empty string without dots is needed")
        d.pop(name, None)
        for other in ("_parameters", "_buffers", "_modules"):
            if other != kind:
                d[other].pop(name, None)
        registry[name] = value
        epoch.bump()

    def _check_free(self, name: str) -> None:
        if hasattr(self, name) and not any(name in r for r in (self._parameters, self._buffers, self._modules)):
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot register a {type(param).__name__} as parameter '{name}' (nn.Parameter or None needed)"
            )
        self._check_free(name)
        self._register("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """A tensor that belongs to the module and is not a parameter. Not `persistent`: not in the state dict."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"cannot register a {type(tensor).__name__} as buffer '{name}' (Tensor or None needed)")
        self._check_free(name)
        self._register("_buffers", name, tensor)
        if persistent:
            self.__dict__["_non_persistent"].discard(name)
        else:
            self.__dict__["_non_persistent"].add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module")
        self._check_free(name)
        self._register("_modules", name, module)

    add_module = register_module

    # ------------------------------------------------------------ calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        d = self.__dict__
        if not d["_forward_hooks"] and not d["_forward_pre_hooks"]:
            return traced(self.forward)(*args, **kwargs)
        return self._call_with_hooks(args, kwargs)

    def _call_with_hooks(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        for hook in tuple(self.__dict__["_forward_pre_hooks"].values()):
            if hook.with_kwargs:
                changed = traced(hook.call)(self, args, kwargs)
                if changed is not None:
                    args, kwargs = changed
            else:
                changed = traced(hook.call)(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        out = traced(self.forward)(*args, **kwargs)
        for hook in tuple(self.__dict__["_forward_hooks"].values()):
            changed = (
                traced(hook.call)(self, args, kwargs, out) if hook.with_kwargs else traced(hook.call)(self, args, out)
            )
            if changed is not None:
                out = changed
        return out

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """`hook(module, args)` before each forward; what it returns, unless None, replaces the arguments."""
        return _add_hook(self.__dict__["_forward_pre_hooks"], _Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """`hook(module, args, output)` after each forward; what it returns, unless None, replaces the output."""
        return _add_hook(self.__dict__["_forward_hooks"], _Hook(hook, with_kwargs), prepend)

    # ------------------------------------------------------------ walking

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module and everything below it, each once, parents first."""
        return self._walk(prefix, set() if remove_duplicate else None)

    def _walk(self, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if id(self) in seen:
                return
            seen.add(id(self))
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        return (m for _, m in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        seen: set[int] = set()
        for name, child in self._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        return (m for _, m in self.named_children())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        return self._members(lambda m: m._parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        return self._members(lambda m: m._buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _members(
        self, of: Callable[[Module], Mapping[str, T | None]], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        owners = self.named_modules(prefix, remove_duplicate) if recurse else ((prefix, self),)
        for path, module in owners:
            for name, value in of(module).items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path. AttributeError if there is none."""
        found: Any = self
        for name in target.split(".") if target else ():
            found = getattr(found, name)
            if not isinstance(found, Module):
                raise AttributeError(f"'{name}' in '{target}' is not a Module")
        return found

    def get_parameter(self, target: str) -> Parameter:
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._parameters.get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no parameter '{target}'")
        return found

    def get_buffer(self, target: str) -> Tensor:
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._buffers.get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no buffer '{target}'")
        return found

    # ------------------------------------------------------------ modes

    def train(self, mode: bool = True) -> Self:
        """Sets training mode here and in every submodule."""
        if not isinstance(mode, bool):
            raise TypeError(f"train() needs a bool, not a {type(mode).__name__}")
        for m in self.modules():
            m.training = mode
        return self

    def eval(self) -> Self:
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        for p in self.parameters():
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)
                epoch.bump()
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parameters():
            if p.grad is None:
                continue
            if set_to_none:
                p.grad = None
            else:
                with no_grad():
                    p.grad.zero_()

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Calls `fn` on every submodule, then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Self:
        """Casts float parameters and buffers in place: `to(tr.float64)`, `to("cpu")`, `to(device, dtype)` or `to(t)`.

        TypeError for an element type that is not floating, ValueError for a device other than the CPU.
        """
        for a in args:
            if isinstance(a, Tensor):
                dtype = a.dtype
            elif isinstance(a, str) and a.split(":")[0] in _DEVICES:
                device = a
            elif a is not None and not isinstance(a, bool):
                dtype = a
        if device is not None and str(device).split(":")[0] != "cpu":
            raise ValueError(f"tensors live on the CPU; there is no device {device!r}")
        if dtype is not None:
            self._cast(dtype_of(dtype))
        return self

    def _cast(self, dtype: DType) -> None:
        if not dtype.is_floating:
            raise TypeError(f"Module.to() takes floating element types, not {dtype.name}")
        for t in (*self.parameters(), *self.buffers()):
            if not t.dtype.is_floating or t.dtype is dtype:
                continue
            grad = t.grad
            t._data = np.asarray(t._data).astype(dtype.np)
            if grad is not None:
                t.grad = grad.to(dtype)
            epoch.bump()

    def float(self) -> Self:
        return self.to(float32)

    def double(self) -> Self:
        return self.to(float64)

    def half(self) -> Self:
        return self.to(float16)

    def bfloat16(self) -> Self:
        return self.to(bfloat16)

    # ------------------------------------------------------------ state

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name. They share memory with the module."""
        out: dict[str, Tensor] = {}
        for path, module in self.named_modules(prefix.rstrip("."), remove_duplicate=False):
            for name, value in module._state():
                out[f"{path}.{name}" if path else name] = value if keep_vars else value.detach()
        return out

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """This module's own parameters and persistent buffers."""
        for name, p in self._parameters.items():
            if p is not None:
                yield name, p
        for name, b in self._buffers.items():
            if b is not None and name not in self.__dict__["_non_persistent"]:
                yield name, b

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies tensors (or arrays) into the parameters and buffers of the same names, casting to their element types.

        `assign`: takes the given tensors themselves instead. RuntimeError names every missing or unexpected key
        (when `strict`) and every shape that differs; nothing is changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict() needs a mapping of names to tensors, not a {type(state_dict).__name__}")
        own = {
            (f"{path}.{name}" if path else name): (module, name, value)
            for path, module in self.named_modules(remove_duplicate=False)
            for name, value in module._state()
        }
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        problems: list[str] = []
        if strict and unexpected:
            problems.append(f"unexpected key(s) in state_dict: {', '.join(unexpected)}")
        if strict and missing:
            problems.append(f"missing key(s) in state_dict: {', '.join(missing)}")
        arrays = {k: state_dict[k] for k in own if k in state_dict}
        for k, given in arrays.items():
            shape = tuple(np.shape(given))
            if shape != own[k][2].shape:
                problems.append(
                    f"size mismatch for {k}: the state_dict has {shape}, the module {tuple(own[k][2].shape)}"
                )
        if problems:
            raise RuntimeError(f"error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(problems))
        with no_grad():
            for k, given in arrays.items():
                module, name, value = own[k]
                tensor = given if isinstance(given, Tensor) else new_tensor(native(np.asarray(given)))
                tensor = fn.astype(tensor, value.dtype) if tensor.dtype is not value.dtype and not assign else tensor
                if not assign:
                    value.copy_(tensor)
                elif isinstance(value, Parameter):
                    module._register("_parameters", name, Parameter(tensor, value.requires_grad))
                else:
                    module._register("_buffers", name, tensor)
        epoch.bump()
        return IncompatibleKeys(missing, unexpected)

    # ------------------------------------------------------------ printing

    def extra_repr(self) -> str:
        """What stands between the brackets of this module's line in `repr`."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        lines = [f"({name}): {_indent(repr(child))}" for name, child in self._modules.items()]
        title = type(self).__name__
        if len(extra) == 1 and not lines:
            return f"{title}({extra[0]})"
        if not extra and not lines:
            return f"{title}()"
        return f"{title}(\n  " + "\n  ".join(extra + lines) + "\n)"


_DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")


def _add_hook(hooks: dict[int, _Hook], hook: _Hook, prepend: bool) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    others: Iterable[tuple[int, _Hook]] = tuple(hooks.items())
    if prepend:
        hooks.clear()
    hooks[handle.id] = hook
    if prepend:
        hooks.update(others)
    epoch.bump()
    return handle


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")
