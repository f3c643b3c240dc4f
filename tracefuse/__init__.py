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
from .frontend.autocast import autocast, get_autocast_dtype, is_autocast_enabled
from .frontend.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .frontend.devices import (
    Device,
    are_deterministic_algorithms_enabled,
    device,
    get_default_device,
    get_float32_matmul_precision,
    set_default_device,
    set_float32_matmul_precision,
    use_deterministic_algorithms,
)
from .frontend.functions import *
from .frontend.namespace_info import __array_namespace_info__ as __array_namespace_info__
from .frontend.random import (
    Generator,
    bernoulli,
    get_rng_state,
    manual_seed,
    multinomial,
    normal,
    permutation,
    poisson,
    rand,
    rand_like,
    randint,
    randint_like,
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
    complex64,
    complex128,
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
    from .frontend import amp as amp
    from .frontend import cuda as cuda
    from .frontend import data as data
    from .frontend import fft as fft
    from .frontend import func as func
    from .frontend import nn as nn
    from .frontend import optim as optim
    from .frontend import signal as signal
    from .frontend import special as special
    from .frontend.checkpoint import checkpoint as checkpoint
    from .frontend.compile import compile as compile
    from .frontend.compile import compiled_function as compiled_function
    from .frontend.control import cond as cond
    from .frontend.control import fori_loop as fori_loop
    from .frontend.control import map as map
    from .frontend.control import scan as scan
    from .frontend.control import while_loop as while_loop
    from .frontend.forward_ad import jvp as jvp
    from .frontend.forward_ad import linearize as linearize
    from .frontend.jacobians import hessian as hessian
    from .frontend.jacobians import jacfwd as jacfwd
    from .frontend.jacobians import jacobian as jacobian
    from .frontend.jacobians import jacrev as jacrev
    from .frontend.nn.parameter import Parameter as Parameter
    from .frontend.vmap import vmap as vmap

aliases.install(__name__, f"{__name__}.frontend")

__version__ = "0.1.0"
__array_api_version__ = "2025.12"

e, pi, inf, nan = _math.e, _math.pi, _math.inf, _math.nan
newaxis = None
bool = bool_
half, float, double, long = float16, float32, float64, int64
cfloat, cdouble = complex64, complex128

# Where names live that would make `import tracefuse` slow. None: the module itself.
_LAZY = {
    "nn": ("frontend.nn", None),
    "optim": ("frontend.optim", None),
    "amp": ("frontend.amp", None),
    "data": ("frontend.data", None),
    "fft": ("frontend.fft", None),
    "signal": ("frontend.signal", None),
    "special": ("frontend.special", None),
    "Parameter": ("frontend.nn.parameter", "Parameter"),
    "func": ("frontend.func", None),
    "checkpoint": ("frontend.checkpoint", "checkpoint"),
    "cond": ("frontend.control", "cond"),
    "fori_loop": ("frontend.control", "fori_loop"),
    "map": ("frontend.control", "map"),
    "scan": ("frontend.control", "scan"),
    "while_loop": ("frontend.control", "while_loop"),
    "jvp": ("frontend.forward_ad", "jvp"),
    "linearize": ("frontend.forward_ad", "linearize"),
    "hessian": ("frontend.jacobians", "hessian"),
    "jacfwd": ("frontend.jacobians", "jacfwd"),
    "jacobian": ("frontend.jacobians", "jacobian"),
    "jacrev": ("frontend.jacobians", "jacrev"),
    "vmap": ("frontend.vmap", "vmap"),
    "compile": ("frontend.compile", "compile"),
    "compiled_function": ("frontend.compile", "compiled_function"),
    "CaptureError": ("frontend.compile", "CaptureError"),
    "CaptureWarning": ("frontend.compile", "CaptureWarning"),
    "allow_in_graph": ("frontend.capture.opaque", "allow_in_graph"),
    "disable": ("frontend.capture.opt_out", "disable"),
    "debug_print": ("frontend.capture.host_calls", "debug_print"),
    "explain": ("frontend.explain", "explain"),
    "benchmark": ("frontend.benchmark", "benchmark"),
    "cuda": ("frontend.cuda", None),
    "export": ("frontend.export", "export"),
    "load": ("frontend.serialize", "load"),
    "Program": ("frontend.export", "Program"),
    "Dim": ("frontend.dims", "Dim"),
    "ExportError": ("frontend.export", "ExportError"),
    "InvalidProgram": ("frontend.export", "InvalidProgram"),
    "save": ("frontend.serialize", "save"),
    "save_tensors": ("frontend.serialize", "save_tensors"),
    "load_tensors": ("frontend.serialize", "load_tensors"),
    "InvalidTensorFile": ("frontend.tensor_file", "InvalidTensorFile"),
    "save_checkpoint": ("frontend.checkpoint_state", "save_checkpoint"),
    "load_checkpoint": ("frontend.checkpoint_state", "load_checkpoint"),
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
    "Device",
    "Generator",
    "Tensor",
    "are_deterministic_algorithms_enabled",
    "autocast",
    "autograd",
    "bernoulli",
    "bfloat16",
    "bool",
    "bool_",
    "cdouble",
    "cfloat",
    "complex64",
    "complex128",
    "device",
    "double",
    "e",
    "enable_grad",
    "float",
    "float16",
    "float32",
    "float64",
    "get_autocast_dtype",
    "get_default_device",
    "get_default_dtype",
    "get_float32_matmul_precision",
    "get_rng_state",
    "grad",
    "half",
    "inf",
    "inference_mode",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_autocast_enabled",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "linalg",
    "long",
    "manual_seed",
    "multinomial",
    "nan",
    "newaxis",
    "no_grad",
    "normal",
    "permutation",
    "pi",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random",
    "randperm",
    "seed_everything",
    "set_default_device",
    "set_default_dtype",
    "set_float32_matmul_precision",
    "set_grad_enabled",
    "set_rng_state",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uniform",
    "use_deterministic_algorithms",
    "value_and_grad",
    "vjp",
]  # fmt: skip
__all__ += _functions.__all__
