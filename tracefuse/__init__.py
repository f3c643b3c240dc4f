"""tracefuse: a tracing compiler for array programs and neural networks.

Eager tensors with autograd, `nn`, `optim` and `data`; `tracefuse.compile` turns functions and whole training steps into
fused native kernels; `tracefuse.export` writes them to files that run without their source.
"""

from __future__ import annotations

import math as _math
from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from .frontend import aliases, autograd, linalg, random
from .frontend import functions as _functions
from .frontend.autograd import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .frontend.functions import *
from .frontend.random import (
    Generator,
    bernoulli,
    get_rng_state,
    manual_seed,
    normal,
    permutation,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    seed_everything,
    set_rng_state,
    uniform,
)
from .frontend.state import get_default_dtype, set_default_dtype
from .frontend.tensor import Tensor
from .frontend.transforms import grad, value_and_grad, vjp
from .ir.dtypes import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)

if TYPE_CHECKING:
    from .frontend import data as data
    from .frontend import nn as nn
    from .frontend import optim as optim
    from .frontend.compile import compile as compile
    from .frontend.nn.parameter import Parameter as Parameter

aliases.install(__name__, f"{__name__}.frontend")

__version__ = "0.1.0"
__array_api_version__ = "2024.12"

e, pi, inf, nan = _math.e, _math.pi, _math.inf, _math.nan
newaxis = None
bool = bool_
half, float, double, long = float16, float32, float64, int64

# Where names live that would make `import tracefuse` slow. None: the module itself.
_LAZY = {
    "nn": ("frontend.nn", None),
    "optim": ("frontend.optim", None),
    "data": ("frontend.data", None),
    "Parameter": ("frontend.nn.parameter", "Parameter"),
    "compile": ("frontend.compile", "compile"),
    "explain": ("frontend.explain", "explain"),
    "benchmark": ("frontend.benchmark", "benchmark"),
    "export": ("frontend.export", "export"),
    "load": ("frontend.export", "load"),
    "Program": ("frontend.export", "Program"),
    "Dim": ("frontend.export", "Dim"),
    "ExportError": ("frontend.export", "ExportError"),
    "InvalidProgram": ("frontend.export", "InvalidProgram"),
    "save": ("frontend.serialize", "save"),
    "save_tensors": ("frontend.serialize", "save_tensors"),
    "load_tensors": ("frontend.serialize", "load_tensors"),
}


def __getattr__(name: str) -> _Any:
    found = _LAZY.get(name)
    if found is None:
        raise AttributeError(f"module 'tracefuse' has no attribute {name!r}")
    module = _import_module(f".{found[0]}", __name__)
    value = module if found[1] is None else getattr(module, found[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "DType",
    "Generator",
    "Tensor",
    "autograd",
    "bernoulli",
    "bfloat16",
    "bool",
    "bool_",
    "double",
    "e",
    "enable_grad",
    "float",
    "float16",
    "float32",
    "float64",
    "get_default_dtype",
    "get_rng_state",
    "grad",
    "half",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_grad_enabled",
    "linalg",
    "long",
    "manual_seed",
    "nan",
    "newaxis",
    "no_grad",
    "normal",
    "permutation",
    "pi",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "random",
    "randperm",
    "seed_everything",
    "set_default_dtype",
    "set_grad_enabled",
    "set_rng_state",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uniform",
    "value_and_grad",
    "vjp",
]  # fmt: skip
__all__ += _functions.__all__
