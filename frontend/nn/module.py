"""`Module`: the base of layers. Names and behaviour are PyTorch's; every change of structure moves the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ...ir.dtypes import DType, bfloat16, dtype_of, float16, float32, float64
from .. import creation
from ..autograd import no_grad
from ..devices import gpu_at, gpu_of, moved, target_of
from ..epoch import epoch
from ..state import traced
from ..tensor import Tensor
from . import module_state
from .hooks import Hook, RemovableHandle, add_hook, call_with_hooks
from .module_state import IncompatibleKeys
from .parameter import Parameter

if TYPE_CHECKING:
    from .summary import Summary

T = TypeVar("T")


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
        computed = getattr(type(self), name, None)
        if isinstance(computed, property) and computed.fset is not None:  # a parametrized tensor
            computed.fset(self, value)
            return
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
        if d["_forward_hooks"] or d["_forward_pre_hooks"] or "_backward_hooks" in d or "_backward_pre_hooks" in d:
            return call_with_hooks(self, args, kwargs)
        return traced(self.forward)(*args, **kwargs)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """`hook(module, args)` before each forward; what it returns, unless None, replaces the arguments."""
        return add_hook(self, "_forward_pre_hooks", Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """`hook(module, args, output)` after each forward; what it returns, unless None, replaces the output.

        always_call: also when forward raises (output is None then).
        """
        return add_hook(self, "_forward_hooks", Hook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """`hook(module, grad_input, grad_output)` when the gradients of the positional arguments are known: tuples with
        None where there is none. What it returns, unless None, replaces grad_input."""
        return add_hook(self, "_backward_hooks", Hook(hook), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """`hook(module, grad_output)` when the gradients of the outputs are known; what it returns, unless None,
        replaces them."""
        return add_hook(self, "_backward_pre_hooks", Hook(hook), prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """`hook(module, prefix, keep_vars)` before `state_dict` reads this module."""
        return add_hook(self, "_state_dict_pre_hooks", Hook(hook))

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """`hook(module, state_dict, prefix, local_metadata)` after `state_dict` has read this module and all below it;
        it may change the dict in place."""
        return add_hook(self, "_state_dict_hooks", Hook(hook))

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """`hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)` before
        `load_state_dict` looks at a copy of the dict, which it may change, as it may the lists."""
        return add_hook(self, "_load_state_dict_pre_hooks", Hook(hook))

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """`hook(module, incompatible_keys)` after `load_state_dict`, children first; it may change the lists."""
        return add_hook(self, "_load_state_dict_post_hooks", Hook(hook))

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

    def set_submodule(self, target: str, module: Module) -> None:
        """Puts `module` at a dotted path, whose parent has to be there."""
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("set_submodule: the path must not be empty")
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module")
        setattr(self.get_submodule(path), name, module)

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
        """Moves parameters and buffers to a device, and casts those that are floats, in place: `to("cuda:0")`,
        `to(tr.float64)`, `to(device, dtype)` or `to(t)`.

        TypeError for an element type that is not floating; see `tr.device` for devices that are not there.
        """
        where, dtype, _ = target_of(args, {"device": device, "dtype": dtype})
        if where is not None:
            self._move(gpu_at(where))
        if dtype is not None:
            self._cast(dtype_of(dtype))
        return self

    def _move(self, gpu: Any) -> None:
        for t in (*self.parameters(), *self.buffers()):
            for x in (t, t._grad):
                if x is not None and gpu_of(x) is not gpu:
                    x._data = moved(x._data, gpu)
                    epoch.bump()

    def _cast(self, dtype: DType) -> None:
        if not dtype.is_floating:
            raise TypeError(f"Module.to() takes floating element types, not {dtype.name}")
        for t in (*self.parameters(), *self.buffers()):
            if not t.dtype.is_floating or t.dtype is dtype:
                continue
            grad = t.grad
            t._data = t.detach().to(dtype)._data
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

    def type(self, dst_type: Any) -> Self:
        """`to(dst_type)`."""
        return self.to(dtype=dst_type)

    def cpu(self) -> Self:
        """Moves parameters and buffers to host memory."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Moves parameters and buffers to a GPU, the first one by default."""
        return self.to("cuda" if device is None else device)

    def to_empty(self, *, device: Any = None, recurse: bool = True) -> Self:
        """Forgets all parameters and buffers: they keep their shapes, and hold zeros."""
        with no_grad():
            for t in (*self.parameters(recurse), *self.buffers(recurse)):
                t.copy_(creation.zeros_like(t))
        return self.to(device=device)

    # ------------------------------------------------------------ state

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted name. They share memory with the module.

        A class with `get_extra_state` has what that returns in it as well, as "_extra_state".
        """
        out: dict[str, Any] = {} if destination is None else destination
        module_state.collect(self, out, prefix, keep_vars)
        return out

    def _adapt_state(self, state: dict[str, Any], prefix: str) -> None:
        """Brings what older versions saved for this module, under `prefix`, to the names of today."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies tensors (or arrays) into the parameters and buffers of the same names, casting to their element types.

        `assign`: takes the given tensors themselves instead. RuntimeError names every missing or unexpected key
        (when `strict`) and every shape that differs; nothing is changed then. A class with `set_extra_state` gets its
        "_extra_state".
        """
        return module_state.load(self, state_dict, strict, assign)

    # ------------------------------------------------------------ printing

    def summary(self, *inputs: Any, depth: int | None = None, **kwargs: Any) -> Summary:
        """A table of the modules, the shapes of their results for these inputs, and parameters; see `nn.summary`."""
        from .summary import summary

        return summary(self, *inputs, depth=depth, **kwargs)

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


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")
