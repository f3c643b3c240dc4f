"""What a trace may call as it is: library functions that are ops or pure. Everything else with source is instrumented,
and the rest ends the capture with a reason."""

from __future__ import annotations

import collections
import sys
import types
from typing import Any

_LIBRARY = LIBRARY = __name__.partition(".")[0]
# Programs that come with the library, and are compiled as a user's would be.
PROGRAMS = frozenset(f"{_LIBRARY}.frontend.{name}" for name in ("demo", "workloads"))

PURE_BUILTINS = frozenset(
    (
        "abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format "
        "frozenset hash hex id int isinstance issubclass iter len list map max min next object oct ord pow property "
        "range repr reversed round set slice sorted staticmethod classmethod str sum super tuple type zip hasattr"
    ).split()
)
PURE_MODULES = frozenset(
    (
        "math cmath operator _operator itertools functools _functools collections _collections typing dataclasses "
        "enum abc numbers fractions decimal statistics copy string re bisect _bisect heapq _heapq types contextlib "
        "types collections.abc _abc keyword textwrap struct _struct"
    ).split()
)
# Classes of the standard library, written in Python, whose methods call those of subclasses: as the user's own.
LIKE_USERS = frozenset(("collections.ChainMap", "collections.UserDict", "collections.UserList"))
# Parts of the library that may be called while tracing. A method that is not listed for Module or Optimizer mutates it.
TRACEABLE = (
    "tensor",
    "tensor_methods",
    "operators",
    "in_place",
    "sorting",
    "counting",
    "arithmetic",
    "complex_numbers",
    "factorizations",
    "fft",
    "matrices",
    "products",
    "rearranging",
    "resampling",
    "scattering",
    "special",
    "statistics",
    "windows",
    "dtype_info",
    "numpy_protocol",
    "functions",
    "elementwise",
    "reductions",
    "manipulation",
    "linalg",
    "creation",
    "convert",
    "indexing",
    "random",
    "amp",
    "autocast",
    "autograd",
    "transforms",
    "vmap",
    "lanes",
    "forward_ad",
    "jacobians",
    "func",
    "devices",
    "dispatch",
    "transfer",
    "numpy_protocols",
    "protocols",
    "interop",
    "einsum",
    "nn.functional",
    "nn.init",
    "nn.utils",
    "state",
    "control",
    "checkpoint",
    "capture.array_functions",
)
READ_ONLY_METHODS = frozenset(
    (
        "__call__ forward parameters named_parameters buffers named_buffers children named_children modules "
        "named_modules state_dict zero_grad update_parameters get_parameter get_buffer get_submodule extra_repr step values items keys "
        "__iter__ __len__ __getitem__ __contains__ __repr__ apply_gradients"
    ).split()
)
IMPURE_NAMES = frozenset(
    "seed_everything set_default_dtype set_default_device set_float32_matmul_precision use_deterministic_algorithms seed set_num_threads".split()
)
MUTATING_METHODS = {
    list: frozenset("append extend insert remove pop clear sort reverse __setitem__ __delitem__ __iadd__".split()),
    dict: frozenset("update pop popitem clear setdefault move_to_end __setitem__ __delitem__ __ior__".split()),
    set: frozenset(
        "add remove discard pop clear update intersection_update difference_update symmetric_difference_update".split()
    ),
    collections.deque: frozenset(
        "append appendleft extend extendleft insert remove pop popleft clear reverse rotate".split()
    ),
    bytearray: frozenset("append extend insert remove pop clear sort reverse __setitem__ __delitem__".split()),
}
IN_PLACE = {
    list: frozenset(("__iadd__", "__imul__")),
    dict: frozenset(("__ior__",)),
    set: frozenset(("__ior__", "__iand__", "__isub__", "__ixor__")),
    collections.deque: frozenset(("__iadd__", "__imul__")),
}
ARRAY_MUTATORS = frozenset("fill sort partition put itemset resize setfield setflags byteswap __setitem__".split())
NUMPY_IMPURE = frozenset(
    (
        "load save savez savez_compressed loadtxt savetxt genfromtxt fromfile memmap fromregex copyto put place "
        "putmask fill_diagonal put_along_axis seterr seterrcall setbufsize set_printoptions random empty empty_like "
        "frombuffer"
    ).split()
)
# Functions of the standard library that read, compare or call what is in the objects they are given.
READS_OBJECTS = frozenset("copy dataclasses heapq _heapq bisect _bisect statistics".split())
CREATION = frozenset("tensor asarray array from_numpy as_tensor from_dlpack Tensor".split())
TAKES_FUNCTIONS = frozenset(
    ("map filter sorted min max reduce accumulate starmap takewhile dropwhile groupby partial").split()
)
CONSUMES_ITERATORS = frozenset(
    (
        "list tuple set frozenset dict sum min max any all sorted zip map filter enumerate reversed next iter reduce"
    ).split()
)


def module_of(x: Any) -> str:
    """The module that a function or class comes from."""
    if isinstance(x, types.FunctionType):
        return x.__globals__.get("__name__") or x.__module__ or ""
    return getattr(x, "__module__", None) or ""


def is_library(module: str) -> bool:
    return (module == _LIBRARY or module.startswith(_LIBRARY + ".")) and module not in PROGRAMS


def is_numpy(module: str) -> bool:
    return module == "numpy" or module.startswith("numpy.") or module == "ml_dtypes" or module.startswith("ml_dtypes.")


def is_standard(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names and root != "__main__"


def is_user_module(name: str) -> bool:
    return not (is_library(name) or is_numpy(name) or is_standard(name))


def is_user(x: Any) -> bool:
    """Whether a function or class belongs to the user (or to a package that capture treats as the user's code)."""
    module = module_of(x)
    if module == "collections.abc":
        return True
    return is_user_module(module) or f"{module}.{getattr(x, '__qualname__', '').partition('.')[0]}" in LIKE_USERS


def is_traceable(module: str) -> bool:
    """Whether a function of the library's `module` may be called while tracing."""
    inner = module.removeprefix(_LIBRARY + ".").removeprefix("frontend.")
    return module.startswith(_LIBRARY + ".ir") or any(
        inner == t or inner.startswith((t + ".", t + "_")) for t in TRACEABLE
    )


def user_dunder(x: Any, name: str) -> types.FunctionType | None:
    """The user's own Python implementation of a special method of `x`, if that is what would be called."""
    found = getattr(type(x), name, None)
    return found if isinstance(found, types.FunctionType) and is_user(found) else None


def is_module(x: Any) -> bool:
    """Whether `x` is an `nn.Module`. (Attributes tell nothing: a user's `__getattr__` may have them all.)"""
    from ..nn.module import Module

    return isinstance(x, Module)


def is_mutating(x: Any, name: str) -> bool:
    """Whether the in-place operator `name` changes a builtin container."""
    return any(isinstance(x, kind) and name in names for kind, names in IN_PLACE.items())


def is_generated(f: types.FunctionType) -> bool:
    """Whether `f` is a special method that dataclasses, namedtuples and the like have generated."""
    return f.__code__.co_filename.startswith("<") and f.__name__.startswith("__") and f.__name__.endswith("__")
