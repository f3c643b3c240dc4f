"""CompiledFunction: what depends on the thread and on other tensors, and what a call changes. Native and in Python."""

import threading
import types
from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import F4, Tensor, function_of, missed, spec_of, vector
from tracefuse.runtime import entry
from tracefuse.runtime.entry_layout import UnknownLayout, cell_word, slot_word
from tracefuse.runtime.trace_spec import ArrayArg, Effect, Load, Result, ScalarArg, State

KINDS = pytest.mark.parametrize("native", [True, False], ids=["native", "python"])


def tensor(data, base=None, version=None):
    t = Tensor(data)
    t._base, t._version, t._grad = base, version, None
    return t


@pytest.fixture(autouse=True)
def tensors():
    entry.configure(Tensor)
    set_mode = entry.mode_setter()
    yield
    set_mode(0)


@KINDS
def test_the_mode_of_the_thread(native):
    f, x, set_mode = function_of(native, spec_of(mode=5)), vector(), entry.mode_setter()
    assert missed(f(x))
    set_mode(5)
    assert not missed(f(x))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(missed(f(x))))
    thread.start()
    thread.join()
    assert seen == [True] and not missed(f(x))
    set_mode(4)
    assert missed(f(x))
    assert not missed(function_of(native, spec_of())(x))


def test_modes_are_numbers():
    with pytest.raises(TypeError):
        entry.mode_setter()("none")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        entry.mode_setter()(1 << 70)


@KINDS
def test_arguments_that_are_one_object(native):
    x, y = vector(), vector()
    apart, together = (function_of(native, spec_of(2, same=((0, 1, same),))) for same in (False, True))
    assert [missed(apart(x, y)), missed(apart(x, x))] == [False, True]
    assert [missed(together(x, y)), missed(together(x, x))] == [True, False]


@KINDS
def test_guards_in_python(native):
    x, answers = vector(), [True, False, 1, None, ZeroDivisionError()]

    def check():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    f = function_of(native, spec_of(checks=(lambda: True, check)))
    assert [missed(f(x)) for _ in range(5)] == [False, True, True, True, True]


@KINDS
def test_a_guard_in_python_that_takes_the_data_away(native):
    x, new = vector(), np.full(16, 5, "f4")

    def check():
        x._data = new
        return True

    f = function_of(native, spec_of(checks=(check,)))
    assert f(x)._data[0] == (6 if native else 1)


def test_words_for_cells_and_slots():
    cell, t = types.CellType(2.5), tensor(np.zeros(16, "f4"))
    words = (cell_word(cell), slot_word(t, Tensor, "_grad"))
    for native in (True, False):
        f, x = function_of(native, spec_of(words=words)), vector()
        assert not missed(f(x))
        t._grad = x
        assert missed(f(x))
        t._grad, cell.cell_contents = None, 3.5
        assert missed(f(x))
        cell.cell_contents = words[0].holder[1]
        assert not missed(f(x))
    with pytest.raises(UnknownLayout):
        cell_word(types.CellType())


@KINDS
def test_views_in_step_with_their_root(native):
    f = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,), fresh=True),)))
    many = 1 << 40
    root = tensor(np.zeros(32, "f4"), version=many)
    middle = tensor(root._data[:16], root, None)
    view = tensor(middle._data[:], middle, root._version)
    assert not missed(f(view)) and missed(f(middle)) and not missed(f(tensor(np.zeros(16, "f4"))))
    root._version = many + 1
    assert missed(f(view))


@KINDS
def test_versions_of_what_is_written(native):
    states = [tensor(np.zeros(16, "f4"), version=v) for v in (None, None, 7, 7, 1 << 40)]
    spec = spec_of(
        args=(ArrayArg(0, F4, (16,), writeable=True),), states=tuple(State(t, t._data, 2 + k) for k, t in enumerate(states)),
        values=7, written=(0, 2, 3, 4, 5),
    )  # fmt: skip
    f, x = function_of(native, spec), tensor(np.zeros(16, "f4"))
    for _ in range(300):
        f(x)
    assert [t._version for t in (x, *states)] == [300, 300, 300, 307, 307, 1 << 40]
    with pytest.raises(ValueError, match="version"):
        function_of(native, replace(spec, written=(1,)))


@KINDS
def test_arrays_by_themselves(native):
    array = np.zeros(16, "f4")
    spec = spec_of(
        symbol="axpy", args=(ArrayArg(0, F4, (16,)), ScalarArg(2)), values=3, outputs=(),
        states=(State(None, array, 1),), results=(Result("object", object=array),),
    )  # fmt: skip
    f = function_of(native, spec)
    assert f(vector(), 2.0) is array and array[3] == 6
    array.shape = (4, 4)
    assert missed(f(vector(), 2.0))
    array.shape = (16,)
    assert not missed(f(vector(), 2.0))


@KINDS
def test_gradients_that_hang_on_a_tensor(native):
    owner = tensor(np.zeros(16, "f4"))
    owner._grad = vector()
    spec = spec_of(
        2, args=(ArrayArg(0, F4, (16,)),), loads=(Load(owner, "_grad", ArrayArg(1, F4, (16,))),),
        effects=(Effect(owner, "_grad", 1),), structure="tuple", returned=1,
        results=(Result("argument", 0), Result("tensor")),
    )  # fmt: skip
    f, x = function_of(native, spec), vector()
    assert f(x) == (x,) and owner._grad._data[2] == 5
    assert f(x) == (x,) and owner._grad._data[2] == 8
    owner._grad = None
    assert missed(f(x))
    owner._grad = Tensor(np.zeros(17, "f4"))
    assert missed(f(x))
    owner._grad = vector()
    clearing = replace(spec, effects=(Effect(owner, "_grad", None),), structure="single", returned=1)
    assert function_of(native, clearing)(x) is x and owner._grad is None
    owner._grad = vector()
    seen = function_of(native, replace(spec, structure=lambda results: results))(x)
    assert seen[0] is x and seen[1] is owner._grad


@KINDS
def test_what_is_loaded_and_only_looked_at(native):
    owner = tensor(np.zeros(16, "f4"))
    owner._grad = vector()
    f = function_of(native, spec_of(loads=(Load(owner, "_grad", ArrayArg(-1, F4, (16,))),)))
    assert not missed(f(vector()))
    owner._grad = vector()._data
    assert missed(f(vector()))


@KINDS
@pytest.mark.parametrize(
    "wrong, error",
    [
        (dict(effects=(Effect(None, "_grad", 3),)), ValueError),
        (dict(returned=0), ValueError),
        (dict(same=((0, 1, True),)), ValueError),
        (dict(states=(State(None, np.zeros((4, 4), "f4").T, 2),), values=3), ValueError),
    ],
)
def test_what_is_refused(native, wrong, error):
    with pytest.raises(error):
        function_of(native, spec_of(**wrong))


def test_a_type_with_methods_of_its_own():
    class Base:
        __slots__ = ()

        def twice(self, x):
            return self(x), self(x)

    cls = entry.function_type_on(Base)
    f = entry.new_function(lambda *args: args, cls)
    assert isinstance(f, Base) and f.twice(1) == ((1,), (1,))
    entry.add_trace(f, spec_of())
    assert not missed(f(vector())) and entry.traces(f)[0].hits == 1
