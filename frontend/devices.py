"""Where tensors live: `device("cpu")`, `device("cuda:0")`; where new ones go, and how they get elsewhere."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ..ir.op import scope
from .state import state

if TYPE_CHECKING:
    from ..runtime.cuda.device import Gpu
    from .tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("cpu", "cuda")
FOREIGN = ("gpu", "mps", "tpu", "xpu", "meta")
WORTH_A_WARNING = 1 << 16  # bytes of a tensor of the CPU that is copied to take part in an op on a GPU


class Device(str):
    """A device by name: equal to that string. Also a context manager: tensors made inside of it lie there."""

    __slots__ = ("_before",)

    @property
    def type(self) -> str:
        """ "cpu" or "cuda"."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:
        """Which of the GPUs; None for the CPU."""
        return int(self.partition(":")[2]) if self.type == "cuda" else None

    def __repr__(self) -> str:
        return f"device({str(self)!r})"

    def __enter__(self) -> Device:
        _before.setdefault(self, []).append((state.place, scope.default))
        _place(gpu_at(self))
        return self

    def __exit__(self, *exc: object) -> None:
        state.place, scope.default = _before[self].pop()


_before: dict[Device, list[tuple[Any, Any]]] = {}
CPU = Device("cpu")


def device(name: Any = None, index: int | None = None) -> Device:
    """The device of that name: "cpu", "cuda" (the first GPU), "cuda:1"; or of another library's device object, or the
    number of a GPU. None: where new tensors go. RuntimeError, with the reason, if there is no such GPU."""
    if type(name) is Device and index is None:
        return name
    if name is None:
        return get_default_device()
    if isinstance(name, int):
        name = f"cuda:{name}"
    elif not isinstance(name, str) and hasattr(name, "type"):  # torch.device
        name = name.type if getattr(name, "index", None) is None else f"{name.type}:{name.index}"
    kind, _, number = str(name).partition(":")
    if index is not None:
        number = str(index)
    if kind not in KINDS or number and not number.isdigit() or kind == "cpu" and number not in ("", "0"):
        raise ValueError(f"tracefuse has no device {name!r}; its devices are cpu and cuda:<number>")
    if kind == "cpu":
        return CPU
    from ..runtime.cuda.device import gpu

    return Device(gpu(int(number or 0)).name)


def is_device(x: Any) -> bool:
    """Whether x names a device, here or in other libraries: "cpu", "cuda:0"."""
    if isinstance(x, str):
        return x.split(":")[0] in (*KINDS, *FOREIGN)
    return hasattr(x, "type") and hasattr(x, "index") and isinstance(x.type, str)


def target_of(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Device | None, Any, bool]:
    """(device, dtype, copy) out of what `to()` is given in PyTorch's many ways; None for what is to stay as it is."""
    where, dtype, copy = named.get("device"), named.get("dtype"), bool(named.get("copy"))
    if unknown := named.keys() - {"device", "dtype", "copy", "non_blocking", "memory_format", "other"}:
        raise TypeError(f"to() has no {', '.join(sorted(unknown))}")
    for a in (*args, *([named["other"]] if "other" in named else ())):
        if hasattr(a, "is_cuda") and hasattr(a, "dtype"):
            where, dtype = a.device, a.dtype
        elif is_device(a) or type(a) is int:
            where = a
        elif a is not None and not isinstance(a, bool):
            dtype = a
    return None if where is None else device(where), dtype, copy


def devices() -> tuple[Device, ...]:
    """All there are in this process."""
    from ..runtime.cuda.device import gpu_count

    return (CPU, *(Device(f"cuda:{k}") for k in range(gpu_count())))


def know_gpu(number: int) -> Gpu:
    """The GPU of that number. RuntimeError, with the reason, if there is none."""
    from ..runtime.cuda.device import gpu

    _know_arrays()
    return gpu(number)


def gpu_at(d: Any) -> Gpu | None:
    """The GPU of a device; None for the CPU."""
    d = device(d)
    return None if d.type == "cpu" else know_gpu(d.index or 0)


def device_of(payload: Any) -> Device:
    """Where an array lies. Values of a trace lie where the trace runs."""
    if type(payload) is np.ndarray:
        return CPU
    gpu = getattr(payload, "gpu", None) or getattr(state.tracer, "gpu", None)
    return CPU if gpu is None else Device(gpu.name)


# ------------------------------------------------------------------ where new tensors go


def get_default_device() -> Device:
    """Where tensors are made that are not said to be made elsewhere."""
    return CPU if state.place is None else Device(state.place.name)


def set_default_device(d: Any) -> None:
    """Sets where this thread makes tensors. See `device`."""
    _place(gpu_at(d))


def set_float32_matmul_precision(precision: str) -> None:
    """How GPUs multiply float32 in matmul and convolution, in this process: "highest" (the default: as exact as float32, on
    tensor cores in three parts), or "high" and "medium" (rounded to TF32's 10 bits first, about three times as fast)."""
    from ..runtime.cuda.numerics import PRODUCTS, numerics

    if precision not in PRODUCTS:
        raise ValueError(f"the precision is one of {', '.join(PRODUCTS)}, not {precision!r}")
    numerics.float32_products = precision


def use_deterministic_algorithms(mode: bool) -> None:
    """True, as it is by default: equal calls give equal bits, on GPUs too. False lets GPUs add up scattered floats (gradients
    of embeddings, `index_add`) in any order, which is faster where many meet."""
    from ..runtime.cuda.numerics import numerics

    numerics.deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """See `use_deterministic_algorithms`."""
    from ..runtime.cuda.numerics import numerics

    return numerics.deterministic


