"""The garbage collector rests while calls are captured, and is as it was afterwards."""

import gc

from tracefuse.runtime.collector import paused

import tracefuse as tr


def test_it_is_on_again_after_the_last_pause():
    assert gc.isenabled()
    with paused():
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_one_that_is_off_stays_off():
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_rests_while_tracing_and_works_in_plain_python():
    seen = []

    def traced(x):
        seen.append(gc.isenabled())
        return x + 1

    tr.compile(lambda x: tr.exp(x) * 2)(tr.ones(3))
    assert gc.isenabled()
    tr.compile(tr.disable(traced))(tr.ones(3))
    assert seen[-1] is True and gc.isenabled()
