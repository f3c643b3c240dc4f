"""The names of the array API standard, 2025.12: functions, methods, extensions. The official suite, which tests what
they do, is run by `tests/array_api/run.py`."""

import importlib.util
from pathlib import Path

import pytest

import tracefuse as tr

FUNCTIONS = """
    abs acos acosh add all any arange argmax argmin argsort asarray asin asinh astype atan atan2 atanh bitwise_and
    bitwise_invert bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor broadcast_arrays broadcast_shapes
    broadcast_to can_cast ceil clip concat conj copysign cos cosh count_nonzero cumulative_prod cumulative_sum diff
    divide empty empty_like equal exp expand_dims expm1 eye finfo flip floor floor_divide from_dlpack full full_like
    greater greater_equal hypot iinfo imag isdtype isfinite isin isinf isnan less less_equal linspace log log10 log1p
    log2 logaddexp logical_and logical_not logical_or logical_xor matmul matrix_transpose max maximum mean meshgrid min
    minimum moveaxis multiply negative nextafter nonzero not_equal ones ones_like permute_dims positive pow prod real
    reciprocal remainder repeat reshape result_type roll round searchsorted sign signbit sin sinh sort sqrt square
    squeeze stack std subtract sum take take_along_axis tan tanh tensordot tile tril triu trunc unique_all
    unique_counts unique_inverse unique_values unstack var vecdot where zeros zeros_like __array_namespace_info__
"""
LINALG = """
    cholesky cross det diagonal eig eigh eigvals eigvalsh inv matmul matrix_norm matrix_power matrix_rank
    matrix_transpose outer pinv qr slogdet solve svd svdvals tensordot trace vecdot vector_norm
"""
FFT = "fft ifft fftn ifftn rfft irfft rfftn irfftn hfft ihfft fftfreq rfftfreq fftshift ifftshift"
TYPES = "bool complex64 complex128 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
METHODS = """
    __abs__ __add__ __and__ __array_namespace__ __bool__ __complex__ __dlpack__ __dlpack_device__ __eq__ __float__
    __floordiv__ __ge__ __getitem__ __gt__ __index__ __int__ __invert__ __le__ __lshift__ __lt__ __matmul__ __mod__
    __mul__ __ne__ __neg__ __or__ __pos__ __pow__ __rshift__ __setitem__ __sub__ __truediv__ __xor__ to_device dtype
    device mT ndim shape size T
"""


@pytest.mark.parametrize("where", ["functions", "linalg", "fft", "types", "constants"])
def test_the_namespace_has_every_name(where):
    names, space = {
        "functions": (FUNCTIONS, tr),
        "linalg": (LINALG, tr.linalg),
        "fft": (FFT, tr.fft),
        "types": (TYPES, tr),
        "constants": ("e inf nan newaxis pi linalg fft", tr),
    }[where]
    assert [n for n in names.split() if not hasattr(space, n)] == []


def test_tensors_have_every_method():
    names = METHODS.split()
    reflected = [f"__{kind}{n[2:]}" for n in names for kind in "ri" if n in ("__add__", "__pow__", "__matmul__")]
    assert [n for n in (*names, *reflected) if not hasattr(tr.ones((2, 2)), n)] == []


def test_the_list_of_exceptions_is_short_and_has_reasons():
    lines = (Path(__file__).parents[1] / "array_api" / "xfails.txt").read_text().splitlines()
    expected = [line for line in lines if line.startswith("array_api_tests/")]
    assert len(expected) <= 20 and sum(line.startswith("#") for line in lines) > 5


def test_the_compiled_namespace_wraps_what_computes():
    path = Path(__file__).parents[1] / "array_api" / "compiled_namespace.py"
    spec = importlib.util.spec_from_file_location("compiled_namespace", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.xp.add is not tr.add and module.xp.asarray is tr.asarray and module.xp.linalg.inv is not tr.linalg.inv
    assert module.xp.add(tr.ones(2), 1).tolist() == [2, 2]


def test_the_sign_of_negative_zero_is_zero_compiled_too():
    x = tr.asarray([-0.0, 0.0, -3.0, float("nan")])
    for f in (tr.sign, tr.compile(lambda x: tr.sign(x), fullgraph=True)):
        out = f(x)
        assert tr.signbit(out).tolist()[:3] == [False, False, True] and tr.isnan(out).tolist()[3]


def test_searchsorted_takes_numbers_of_the_type_of_the_tensor():
    assert tr.searchsorted(tr.asarray([0, 5], dtype=tr.uint64), 3).item() == 1
    assert tr.searchsorted(tr.asarray([0, 5], dtype=tr.uint64), 2**63).item() == 2
