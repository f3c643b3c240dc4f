"""numpy.linalg and numpy.fft on tensors, and NumPy's functions of complex numbers: see `numpy_protocol`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import fft, linalg
from . import functions as f


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    return linalg.svd(a, full_matrices=full_matrices) if compute_uv else linalg.svdvals(a)


def _qr(a: Any, mode: str = "reduced") -> Any:
    return linalg.qr(a, mode="reduced").R if mode == "r" else linalg.qr(a, mode=mode)


def _lower_only(function: Callable) -> Callable:
    """eigh and eigvalsh, which NumPy computes of one triangle: the same for hermitian matrices."""

    def call(a: Any, UPLO: str = "L") -> Any:
        return function(a)

    return call


def _transform(function: Callable) -> Callable:
    def call(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
        return function(a, n, axis, norm)

    return call


def _transforms(function: Callable) -> Callable:
    def call(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Any:
        return function(a, s, axes, norm)

    return call


_SAME_NAME = (
    "cond", "cross", "det", "eig", "eigvals", "inv", "matmul", "matrix_norm", "matrix_power", "matrix_transpose",
    "norm", "outer", "slogdet", "solve", "svdvals", "tensordot", "vecdot", "vector_norm",
)  # fmt: skip
LINALG: dict[Callable, Callable] = {getattr(np.linalg, n): getattr(linalg, n) for n in _SAME_NAME}
LINALG |= {
    np.linalg.cholesky: lambda a, upper=False: linalg.cholesky(a, upper=upper),
    np.linalg.diagonal: lambda x, offset=0: linalg.diagonal(x, offset=offset),
    np.linalg.eigh: _lower_only(linalg.eigh),
    np.linalg.eigvalsh: _lower_only(linalg.eigvalsh),
    np.linalg.matrix_rank: lambda A, tol=None, hermitian=False, rtol=None: linalg.matrix_rank(A, rtol=rtol),
    np.linalg.pinv: lambda a, rcond=None, hermitian=False, rtol=None: linalg.pinv(
        a, rtol=rcond if rtol is None else rtol
    ),
    np.linalg.qr: _qr,
    np.linalg.svd: _svd,
    np.linalg.trace: lambda x, offset=0, dtype=None: linalg.trace(x, offset=offset, dtype=dtype),
}
FFT: dict[Callable, Callable] = {
    getattr(np.fft, n): _transform(getattr(fft, n)) for n in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
}
FFT |= {getattr(np.fft, n): _transforms(getattr(fft, n)) for n in ("fftn", "ifftn", "rfftn", "irfftn")}
FFT |= {
    getattr(np.fft, n): lambda a, s=None, axes=(-2, -1), norm=None, out=None, _f=getattr(fft, n): _f(a, s, axes, norm)
    for n in ("fft2", "ifft2", "rfft2", "irfft2")
}
FFT |= {np.fft.fftshift: fft.fftshift, np.fft.ifftshift: fft.ifftshift}
COMPLEX: dict[Callable, Callable] = {
    np.real: f.real,
    np.imag: f.imag,
    np.angle: lambda z, deg=False: f.multiply(f.angle(z), 57.29577951308232) if deg else f.angle(z),
    np.iscomplexobj: f.is_complex,
    np.isrealobj: lambda x: not f.is_complex(x),
}
FUNCTIONS = {**LINALG, **FFT, **COMPLEX}
