"""Calls of compiled functions that never reach Python: which ones, and what sends a call back to the slow path."""

import gc
import os
import pickle
import sys
import threading
import time
import types
import weakref
from collections import namedtuple

import numpy as np
import pytest
from tracefuse.frontend.compile import CaptureWarning, compile, compiled_function
from tracefuse.frontend.epoch import epoch
from tracefuse.frontend.nn import functional as F
from tracefuse.runtime import entry

import tracefuse as tr
from tracefuse import nn, optim

SCALE = 2.0
TABLE = [1.0, 2.0]
PAIR = (1.0, 2.0)
Pair = namedtuple("Pair", "a b")
WEIGHT = tr.tensor(np.arange(4.0, dtype=np.float32))
ARRAY = np.arange(4.0, dtype=np.float32)


def strict(f, **options):
    return compile(f, fullgraph=True, **options)


def vector(*values):
    return tr.tensor(np.array(values or (1.0, 2.0, 3.0, 4.0), np.float32))


def target(fn):
    """What holds the native traces."""
    return compiled_function(fn)._target[0]


def hits(fn):
    return sum(t.hits for t in entry.traces(target(fn)))


def natively(fn, *args, **options):
    """Calls without a way out to Python."""
    function = target(fn)
    miss, before = function._miss, hits(fn)

    def forbidden(*args, **kwargs):
        raise AssertionError("the call was not served natively")

    function._miss = forbidden
    try:
        out = fn(*args, **options)
    finally:
        function._miss = miss
    assert hits(fn) == before + 1
    return out


def slowly(fn, *args, **kwargs):
    """Calls, and makes sure that no native trace has served it."""
    before = {id(t): t.hits for t in entry.traces(target(fn))}
    out = fn(*args, **kwargs)
    assert all(t.hits == before.get(id(t), 0) for t in entry.traces(target(fn)))
    return out


def equal(a, b):
    a, b = (np.asarray(t.detach()) if isinstance(t, tr.Tensor) else np.asarray(t) for t in (a, b))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ arguments and results


def test_a_chain_is_served_natively():
    def f(a, b, c):
        return tr.tanh(a * b + c) * a - b

    fn, x = strict(f), [vector(), vector(), vector()]
    fn(*x)
    out = natively(fn, *x)
    equal(out, f(*x))
    assert type(out) is tr.Tensor and out._node is None and out._version is None
    assert fn.cache_info()["hits"] == 1 and fn.traces[0].calls == 2


def test_arguments_by_name():
    def f(x, *, scale=1.0, shift=None, flag=True):
        y = x * scale if flag else x
        return y if shift is None else y + shift

    fn, x, s = strict(f), vector(), vector()
    for _ in range(2):
        fn(x, scale=2.0)
        fn(x, scale=2.0, shift=s)
        fn(x, shift=s, scale=2.0)
        fn(x=x, flag=False)
    equal(natively(fn, x, scale=3.0), f(x, scale=3.0))
    equal(natively(fn, x, scale=3.0, shift=s), f(x, scale=3.0, shift=s))
    equal(natively(fn, x, shift=s, scale=0.5), f(x, shift=s, scale=0.5))
    equal(natively(fn, x=x, flag=False), x)
    equal(slowly(fn, x, flag=False, scale=2.0), x)
    equal(slowly(fn, x, **{"".join(("sca", "le")): 4.0}), f(x, scale=4.0))  # equal, but another string
    with pytest.raises(TypeError, match="unexpected keyword argument 'scales'"):
        fn(x, scales=1.0)
    with pytest.raises(TypeError, match="multiple values"):
        fn(x, x=x)


def test_arguments_of_a_module_by_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, scale=1.0, *, twice=False):
            y = self.linear(x) * scale
            return y * 2 if twice else y

    module = Scaled()
    with tr.no_grad():
        fn, x = tr.compile(module, fullgraph=True), vector()
        for _ in range(2):
            fn(x, scale=2.0, twice=True)
        equal(natively(fn, x, scale=2.5, twice=True), module(x, scale=2.5, twice=True))


