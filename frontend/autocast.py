"""Mixed precision: inside `with autocast("cpu"):` products run in bfloat16 (or float16), losses in float32.

Which functions do is PyTorch's choice for the CPU. Everything else computes in the types of its operands, which promote
as always. Each function that autocast knows is replaced by `install` in the namespaces that hand it on; it casts its
floating operands (float64 ones aside) and runs.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Self

from ..ir.dtypes import DType, bfloat16, dtype_of, float16, float32, float64
from ..ir.op import get_op
from .devices import KINDS
from .dispatch import run
from .state import state
from .tensor import Tensor

LOWER = frozenset(
    """
    addbmm addmm baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d einsum
    inner linear matmul mm multi_dot prelu scaled_dot_product_attention tensordot vecdot
    """.split()
)
FLOAT32 = frozenset(
    """
    adaptive_avg_pool3d avg_pool3d binary_cross_entropy binary_cross_entropy_with_logits cdist cholesky
    cholesky_inverse cholesky_solve cond cosine_embedding_loss cross_entropy ctc_loss det eig eigh eigvals eigvalsh fft
    fft2 fftn grid_sample hfft hinge_embedding_loss householder_product huber_loss ifft ifft2 ifftn ihfft inv inverse
    irfft irfft2 irfftn kl_div l1_loss logdet lstsq margin_ranking_loss matrix_rank max_unpool2d max_unpool3d mse_loss
    multi_margin_loss multilabel_margin_loss nanquantile nll_loss pinv pinverse poisson_nll_loss polar prod qr quantile
    rfft rfft2 rfftn slogdet smooth_l1_loss soft_margin_loss solve stft svd svdvals tensorinv tensorsolve trace
    triplet_margin_loss
    """.split()
)


class autocast:
    """`with autocast("cpu", dtype=bfloat16):`, or a decorator. enabled=False inside such a block turns it off again.

    dtype: bfloat16 or float16, else ValueError; None: bfloat16, for "cuda" float16, as in PyTorch. cache_enabled has no
    effect: compiled functions cast each weight once, eager ones wherever it is used. Tensors are lowered wherever they
    lie. On device types other than "cpu" and "cuda" it warns and does nothing.
    """

    def __init__(
        self, device_type: str = "cpu", dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ):
        if not isinstance(device_type, str):
            raise TypeError(f"autocast: device_type is a string, not a {type(device_type).__name__}")
        if device_type.partition(":")[0] not in KINDS and enabled:
            warnings.warn(f"autocast has no effect on device type {device_type!r}", UserWarning, stacklevel=2)
            enabled = False
        wanted = _default(device_type) if dtype is None else dtype_of(dtype)
        if enabled and wanted not in (bfloat16, float16):
            raise ValueError(f"autocast: dtype is bfloat16 or float16, not {wanted.name}")
        self.device, self.fast_dtype, self._enabled = device_type, wanted, bool(enabled)
        self._before: list[DType | None] = []

    def __enter__(self) -> Self:
        self._before.append(state.autocast)
        state.autocast = self.fast_dtype if self._enabled else None
        return self

    def __exit__(self, *exc: object) -> None:
        state.autocast = self._before.pop()

    def __call__(self, function: Callable) -> Callable:
        device, dtype, enabled = self.device, self.fast_dtype, self._enabled

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with autocast(device, dtype, enabled):
                return function(*args, **kwargs)

        return inside


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Whether this thread is inside an enabled `autocast`."""
    return state.autocast is not None and device_type.partition(":")[0] in KINDS


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """The type that autocast lowers to, in this thread, or would by default."""
    return state.autocast or _default(device_type)


def _default(device_type: str) -> DType:
    return float16 if device_type.partition(":")[0] == "cuda" else bfloat16


def install(namespace: dict[str, Any]) -> None:
    """Makes the functions in `namespace` that autocast knows follow it."""
    for names, lower in ((LOWER, True), (FLOAT32, False)):
        for name in names & namespace.keys():
            if not hasattr(namespace[name], "autocasts"):
                namespace[name] = _following(namespace[name], lower)


def _following(function: Callable, lower: bool) -> Callable:
    @functools.wraps(function)
    def follows(*args: Any, **kwargs: Any) -> Any:
        outer = state.autocast
        if outer is None:
            return function(*args, **kwargs)
        dtype = outer if lower else float32
        state.autocast = None  # what it is made of computes in the type of its operands
        try:
            return function(*[_cast(a, dtype) for a in args], **{k: _cast(v, dtype) for k, v in kwargs.items()})
        finally:
            state.autocast = outer

    follows.autocasts = True  # type: ignore[attr-defined]
    return follows


def _cast(x: Any, dtype: DType) -> Any:
    """Floating tensors in `x`, also in lists and tuples of them, in `dtype`; float64 ones as they are."""
    if isinstance(x, Tensor):
        if not x.dtype.is_floating or x.dtype in (float64, dtype):
            return x
        return run(get_op("cast"), (x,), {"dtype": dtype})
    if type(x) in (list, tuple):
        return type(x)([_cast(v, dtype) for v in x])
    return x
