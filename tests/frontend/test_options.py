"""`options=` of `compile`: what is known, what is checked, what the limits do."""

import pytest

import tracefuse as tr


def double(x):
    return x * 2


def test_an_unknown_option_is_an_error_that_lists_the_others():
    with pytest.raises(ValueError, match="option 'max_trace': it is one of max_traces, max_branches, .*budget_ms"):
        tr.compile(double, options={"max_trace": 3})


@pytest.mark.parametrize("value", ["3", 2.5, None, True])
def test_options_have_types(value):
    with pytest.raises(TypeError, match="option 'max_traces' is a whole number"):
        tr.compile(double, options={"max_traces": value})


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
def test_options_have_ranges(value):
    with pytest.raises(ValueError, match="budget_ms"):
        tr.compile(double, options={"budget_ms": value})


def test_options_are_a_dict():
    with pytest.raises(TypeError, match="a dict is needed"):
        tr.compile(double, options=3)
    assert tr.compile(double, options={}).options == tr.compile(double).options


def test_max_traces():
    f = tr.compile(double, options={"max_traces": 2}, dynamic=False)
    f(tr.rand(2)), f(tr.rand(3))
    with pytest.warns(tr.CaptureWarning, match="it has 2 traces already"):
        f(tr.rand(4))
    assert f.cache_info()["traces"] == 2


NUMBERS = tuple(range(10))


def test_max_branches():
    f = tr.compile(lambda x: x * NUMBERS[int(x.sum())], options={"max_branches": 2})
    f(tr.ones(2)), f(tr.ones(2) * 2)
    with pytest.warns(tr.CaptureWarning):
        f(tr.ones(2) * 3)
    assert f.cache_info()["traces"] == 2


def test_max_answers():
    f = tr.compile(lambda x: x * NUMBERS[int(x.sum())], options={"max_answers": 3})
    for k in range(3):
        f(tr.ones(2) * k)
    with pytest.warns(tr.CaptureWarning, match="has had 3 values already"):
        f(tr.ones(2) * 3)


def test_max_questions():
    def f(x):
        for k in range(4):
            if x[k] > 0:
                x = x + 1
        return x

    g = tr.compile(f, options={"max_questions": 3})
    with pytest.warns(tr.CaptureWarning, match="more than 3 times"):
        g(tr.ones(4))