def test_arguments_of_another_kind_go_the_slow_way():
    def f(x):
        return x * 2 + 1

    fn = strict(f)
    fn(vector())
    natively(fn, vector())
    wide = tr.tensor(np.arange(8.0, dtype=np.float32))
    natively(fn, nn.Parameter(vector()).detach())
    for other in (wide[::2], tr.tensor(np.arange(4.0)), wide, ARRAY):
        equal(slowly(fn, other), f(other))
    equal(slowly(fn, x=vector()), f(vector()))
    natively(fn, x=vector())
    parameter = nn.Parameter(vector())
    equal(slowly(fn, parameter), f(parameter))
    natively(fn, wide)
    natively(fn, ARRAY)


def test_gradients_are_recorded_as_ever():
    fn = strict(lambda x: (x * x).sum())
    x = vector()
    fn(x)
    assert not natively(fn, x).requires_grad
    x.requires_grad_()
    for _ in range(2):
        x.grad = None
        slowly(fn, x).backward()
        equal(x.grad, 2 * x.detach())
    y = vector() * 2
    natively(fn, y)
    slowly(fn, x * 1).backward()


def test_a_view_into_which_a_history_was_written():
    fn = strict(lambda x: x * 2)
    base = tr.zeros(4)
    view = base[:]
    fn(view)
    natively(fn, view)
    natively(fn, base)
    with tr.no_grad():
        base.fill_(3.0)
    equal(slowly(fn, view), tr.full(4, 6.0))
    natively(fn, view)
    base.copy_(vector().requires_grad_() * 2)
    assert slowly(fn, view).requires_grad


def test_one_object_given_twice():
    def f(x, y):
        return x + 1 if x is y else x + y

    fn, x, y = strict(f), vector(), vector()
    equal(fn(x, y), f(x, y))
    equal(slowly(fn, x, x), f(x, x))
    equal(natively(fn, x, y), f(x, y))
    equal(natively(fn, y, y), f(y, y))


def test_numbers_and_other_arguments():
    def f(x, a, n, word, flag, nothing, kind):
        assert nothing is None
        y = x * a + n
        return y.sum() if word == "sum" and flag else y.astype(kind)

    fn, x = strict(f), vector()
    for args in ((0.5, 2, "sum", True), (0.25, 2, "sum", True), (0.5, 3, "sum", True), (0.5, 2, "no", False)):
        args = (x, *args, None, tr.float64)
        want = f(*args)
        fn(*args)
        equal(natively(fn, *args), want)
    assert len(fn.traces) == 3
    slowly(fn, x, 1, 2, "sum", True, None, tr.float64)
    slowly(fn, x, 0.5, True, "sum", True, None, tr.float64)


def test_what_comes_back():
    def f(x, y, n):
        z = x * 2
        return {"all": [z, z, (x, y, WEIGHT)], "pair": Pair(z.reshape(2, 2), None), "n": n, "same": z}

    fn, x, y = strict(f), vector(), vector()
    fn(x, y, 3)
    out = natively(fn, x, y, 3)
    assert out["all"][0] is out["all"][1] is out["same"]
    assert out["all"][2][0] is x and out["all"][2][1] is y and out["all"][2][2] is WEIGHT
    assert out["n"] == 3 and type(out["pair"]) is Pair and out["pair"].b is None
    assert out["pair"].a._base is out["same"]
    equal(out["same"], x * 2)


@pytest.mark.parametrize(
    "f, kind",
    [
        (lambda x: (x, x + 1), tuple),
        (lambda x: [x + 1, x], list),
        (lambda x: (), tuple),
        (lambda x: None, type(None)),
        (lambda x: x, tr.Tensor),
        (lambda x: x.T, tr.Tensor),
        (lambda x: 7, int),
    ],
)
def test_kinds_of_results(f, kind):
    fn, x = strict(f), vector()
    fn(x)
    assert type(natively(fn, x)) is kind


def test_numpy_functions():
    def f(x):
        return np.sin(x) * ARRAY, np.sum(x)

    fn = strict(f)
    fn(ARRAY)
    got, total = natively(fn, ARRAY)
    assert type(got) is np.ndarray and isinstance(total, np.floating)
    equal(got, f(ARRAY)[0])
    locked = ARRAY.copy()
    locked.flags.writeable = False
    equal(slowly(fn, locked)[0], f(ARRAY)[0])


