"""`xp`: the namespace of tracefuse with every function that computes compiled: what `run.py --compiled` tests.

A call is compiled as a function of its own, so that it meets a fresh trace and not one that an earlier call has left.
ARRAY_API_BACKEND=reference captures too, but runs graphs with the ops' references.
"""

from __future__ import annotations

import functools
import os
import types
import warnings
from collections.abc import Callable
from typing import Any

from tracefuse.frontend import (
    complex_numbers,
    elementwise,
    factorizations,
    fft,
    linalg,
    manipulation,
    products,
    reductions,
    sorting,
)
from tracefuse.frontend.compile import CaptureWarning

import tracefuse

BACKEND = os.environ.get("ARRAY_API_BACKEND")
LEFT_EAGER = frozenset(("broadcast_shapes", "is_complex"))  # what takes and gives no tensors


def compiled(function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        def once(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CaptureWarning)  # shapes that depend on values
            return (tracefuse.compile(once, backend=BACKEND) if BACKEND else tracefuse.compile(once))(*args, **kwargs)

    return call


def namespace(module: Any, names: list[str]) -> types.ModuleType:
    """A copy of a module with the functions of these names compiled."""
    out = types.ModuleType(module.__name__)
    for name in (*module.__all__, *(n for n in vars(module) if n.startswith("__array_"))):
        value = getattr(module, name)
        is_function = name in names and isinstance(value, types.FunctionType) and name not in LEFT_EAGER
        setattr(out, name, compiled(value) if is_function else value)
    return out


MODULES = (complex_numbers, elementwise, manipulation, products, reductions, sorting)
xp: Any = namespace(tracefuse, [n for m in MODULES for n in m.__all__])
xp.linalg = namespace(linalg, [*factorizations.__all__, *linalg.__all__])
xp.fft = namespace(fft, fft.__all__)
xp.__version__ = tracefuse.__version__
xp.__array_namespace_info__ = tracefuse.__array_namespace_info__
