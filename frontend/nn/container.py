"""Modules that hold modules or parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

from ..tensor import Tensor
from .module import Module
from .parameter import Parameter


class _Ordered(Module):
    """Submodules under the names "0", "1", .."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for m in modules:
            self.append(m)

    def _name(self, index: int) -> str:
        index = operator.index(index)
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"index {index} is out of range for {n} modules")
        return list(self._modules)[index]

    def _renumber(self, modules: Iterable[Module]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for i, m in enumerate(modules):
            self.add_module(str(i), m)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Any: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return type(self)._of(list(self._modules.items())[index])
        return self._modules[self._name(index)]

    @classmethod
    def _of(cls, items: list[tuple[str, Any]]):
        return cls([m for _, m in items])

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        left = list(self)
        del left[index]
        self._renumber(left)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def append(self, module: Module):
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]):
        for m in modules:
            self.append(m)
        return self

    def pop(self, index: int = -1) -> Any:
        """Takes the module at `index` out, and returns it."""
        found = self[index]
        del self[index]
        return found

    def insert(self, index: int, module: Module):
        listed = list(self)
        listed.insert(index, module)
        self._renumber(listed)
        return self


class Sequential(_Ordered):
    """Calls its modules one after the other. Takes modules, or one mapping of names to modules."""

    def __init__(self, *args: Any):
        named = len(args) == 1 and isinstance(args[0], Mapping)
        super().__init__(() if named else args)
        if named:
            for name, m in args[0].items():
                self.add_module(name, m)

    @classmethod
    def _of(cls, items: list[tuple[str, Any]]):
        return cls(dict(items))

    def __add__(self, other: Iterable[Module]) -> Sequential:
        return Sequential(*self, *other)

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            assert module is not None
            input = module(input)
        return input


class ModuleList(_Ordered):
    """A list of modules; it has no forward."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__(modules or ())

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __iadd__(self, other: Iterable[Module]) -> ModuleList:
        return self.extend(other)


class ModuleDict(Module):
    """A dict of modules; it has no forward."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None):
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def keys(self):
        return self._modules.keys()

    def values(self):
        return self._modules.values()

    def items(self):
        return self._modules.items()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        for key, m in dict(modules).items():
            self[key] = m

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def pop(self, key: str) -> Module:
        found = self[key]
        del self[key]
        return found


def _as_parameter(value: Any) -> Parameter:
    if isinstance(value, Parameter):
        return value
    if not isinstance(value, Tensor):
        raise TypeError(f"a Parameter or Tensor is needed, not a {type(value).__name__}")
    return Parameter(value)


class ParameterList(Module):
    """A list of parameters; tensors become parameters."""

    def __init__(self, values: Iterable[Any] = ()):
        super().__init__()
        self.extend(values)

    def __getitem__(self, index: int) -> Parameter:
        return list(self)[index]

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(range(len(self))[index]), _as_parameter(value))

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parameters.values())

    def append(self, value: Any) -> ParameterList:
        self.register_parameter(str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        for v in values:
            self.append(v)
        return self

    def extra_repr(self) -> str:
        return "\n".join(
            f"({k}): Parameter of {p.dtype.name} {tuple(p.shape)}" for k, p in self._parameters.items() if p is not None
        )


class ParameterDict(Module):
    """A dict of parameters; tensors become parameters."""

    def __init__(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None):
        super().__init__()
        given: dict[Any, Any] = dict(parameters or {})
        for key, value in given.items():
            self[key] = value

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, key: object) -> bool:
        return key in self._parameters

    def keys(self):
        return self._parameters.keys()

    def values(self):
        return self._parameters.values()

    def items(self):
        return self._parameters.items()

    def extra_repr(self) -> str:
        return "\n".join(
            f"({k}): Parameter of {p.dtype.name} {tuple(p.shape)}" for k, p in self._parameters.items() if p is not None
        )