def test_a_bad_index_is_an_error_as_in_plain_python():
    fn, x = strict(lambda x, i: x[i]), vector()
    fn(x, tr.tensor([1]))
    natively(fn, x, tr.tensor([2]))
    with pytest.raises(IndexError):
        fn(x, tr.tensor([9]))
    assert natively(fn, x, tr.tensor([3])).item() == 4.0


# ------------------------------------------------------------------ guards


def test_globals(monkeypatch):
    def f(x):
        return x * SCALE + PAIR[0] + TABLE[1]

    fn, x = strict(f), vector()
    fn(x)
    equal(natively(fn, x), f(x))
    for name, value in (("SCALE", 5.0), ("PAIR", (7.0, 2.0)), ("TABLE", [0.0, 9.0])):
        monkeypatch.setitem(globals(), name, value)
        equal(slowly(fn, x), f(x))
        equal(natively(fn, x), f(x))
    TABLE[1] = 4.0
    equal(slowly(fn, x), f(x))
    misses = fn.cache_info()["misses"]
    monkeypatch.setitem(globals(), "SCALE", float("5.0"))  # equal, another object
    equal(slowly(fn, x), f(x))
    for _ in range(5):
        equal(fn(x), f(x))
    equal(natively(fn, x), f(x))
    assert fn.cache_info()["misses"] == misses


def test_closures():
    factor, late = 2.0, None
    fn, x = strict(lambda x: x * factor if late is None else x), vector()
    fn(x)
    equal(natively(fn, x), x * 2)
    factor = 3.0
    equal(slowly(fn, x), x * 3)
    late = 1
    equal(slowly(fn, x), x)
    equal(natively(fn, x), x)


def test_attributes_of_objects_and_classes():
    class Box:
        limit = 3.0

        def __init__(self):
            self.n = 2.0

        def run(self, x):
            return x * self.n + self.limit

    box, x = Box(), vector()
    fn = strict(box.run)
    fn(x)
    equal(natively(fn, x), box.run(x))
    for change in (
        lambda: setattr(box, "n", 4.0),
        lambda: setattr(Box, "limit", 9.0),
        lambda: setattr(box, "limit", 1.0),
    ):
        change()
        equal(slowly(fn, x), box.run(x))
        equal(natively(fn, x), box.run(x))


def test_compiled_methods_bind():
    class Model:
        def __init__(self, k):
            self.k = k

        @compile
        def run(self, x):
            return x * self.k

    one, two, x = Model(2.0), Model(3.0), vector()
    for _ in range(3):
        equal(one.run(x), x * 2)
        equal(two.run(x), x * 3)
    assert type(one.run) is types.MethodType and hits(Model.run) == 4


def test_tensors_that_are_reached_by_name():
    weight = vector()
    fn, x = strict(lambda x: x * weight), vector()
    fn(x)
    natively(fn, x)
    weight.fill_(2.0)
    equal(natively(fn, x), x * 2)
    weight._data = weight._data.copy()  # as Module.to does: the Python guards take it, and native code follows
    equal(slowly(fn, x), x * 2)
    equal(natively(fn, x), x * 2)
    weight.requires_grad_()
    assert slowly(fn, x).requires_grad
    assert len(fn.traces) == 2


def test_modes_belong_to_threads():
    fn, x = strict(lambda x: x * 2 + tr.ones(4)), vector()
    fn(x)
    with tr.no_grad():
        slowly(fn, x)
        natively(fn, x)
        with tr.enable_grad():
            natively(fn, x)
    natively(fn, x)
    before = tr.get_default_dtype()
    try:
        tr.set_default_dtype(tr.float64)
        assert slowly(fn, x).dtype is tr.float64
        assert natively(fn, x).dtype is tr.float64
    finally:
        tr.set_default_dtype(before)
    assert natively(fn, x).dtype is tr.float32
    seen = []

    def work():
        seen.append(slowly(fn, x).dtype)  # native code learns the modes of a thread from its first call
        seen.append(natively(fn, x).dtype)

    with tr.no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [tr.float32, tr.float32]


def test_calls_inside_of_a_trace_become_part_of_it():
    inner = strict(lambda x: x * 2)
    x = vector()
    inner(x)
    outer = strict(lambda x: inner(x) + 1)
    before = hits(inner)
    equal(outer(x), x * 2 + 1)
    assert hits(inner) == before


