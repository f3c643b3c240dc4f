"""`tracefuse.__array_namespace_info__()`: what the array API standard asks a namespace about itself."""

from __future__ import annotations

from typing import Any

from ..ir.dtypes import COMPLEX, FLOATS, SIGNED, UNSIGNED, DType, bool_, complex_of, int64
from .devices import Device, devices, get_default_device
from .devices import device as _device
from .dtype_info import isdtype
from .state import get_default_dtype


class NamespaceInfo:
    """Answers of the inspection API."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean masks and functions whose result shapes depend on values work; tensors have at most 64 axes."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        return get_default_device()

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        """The types of Python numbers, and of indices."""
        _device(device)
        real = get_default_dtype()
        return {
            "real floating": real,
            "complex floating": complex_of(real),
            "integral": int64,
            "indexing": int64,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        """The types of the standard by name: all, or those of a kind (or tuple of kinds) as `isdtype` takes them."""
        _device(device)
        standard = (bool_, *SIGNED, *UNSIGNED, *(f for f in FLOATS if f.bits > 16), *COMPLEX)
        return {d.name: d for d in standard if kind is None or isdtype(d, kind)}

    def devices(self) -> tuple[Device, ...]:
        return devices()


def __array_namespace_info__() -> NamespaceInfo:
    """What this namespace can do, and its default types and devices."""
    return NamespaceInfo()