def get_float32_matmul_precision() -> str:
    """See `set_float32_matmul_precision`."""
    from ..runtime.cuda.numerics import numerics

    return numerics.float32_products


def _place(gpu: Gpu | None) -> None:
    state.place = gpu
    if state.tracer is None:
        scope.default = None if gpu is None else _creator(gpu)


def _creator(gpu: Gpu) -> Any:
    from ..runtime.cuda.eager import creator

    return creator(gpu)


@contextmanager
def making(gpu: Gpu | None) -> Iterator[None]:
    """What is made inside lies on that GPU; None: on the CPU."""
    before = state.place, scope.default
    _place(gpu)
    try:
        yield
    finally:
        state.place, scope.default = before


def on_device(function: F) -> F:
    """For functions that make tensors: `device=` says where; without it they go where a tensor lies that is the first
    argument, else where the default is."""

    @functools.wraps(function)
    def call(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is None and state.place is None and not (args and hasattr(args[0], "is_cuda")):
            return function(*args, **kwargs)
        gpu = _wanted(args, device)
        if state.tracer is not None:
            state.tracer.run_on(gpu)
            return function(*args, **kwargs)
        if gpu is None and state.place is None:
            return placed(function(*args, **kwargs), gpu, args)
        with making(gpu):
            return placed(function(*args, **kwargs), gpu, args)

    return cast(F, call)


def _wanted(args: tuple[Any, ...], d: Any) -> Gpu | None:
    if d is not None:
        return gpu_at(d)
    if args and hasattr(args[0], "is_cuda") and hasattr(args[0], "_data"):
        return gpu_of(args[0])
    return state.place


def placed(t: Tensor, gpu: Gpu | None, given: tuple[Any, ...] = ()) -> Tensor:
    """A tensor that was just made, on that device. What it was made of (`given`), and what others see, stays as it is."""
    if state.tracer is not None or gpu_of(t) is gpu:
        return t
    if t._node is not None or t._base is not None or any(t is x for x in given):
        from .transfer import transfer

        return transfer(t, gpu)
    t._data = moved(t._data, gpu)
    return t


# ------------------------------------------------------------------ arrays


def moved(array: Any, gpu: Gpu | None) -> Any:
    """A copy of an array on that device; itself if it lies there."""
    if type(array) is np.ndarray:
        if gpu is None:
            return array
        from ..runtime.cuda.array import to_device

        _know_arrays()
        return to_device(gpu, array)
    if gpu is None:
        return array.numpy()
    if array.gpu is gpu:
        return array
    from ..runtime.cuda.eager import transferred

    return transferred(array, gpu)


def host(array: Any) -> np.ndarray:
    """An array's elements in host memory: itself, or a copy."""
    return array if type(array) is np.ndarray else array.numpy()


def write(target: Any, source: Any) -> None:
    """target[...] = source, of the same dtype and shape unless both are ndarrays, wherever they lie."""
    target[...] = source if type(target) is type(source) else moved(source, getattr(target, "gpu", None))


def gpu_of(t: Tensor) -> Gpu | None:
    """The GPU that has the elements of a tensor; None: they are on the CPU, or it is a tensor of a trace."""
    return None if type(t._data) is np.ndarray else getattr(t._data, "gpu", None)


def is_device_array(x: Any) -> bool:
    """Whether x is an array of a GPU."""
    return type(x) is not np.ndarray and hasattr(x, "gpu")


def is_on_gpu(*tensors: Tensor) -> bool:
    """Whether one of them has its elements on a GPU."""
    return any(gpu_of(t) is not None for t in tensors)


def share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays may have elements in common."""
    if type(a) is np.ndarray or type(b) is np.ndarray:
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)
    from ..runtime.cuda.array import share_memory

    return share_memory(a, b)


def byte_bounds(array: Any) -> tuple[int, int]:
    """The first address that an array may touch, and the first one behind it."""
    return np.lib.array_utils.byte_bounds(array) if type(array) is np.ndarray else array.byte_bounds


def gathered(op_name: str, payloads: tuple[Any, ...]) -> tuple[Any, ...]:
    """Operands of which at least one is on a GPU, all of them there. A large one that has to be copied is worth a
    warning."""
    gpu = next(p.gpu for p in payloads if type(p) is not np.ndarray)
    for p in payloads:
        if type(p) is np.ndarray and p.nbytes >= WORTH_A_WARNING:
            warnings.warn(
                f"{op_name}: a tensor of shape {p.shape} is on the CPU and is copied to {gpu.name} for each such call; move it "
                f"there once, with .to('{gpu.name}')",
                UserWarning,
                stacklevel=_user_level(),
            )
    return tuple([moved(p, gpu) if type(p) is np.ndarray else p for p in payloads])


def _user_level() -> int:
    """How far up the first frame outside of tracefuse is, for warnings of the caller."""
    root = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == root:
        level, frame = level + 1, frame.f_back
    return level


def _know_arrays() -> None:
    """From now on tensors may hold arrays of GPUs."""
    from ..runtime.cuda.array import DeviceArray
    from .tensor import PAYLOADS

    PAYLOADS.add(DeviceArray)


__all__ = ["Device", "device", "devices", "get_default_device", "set_default_device"]