def test_an_epoch_that_moves_for_nothing():
    net, x = nn.Linear(4, 4), tr.ones((1, 4))
    fn = strict(lambda x: net(x).detach())
    with tr.no_grad():
        fn(x)
        natively(fn, x)
        trace = entry.traces(fn)[0]
        epoch.bump()
        slowly(fn, x)
        natively(fn, x)
        assert fn.cache_info()["misses"] == 1
        assert entry.traces(fn) == (trace,) or not entry.is_native()
        net.weight = nn.Parameter(tr.zeros((4, 4)))
        equal(slowly(fn, x), net(x))
        assert fn.cache_info()["misses"] == 2


def test_check_compares_first():
    fn, x = strict(lambda x: x * 2, check=2), vector()
    for _ in range(3):
        slowly(fn, x)
    natively(fn, x)


# ------------------------------------------------------------------ writes


def test_writes_into_arguments():
    def f(x, y):
        x += y
        return x

    fn, x, y = compile(f), vector(), vector()
    fn(x, y)
    assert natively(fn, x, y) is x
    equal(x, 3 * y)
    assert x._version == 2
    both = tr.zeros(8)
    view = both[:4]
    slowly(fn, view, y)
    assert both._version == 1 and view[3].item() == 4.0
    memory = np.arange(8.0, dtype=np.float32)
    low, high = tr.asarray(memory[:4]), tr.asarray(memory[2:6])
    want = memory[:4] + memory[2:6]
    with pytest.warns(CaptureWarning, match="shares memory"):
        slowly(fn, low, high)
    equal(low, want)
    natively(fn, low, tr.asarray(memory[4:]))


def test_a_write_is_seen_by_backward():
    weight = vector()

    def f(x):
        with tr.no_grad():
            weight.mul_(2.0)
        return x + 1

    fn, x = strict(f), vector()
    fn(x)
    p = vector().requires_grad_()
    loss = (p * weight).sum()
    natively(fn, x)
    with pytest.raises(RuntimeError, match="in place"):
        loss.backward()
    assert weight._version == 2


def network(seed=0):
    tr.manual_seed(seed)
    layers = [
        nn.Linear(6, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    ]
    return nn.Sequential(*layers)


def trainer(net, opt, order):
    def step(x, y):
        if order == "zero first":
            opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        if order == "zero last":
            opt.zero_grad()
        return loss

    return step


@pytest.mark.parametrize("order", ["zero first", "zero last", "never"])
@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.05, momentum=0.9), lambda p: optim.AdamW(p, lr=0.01)])
def test_training_steps(order, make):
    rng = np.random.default_rng(0)
    x = tr.tensor(rng.standard_normal((64, 6)).astype(np.float32))
    y = tr.tensor(rng.integers(0, 3, 64))
    nets = network(), network()
    steps = [trainer(net, make(net.parameters()), order) for net in nets]
    compiled = strict(steps[1])
    for k in range(24):
        batch = x[2 * k : 2 * k + 16], y[2 * k : 2 * k + 16]
        tr.manual_seed(k)
        want = steps[0](*batch)
        tr.manual_seed(k)
        got = compiled(*batch) if k < 2 else natively(compiled, *batch)
        equal(got, want)
    for (name, p), q in zip(nets[0].named_parameters(), nets[1].parameters()):
        np.testing.assert_allclose(q.detach().numpy(), p.detach().numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
        assert p._version == q._version and (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), rtol=1e-2, atol=1e-4)
    for p, q in zip(nets[0].buffers(), nets[1].buffers()):
        np.testing.assert_allclose(q.numpy(), p.numpy(), rtol=1e-4, atol=1e-5)


def test_a_changing_learning_rate_stays_native():
    net = nn.Linear(6, 3)
    opt = optim.SGD(net.parameters(), lr=0.1)
    step = strict(trainer(net, opt, "zero last"))
    x, y = tr.ones((4, 6)), tr.tensor([0, 1, 2, 0])
    step(x, y)
    for lr in (0.2, 0.3):
        opt.param_groups[0]["lr"] = lr
        natively(step, x, y)


