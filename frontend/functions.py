"""The array-API namespace in one place: what `tracefuse` exports at top level, and what the other modules import.

Element-wise functions are in `elementwise`, reductions in `reductions`, shapes and axes in `manipulation`, products and
norms in `linalg`, creation in `creation`, sorting and searching in `sorting`.
"""

# ruff: noqa: F401
from __future__ import annotations

from . import creation, elementwise, in_place, linalg, manipulation, reductions, sorting
from .convert import as_tensor
from .creation import *
from .dtype_info import can_cast, finfo, iinfo, isdtype, result_type
from .elementwise import *
from .indexing import getitem, setitem
from .linalg import *
from .manipulation import *
from .operators import install_operators
from .reductions import *
from .sorting import *
from .tensor import Tensor, detach
from .tensor_methods import take_over

__all__ = ["can_cast", "finfo", "iinfo", "isdtype", "result_type"]
__all__ += creation.__all__
__all__ += elementwise.__all__
__all__ += linalg.__all__
__all__ += manipulation.__all__
__all__ += reductions.__all__
__all__ += sorting.__all__

install_operators(Tensor, globals())
take_over(Tensor, globals(), {name: getattr(in_place, name) for name in in_place.__all__})
