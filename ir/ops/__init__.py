"""Every op, ready to be called: `exp(x)`, `reduce_sum(x, axes=(0,))`. Names that Python has taken end in an underscore.

One module per family: `pointwise` (arithmetic, comparisons, bits), `elementary` (functions of floats), `activation`,
`movement` (creation and rearrangement), `indexing`, `windows`, `reduce`, `contract` (matmul and convolution), `random`,
`complex`, `fourier`, `solving`, `factorization` (which have no kernels: their references run),
`sorting`, `ordering` and `segments` (what sorts and scatters are on GPUs), `scan`, `control` (branches and loops), and `composite` with `normalization` and `attention`: ops that are made of the others.
"""

# ruff: noqa: F401, I001
from .pointwise import (
    add, sub, mul, div, neg, floordiv, mod, pow_, copysign, maximum, minimum, abs_, sign, floor, ceil, trunc,
    round_, eq, ne, lt, le, gt, ge, isnan, isinf, isfinite, and_, or_, xor, not_, shl, shr, where, cast, bitcast,
)  # fmt: skip
from .elementary import (
    sqrt, rsqrt, cbrt, exp, exp2, expm1, log, log2, log10, log1p, logaddexp, sin, cos, tan, asin, acos, atan, atan2,
    sinh, cosh, tanh, asinh, acosh, atanh, erf, erfc, erfinv, lgamma, digamma,
)  # fmt: skip
from .activation import (
    sigmoid, relu, silu, gelu, elu, selu, leaky_relu, softplus, mish, log_sigmoid, hardtanh, hardsigmoid, hardswish,
    softsign, tanhshrink,
)  # fmt: skip
from .movement import full, iota, broadcast_to, reshape, permute, flip, slice_, slice_scatter, pad, concat
from .indexing import gather, scatter, check_index, extent, positions
from .windows import windows, unwindows
from .reduce import reduce_sum, reduce_prod, reduce_max, reduce_min, reduce_any, reduce_all, argmax, argmin
from .contract import matmul, conv
from .random import random_bits
from .neighbour import nextafter
from .complex import complex_, complex_abs, conj, imag, real
from .fourier import fft, irfft, rfft
from .solving import cofactors, det, inv, pinv, slogdet, solve
from .factorization import cholesky, eig, eigh, qr, svd
from .scan import cumprod, cumprod_from, cumsum, cumsum_from
from .control import cond, scan_, while_, while_vjp
from .sorting import argsort, searchsorted
from .ordering import merge_runs, search_rows, sort_rows
from .segments import scatter_unordered, segment_reduce
from .composite import mean, var, logsumexp, softmax, log_softmax, cross_entropy
from .attention import attention, attention_keys, attention_queries
from .normalization import layer_norm, rms_norm, batch_norm, batch_stats