def test_gradients_and_hooks_that_turn_up():
    net = nn.Linear(6, 3)
    opt = optim.SGD(net.parameters(), lr=0.5)
    step = strict(trainer(net, opt, "zero last"))
    x, y = tr.ones((4, 6)), tr.tensor([0, 1, 2, 0])
    step(x, y)
    natively(step, x, y)
    net.weight.grad = tr.ones((3, 6))
    slowly(step, x, y)
    assert net.weight.grad is None
    natively(step, x, y)
    handle = net.weight.register_hook(lambda g: g * 0.0)
    before = net.weight.detach().numpy().copy()
    slowly(step, x, y)
    natively(step, x, y)
    equal(net.weight, before)
    handle.remove()
    slowly(step, x, y)
    natively(step, x, y)
    assert not np.allclose(net.weight.detach().numpy(), before)


# ------------------------------------------------------------------ modules


def test_calls_of_modules():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    compiled, x = strict(net), tr.ones((2, 4))
    compiled.eval()
    with tr.no_grad():
        compiled(x)
        equal(natively(compiled, x), net(x))
        compiled.train()
        slowly(compiled, x)
        compiled.eval()
        slowly(compiled, x)
        equal(natively(compiled, x), net(x))
        assert compiled_function(compiled).cache_info()["traces"] == 2
    assert slowly(compiled, x).requires_grad


# ------------------------------------------------------------------ life


def test_unload_frees_the_code():
    fn, x = strict(lambda x: x * 2), vector()
    fn(x)
    natively(fn, x)
    gone = weakref.ref(fn.traces[0].executable.executable)
    fn.unload()
    gc.collect()
    assert gone() is None and hits(fn) == 0
    equal(fn(x), x * 2)
    natively(fn, x)


def test_a_compiled_function_is_collected():
    fn = strict(lambda x: x * 2)
    fn(vector())
    gone = weakref.ref(fn)
    del fn
    gc.collect()
    assert gone() is None


def test_results_do_not_keep_arguments():
    fn, x = strict(lambda x: x * 2), vector()
    fn(x)
    natively(fn, x)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None


def test_pickling_is_refused():
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(strict(lambda x: x))


def test_unloading_while_others_call():
    fn, errors, stop = compile(lambda x: x * 2 + 1), [], threading.Event()

    def call(k):
        x = vector(*([float(k)] * 4))
        try:
            while not stop.is_set():
                assert (fn(x)._data == 2 * k + 1).all()
        except BaseException as e:
            errors.append(e)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    try:
        for t in threads:
            t.start()
        end = time.monotonic() + 2
        while time.monotonic() < end and not errors:
            time.sleep(0.01)
            fn.unload()
    finally:
        stop.set()
        for t in threads:
            t.join()
        sys.setswitchinterval(before)
    assert not errors, errors[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_goes_on():
    fn, x = strict(lambda x: x * 2), vector()
    fn(x)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ok = natively(fn, x).numpy()[1] == 4
            fn.unload()
            code = 0 if ok and fn(x).numpy()[1] == 4 and natively(fn, x).numpy()[1] == 4 else 1
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grown(calls):
    """Bytes by which the process grows in so many calls of a function and of a training step."""
    net = nn.Linear(6, 3)
    step = strict(trainer(net, optim.Adam(net.parameters()), "zero first"))
    fn = strict(lambda a, b: ({"x": a * b}, a.T))
    a, x, y = vector(), tr.ones((4, 6)), tr.tensor([0, 1, 2, 0])
    for _ in range(2000):
        fn(a, a), step(x, y)
    before = resident()
    for _ in range(calls):
        fn(a, a), step(x, y)
    return resident() - before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_calls_hold_no_more_memory():
    assert grown(100_000) < 1 << 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_calls_hold_no_more_memory():
    assert grown(1_000_000) < 1 << 20


def test_floats_stay_inputs_on_their_way_into_modules():
    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Scaled()

        def forward(self, x, scale=1.0):
            return self.inner(x, scale=scale * 2) + self.inner(x, x.sum().item())

    module, x = Outer(), vector()
    fn = tr.compile(module, fullgraph=True)
    for scale in (0.5, 1.5, 2.5, 3.5):
        equal(fn(x, scale), module(x, scale))
    assert len(compiled_function(fn).traces) == 1
