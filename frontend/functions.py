"""The array-API namespace in one place: what `tracefuse` exports at top level, and what the other modules import.

Element-wise functions are in `elementwise`, reductions in `reductions`, shapes and axes in `manipulation`, products and
norms in `products`, creation in `creation`, sorting and searching in `sorting`. PyTorch's further names: `arithmetic`,
`matrices`, `rearranging`, `scattering`, `statistics`, `windows`.
"""

# ruff: noqa: F401
from __future__ import annotations

from . import (
    arithmetic,
    complex_numbers,
    counting,
    creation,
    elementwise,
    in_place,
    manipulation,
    matrices,
    products,
    rearranging,
    reductions,
    scattering,
    sorting,
    statistics,
)  # fmt: skip
from .arithmetic import *
from .autocast import install as install_autocast
from .complex_numbers import *
from .convert import as_tensor
from .counting import *
from .creation import *
from .dtype_info import can_cast, finfo, iinfo, isdtype, result_type
from .elementwise import *
from .indexing import getitem, setitem
from .manipulation import *
from .matrices import *
from .operators import install_operators
from .products import *
from .rearranging import *
from .reductions import *
from .scattering import *
from .sorting import *
from .special import i0, igamma, igammac, polygamma
from .statistics import *
from .tensor import Tensor, detach
from .tensor_methods import take_over
from .transfer import transfer
from .windows import bartlett_window, blackman_window, hamming_window, hann_window, kaiser_window

__all__ = [
    "bartlett_window", "blackman_window", "can_cast", "finfo", "hamming_window", "hann_window", "i0", "igamma", "igammac",
    "iinfo", "isdtype", "kaiser_window", "polygamma", "result_type",
]  # fmt: skip
__all__ += arithmetic.__all__
__all__ += complex_numbers.__all__
__all__ += counting.__all__
__all__ += creation.__all__
__all__ += elementwise.__all__
__all__ += manipulation.__all__
__all__ += matrices.__all__
__all__ += products.__all__
__all__ += rearranging.__all__
__all__ += reductions.__all__
__all__ += scattering.__all__
__all__ += sorting.__all__
__all__ += statistics.__all__

install_autocast(globals())
install_operators(Tensor, globals())
take_over(Tensor, globals(), in_place.methods(globals()))
