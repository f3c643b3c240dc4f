"""Programs that change Python objects, print, raise and use much of the language: whole in one graph, as plain Python.

Each program is a function that makes a fresh (function, state); it is run for several calls as plain Python, and for the
same calls compiled. Results, state, printed output and exceptions must be equal, nothing may run as plain Python, and
there may be only so many traces.
"""

import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import linecache
import logging
import pickle
import threading
import types
import warnings

import numpy as np
import pytest

import tracefuse as tr
from tracefuse import nn

PROGRAMS = []
COUNTER, LAST, TABLE = 0, None, {}


def program(traces=1, n=5, fails=False, arguments=None):
    def register(make):
        PROGRAMS.append(pytest.param(make, traces, n, fails, arguments, id=make.__name__))
        return make

    return register


def vector(i, n=3):
    return tr.tensor(np.arange(n, dtype=np.float32) * 0.5 + i + 1)


def described(x, depth=0):
    """A value as something that `==` compares."""
    assert depth < 20
    inner = functools.partial(described, depth=depth + 1)
    if isinstance(x, tr.Tensor):
        a = np.asarray(x.detach())
        return "tensor", str(a.dtype), a.shape, np.round(a.astype(np.float64), 4).tolist()
    if isinstance(x, (np.ndarray, np.generic)):
        return type(x).__name__, str(x.dtype), x.shape, np.round(np.asarray(x, np.float64), 4).tolist()
    if isinstance(x, dict):
        return type(x).__name__, [(inner(k), inner(v)) for k, v in x.items()]
    if isinstance(x, (list, tuple, collections.deque)):
        return type(x).__name__, [inner(v) for v in x]
    if isinstance(x, (set, frozenset)):
        return type(x).__name__, sorted(map(repr, x))
    if isinstance(x, nn.Module):
        own = {k: v for k, v in vars(x).items() if not k.startswith("_")}
        return type(x).__name__, inner(own), inner(dict(x.state_dict()))
    if callable(x) or isinstance(x, type):
        return "callable"
    if hasattr(x, "__dict__") and not isinstance(x, enum.Enum):
        return type(x).__name__, inner(vars(x))
    if hasattr(type(x), "__slots__"):
        return type(x).__name__, [inner(getattr(x, s, None)) for s in type(x).__slots__]
    return type(x).__name__, repr(x)


def play(f, state, n, arguments):
    out = []
    for i in range(n):
        args = arguments(i) if arguments else (vector(i),)
        try:
            result = f(*args)
        except tr.CaptureError:
            raise
        except Exception as e:
            result = ("raised", type(e).__name__, str(e))
        else:
            result = described(result)
        out.append((result, described(list(args)), described(state)))
    return out


@pytest.mark.parametrize("make, traces, n, fails, arguments", PROGRAMS)
def test_compiled_programs_equal_plain_python(make, traces, n, fails, arguments, capsys):
    f, state = make()
    want = play(f, state, n, arguments)
    printed = capsys.readouterr()
    f, state = make()
    compiled = tr.compile(f, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", tr.CaptureWarning)
        got = play(compiled, state, n, arguments)
    assert capsys.readouterr() == printed
    for g, w in zip(got, want, strict=True):
        assert g == w
    info = compiled.cache_info()
    assert fails or not info["fallbacks"] and not info["eager"]
    assert info["traces"] <= traces


# ------------------------------------------------------------------ attributes


class Box:
    def __init__(self, **members):
        self.__dict__.update(members)


@program()
def counts_its_calls():
    box = Box(n=0)

    def f(x):
        box.n += 1
        return x * 2

    return f, box


@program(n=30)
def a_counter_that_flows_into_the_computation():
    box = Box(n=0, total=0.5)

    def f(x):
        box.n += 1
        box.total = box.total * 0.9 + 2
        return x * box.n + box.total

    return f, box


@program(traces=2, n=12)
def a_counter_that_steers_by_a_comparison():
    box = Box(n=0)

    def f(x):
        box.n += 1
        if box.n % 4 == 0:
            return x * 0
        return x

    return f, box


@program(traces=2)
def keeps_the_last_result():
    box = Box(last=None)

    def f(x):
        y = x * 3
        if box.last is not None:
            y = y + box.last
        box.last = y
        return y

    return f, box


@program(traces=2)
def carries_a_hidden_state_in_a_tuple():
    box = Box(state=None)

    def f(x):
        h, c = box.state if box.state is not None else (x * 0, x * 0)
        c = c * 0.5 + x
        h = tr.tanh(c) + h
        box.state = (h, c)
        return h

    return f, box


@program()
def reads_back_what_it_has_set():
    box = Box(a=1)

    def f(x):
        box.y = x + 1
        box.y = box.y * 2
        box.z = [box.y, {"k": x}]
        return box.y + box.z[1]["k"]

    return f, box


@program()
def deletes_attributes():
    box = Box()

    def f(x):
        box.tmp = x * 2
        y = box.tmp + 1
        del box.tmp
        box.kept = 3
        return y if not hasattr(box, "tmp") else x

    return f, box


@program(traces=2)
def a_class_attribute_as_default():
    class Counted:
        n = 0

    box = Counted()

    def f(x):
        box.n += 1
        return x + box.n

    return f, box


@program()
def counts_on_the_class():
    class Counted:
        n = 0

        def run(self, x):
            type(self).n += 1
            return x + self.n

    box = Counted()
    return lambda x: box.run(x), box


@program(traces=2)
def a_module_with_a_cache():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(tr.ones(3))
            self.register_buffer("running", tr.zeros(3))
            self.calls = 0
            self.cache = None

        def forward(self, x):
            self.calls += 1
            y = x * self.scale
            self.cache = y.detach()
            self.running = self.running * 0.5 + y.detach()
            return y.sum()

    net = Net()
    return lambda x: net(x), net


@program()
def slots():
    class Slotted:
        __slots__ = ("a", "b")

    s = Slotted()
    s.a = 1

    def f(x):
        s.b = x * 2
        s.a += 1
        return s.b + s.a

    return f, s


@program()
def property_setters_and_setattr():
    class Checked:
        def __init__(self):
            self.__dict__["log"] = []
            self._v = 0

        @property
        def v(self):
            return self._v

        @v.setter
        def v(self, value):
            self._v = value

        def __setattr__(self, name, value):
            self.log.append(name)
            super().__setattr__(name, value)

    c = Checked()

    def f(x):
        c.v = x * 2
        return c.v + 1

    return f, c


@program()
def an_object_that_has_every_attribute():
    class Anything:
        def __init__(self):
            self.n, self.asked = 0, []

        def __getattr__(self, name):
            self.asked.append(name)
            return len(name)

        def __call__(self, x):
            self.n += 1
            return x * self.n

    box = Anything()
    return lambda x: box(x) + box.width, box


# ------------------------------------------------------------------ containers


@program(n=30)
def a_history_that_grows():
    box = Box(history=[])

    def f(x):
        loss = (x * x).sum()
        box.history.append(loss)
        return loss

    return f, box


@program(traces=2, n=12)
def reads_the_last_entry():
    log = []

    def f(x):
        y = x + log[-1] if log else x
        log.append(y)
        return y

    return f, log


@program(traces=2, n=3)
def every_list_method():
    log = [3, 1, 2]

    def f(x):
        items = log
        log[:] = [3, 1, 2]
        log.append(5)
        items += [4, 4]
        log.extend(v * 2 for v in (1, 2))
        log.insert(0, 9)
        log.insert(2, 8)
        a = log.pop()
        b = log.pop(1)
        log.remove(4)
        log.sort(key=lambda v: -v)
        log.reverse()
        del log[1]
        log[1:2] = [7, 7]
        found = log.index(7) + log.count(7)
        log[0] = x.sum()
        return x * a * b + len(log) + found

    return f, log


@program(traces=2, n=20)
def dicts_that_count():
    stats = {"steps": 0, "loss": 0.0, "name": "run"}

    def f(x):
        stats["steps"] += 1
        stats["loss"] = x.sum()
        stats.setdefault("first", 1)
        stats.update(last=x, extra=stats["steps"])
        return x * stats["steps"] + stats.get("missing", 2)

    return f, stats


@program(traces=3)
def dicts_of_all_kinds():
    groups, counts = collections.defaultdict(list), collections.Counter()
    ordered = collections.OrderedDict(a=1, b=2)

    def f(x):
        groups["x"].append(x * 2)
        groups["n"].append(1)
        counts["calls"] += 1
        ordered.move_to_end("a")
        ordered["c"] = ordered.pop("c", 0) + 1
        return x + counts["calls"]

    return f, [groups, counts, ordered]


@program(n=20)
def a_dict_cache_by_key():
    cache = {}

    def f(x):
        cache["y"] = x * 2
        cache["z"] = cache["y"] + 1
        if "z" in cache:
            del cache["z"]
        return cache["y"]

    return f, cache


@program(traces=4)
def a_deque_with_a_bound():
    window = collections.deque(maxlen=3)

    def f(x):
        window.append(x.mean())
        return sum(window) / len(window)

    return f, window


@program(traces=2)
def sets():
    seen = {1}

    def f(x):
        seen.add(2)
        seen.discard(1)
        seen.update([5, 6])
        seen.remove(6)
        return x + (2 in seen) + (1 in seen)

    return f, seen


@program()
def the_very_list_is_returned():
    log = []

    def f(x):
        log.append(x)
        return log is log, x

    return f, log


@program(arguments=lambda i: (vector(i), {"h": vector(i) * 2, "n": [1.0, 2.0]}, [vector(1)]))
def containers_among_the_arguments():
    def f(x, state, items):
        state["h"] = state["h"] + x
        state["new"] = x * 2
        state["n"][0] = x.sum()
        items.append(x)
        items[0] = items[0] * 3
        return state, items, x

    return f, None


@dataclasses.dataclass
class Point:
    x: object
    y: object = 2.0


@program(arguments=lambda i: (vector(i), Point(vector(i), 1.0)))
def a_dataclass_among_the_arguments():
    def f(x, p):
        p.x = p.x + x
        p.y = x.sum()
        return p

    return f, None


@program(traces=2, n=8)
def lists_in_objects_in_lists():
    boxes = [Box(log=[], n=0), Box(log=[], n=10)]

    def f(x):
        for b in boxes:
            b.log.append(x * b.n)
            b.n += 1
        return x

    return f, boxes


@program(n=6)
def swaps_attributes():
    box = Box(a=vector(1), b=vector(5))

    def f(x):
        box.a, box.b = box.b, box.a + x
        return box.a

    return f, box


@program(n=6)
def nested_lists_that_grow():
    rows = [[1], [2]]

    def f(x):
        rows[0].append(3)
        rows.append([4])
        rows[1][0] += 1
        return x * len(rows[0])

    return f, rows


@program()
def one_list_under_two_names():
    items = [1]
    box = Box(a=items, b=items)

    def f(x):
        box.a.append(2)
        n = len(box.b)
        box.b.append(n)
        return x * n

    return f, box


@program(traces=2)
def iterates_over_a_dict_that_it_has_changed():
    table = {"a": 1, "b": 2}

    def f(x):
        table["c"] = 3
        total = 0
        for _, v in table.items():
            total += v
        return x * total + len(table) + sum(table.values())

    return f, table


@program(traces=2, n=5)
def a_flag_that_a_module_clears():
    class Carry(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.h = True, None

        def forward(self, x):
            self.h = x if self.h is None else self.h * 0.5 + x
            if self.first:
                self.first = False
                return x * 0
            return self.h

    net = Carry()
    return lambda x: net(x), net


@program(traces=3, n=6)
def a_number_that_is_a_range():
    box = Box(n=1)

    def f(x):
        for i in range(box.n):
            x = x + i
        box.n = min(box.n + 1, 3)
        return x

    return f, box


@program(n=3)
def numbers_that_change_are_numbers():
    box = Box(n=1, f=0.5)

    def f(x):
        n = box.n
        numbers = [
            n**2,
            n & 1,
            round(box.f),
            int(n / 2),
            max(n, 3),
            n,
            float(n),
            n / 2,
            n // 2,
            -n,
            5 - n,
            2**n,
            sum([n, n]),
        ]
        questions = [n in (1, 2), bool(n), isinstance(n, int), type(n) is int, n == 1, n.bit_length(), divmod(n, 2)]
        text = ["a" * n, f"{n:03d}", "%d" % n, {n: 1}, [0] * n, list(range(n)), complex(n)]
        arrays = [x[n - 1], x[:n], np.arange(3) * n, tr.full((2,), n), x.reshape(3, 1) * n, x + np.float32(n), x**n]
        box.n, box.f = 1, 0.5
        return numbers, questions, text, arrays, n * x + n / x

    return f, box


def test_an_object_that_becomes_another_one_is_noticed():
    other, box = Box(n=0), Box(s=Box(n=0))

    def f(x):
        before = other.n
        box.s.n += 1
        return x * (other.n - before)

    compiled = tr.compile(f, fullgraph=True)
    assert compiled(vector(0)).tolist() == [0.0, 0.0, 0.0]
    box.s = other
    for _ in range(2):
        assert compiled(vector(0)).tolist() == vector(0).tolist()


def test_effects_behind_a_cache_end_the_capture():
    calls = []

    @functools.lru_cache
    def cached(n):
        calls.append(n)
        return n

    with pytest.raises(tr.CaptureError, match="cache"):
        tr.compile(lambda x: x * cached(3), fullgraph=True)(vector(0))


# ------------------------------------------------------------------ tensors: writes, views, transforms


@program(arguments=lambda i: (vector(i, 5)[1:4],))
def writes_into_a_view_that_is_an_argument():
    def f(x):
        x.add_(1)
        return x * 2

    return f, None


@program()
def prints_around_a_write():
    total = tr.zeros(3)

    def f(x):
        print(total)
        total.add_(x)
        print(total, total.sum())
        x.mul_(2)
        print(x)
        return total

    return f, total


@program()
def transforms_of_functions_with_effects():
    box = Box(n=0, log=[])

    def loss(x):
        box.n += 1
        return (x**2).sum()

    def f(x):
        g = tr.grad(loss)(x)
        box.log.append(g)
        return tr.vmap(lambda v: v * box.n)(g)

    return f, box


@program()
def compiled_functions_inside_of_another():
    box = Box(n=0)

    @tr.compile
    def inner(x):
        box.n += 1
        return x * box.n

    return lambda x: inner(x) + inner(x), box


@program(arguments=lambda i: (vector(i), 0.1 * i))
def numbers_among_the_arguments_are_kept_and_printed():
    box = Box(rates=[])

    def f(x, lr):
        box.rates.append(lr)
        print(f"lr={lr:.3f} {lr * 2:.2f}")
        box.last = lr
        return x * lr

    return f, box


@program(arguments=lambda i: (np.arange(3.0) + i,))
def numpy_arrays_are_kept_and_printed():
    box = Box(a=None)

    def f(x):
        y, s = x * 2, x.sum()
        print(y, s, f"{s:.2f}")
        box.a, box.s = y, s
        return s

    return f, box


@program(traces=1, n=3)
def a_training_step_with_a_log():
    tr.manual_seed(0)
    net, log = nn.Linear(3, 2), Box(losses=[], steps=0)
    opt = tr.optim.SGD(net.parameters(), lr=0.01)

    def step(x):
        loss = (net(x) ** 2).sum()
        loss.backward()
        opt.step()
        opt.zero_grad()
        log.steps += 1
        log.losses.append(loss.detach())
        return loss

    return step, [net, log]


def test_results_with_a_history_are_kept():
    w, box = tr.tensor([1.0, 2.0, 3.0], requires_grad=True), Box(loss=None)

    def f(x):
        box.loss = (w * x).sum()
        return x

    compiled, want = tr.compile(f, fullgraph=True), np.zeros(3)
    for i in range(3):
        compiled(vector(i))
        box.loss.backward()
        want += np.asarray(vector(i))
        np.testing.assert_allclose(w.grad.numpy(), want)


def test_what_is_kept_shares_storage_as_in_plain_python():
    box = Box()

    def f(x):
        y = x * 2
        box.v, box.x, box.w, box.y = x[1:], x, y[:2], y
        return y

    compiled = tr.compile(f, fullgraph=True)
    for _ in range(3):
        x = vector(0)
        y = compiled(x)
        assert box.x is x and box.y is y
        x[1] = 50.0
        y[0] = 9.0
        assert box.v[0].item() == 50.0 and box.w[0].item() == 9.0


# ------------------------------------------------------------------ globals and closure variables


@program(traces=2)
def assigns_globals():
    global COUNTER, LAST
    COUNTER, LAST = 0, None

    def helper(x):
        return x * COUNTER

    def f(x):
        global COUNTER, LAST
        COUNTER += 1
        LAST = x * 2
        return helper(x) + LAST

    return f, None


@program()
def assigns_closure_variables():
    n, last = 0, None

    def f(x):
        nonlocal n, last
        n += 1
        last = x + n
        return last * 2

    def look():
        return n, last

    class Look:
        @property
        def __dict__(self):
            return {"now": look()}

    return f, Look()


# ------------------------------------------------------------------ text


@program()
def prints_values():
    def f(x):
        print("hello", x, x.sum(), 3, sep="|", end=".\n")
        y = x * 2
        print(f"{y.sum():.3f} {x!r} {'static':>8} {[x[0], 1]} {{}}")
        y += 1
        print("{:.2f} {k}".format(y.sum(), k=x), "%.1f%%" % y.sum())
        return y

    return f, None


@program()
def text_in_attributes_and_results():
    box = Box(text="", n=0)

    def f(x):
        box.n += 1
        box.text = f"step {box.n}: " + str(x.sum())
        return {"message": box.text + "!", "joined": ", ".join([str(x), f"{box.n:03d}"])}

    return f, box


@program()
def debug_prints():
    def f(x):
        tr.debug_print("x={} {k:.2f}", x, k=x.sum())
        return x

    return f, None


@program()
def logs_and_warns():
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append((record.getMessage(), record.levelname, record.funcName, record.lineno))

    logger = logging.Logger("test")
    logger.addHandler(Keep())

    def f(x):
        logger.info("sum %s of %d", x.sum(), 3)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(f"{x}")
        return x

    return f, records


@program()
def objects_that_print_themselves():
    class Named:
        def __init__(self, x):
            self.x = x

        def __repr__(self):
            return f"Named({self.x.sum():.2f})"

    def f(x):
        print(Named(x), [Named(x)], Point(x[0], 3), f"{Named(x)!r:>20}")
        return x

    return f, None


@program()
def prints_in_order_with_effects():
    box = Box(n=0)

    def f(x):
        for i in range(2):
            box.n += i
            print("n is", box.n, x[i])
        return x

    return f, box


# ------------------------------------------------------------------ exceptions and contexts


@program()
def catches_its_own_exceptions():
    class Mine(Exception):
        def __init__(self, value):
            super().__init__("mine")
            self.value = value

    def risky(x, n):
        if n == 1:
            raise Mine(x * 2)
        if n == 2:
            raise KeyError("k")
        return x

    log = []

    def f(x):
        total = x
        for n in range(3):
            try:
                y = risky(x, n)
            except Mine as e:
                total = total + e.value
            except (KeyError, ValueError) as e:
                log.append(str(e))
            else:
                total = total + y
            finally:
                log.append(n)
        return total

    return f, log


@program(fails=True, traces=2, n=4)
def exceptions_that_escape():
    box = Box(n=0)

    def f(x):
        box.n += 1
        if box.n > 2:
            raise ValueError(f"too many: {box.n}")
        return x

    return f, box


@program()
def user_contexts():
    events = []

    class Scope:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            events.append(f"enter {self.name}")
            return self

        def __exit__(self, kind, error, tb):
            events.append(f"exit {kind.__name__ if kind else None}")
            return kind is ZeroDivisionError

    @contextlib.contextmanager
    def scaled(k):
        events.append(k)
        try:
            yield k * 2
        finally:
            events.append(-k)

    outside = Scope("outside")

    def f(x):
        with Scope("a") as s, scaled(3) as k, outside:
            y = x * k + len(s.name)
        with Scope("b"):
            1 / 0
        with contextlib.suppress(KeyError), tr.no_grad():
            raise KeyError
        return y

    return f, events


# ------------------------------------------------------------------ iteration


@program()
def generators_and_iterators():
    class Countdown:
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            return self

        def __next__(self):
            if self.n == 0:
                raise StopIteration
            self.n -= 1
            return self.n

    class Squares:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i >= 3:
                raise IndexError
            return i * i

        def __contains__(self, v):
            return v in (0, 1, 4)

    def inner(x):
        got = yield x
        yield x * (got or 2)

    def outer(x):
        yield from inner(x)
        yield from (x * i for i in range(2))

    squares = Squares()

    def f(x):
        total = x * 0
        for n in Countdown(3):
            total = total + n
        for y in outer(x):
            total = total + y
        g = inner(x)
        next(g)
        total = total + g.send(5)
        first, *rest = squares
        return total + sum(squares) + len(squares) + (4 in squares) + sum(rest) + first + next(iter(Countdown(2)))

    return f, None


@program()
def an_iterator_from_outside_of_the_users():
    class Numbers:
        def __init__(self):
            self.n = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.n += 1
            return self.n

    numbers = Numbers()
    return lambda x: x * next(numbers), numbers


@program()
def comprehensions_and_unpacking():
    def f(x):
        a, (b, *c), d = 1, [2, 3, 4], 5
        table = {k: v * x for k, v in zip("ab", (1, 2))}
        rows = [y for y in (x * i for i in range(4)) if (n := 2) and y is not x]
        merged = {**table, **{"c": x}}
        args = (*c, a, b, d)
        return max(args) * merged["c"] + merged["a"] + rows[n], (1 < a + b < 5 <= d)

    return f, None


# ------------------------------------------------------------------ classes


@program()
def operators_of_classes():
    class Vec:
        def __init__(self, t):
            self.t = t

        def __add__(self, other):
            return Vec(self.t + (other.t if isinstance(other, Vec) else other))

        __radd__ = __add__

        def __mul__(self, k):
            return Vec(self.t * k) if isinstance(k, (int, float)) else NotImplemented

        def __neg__(self):
            return Vec(-self.t)

        def __iadd__(self, other):
            self.t = self.t + other
            return self

        def __eq__(self, other):
            return isinstance(other, Vec) and self.t is other.t

        def __lt__(self, other):
            return True

        def __bool__(self):
            return self.t.ndim == 1

        def __call__(self, k):
            return self.t * k

        def __getitem__(self, i):
            return self.t[i]

        def __setitem__(self, i, v):
            self.t = self.t * v

        def __hash__(self):
            return 1

    def f(x):
        v = Vec(x) + Vec(x) + 1
        v = 2 + v * 3
        w = -v
        w += 4
        w[0] = 2
        same = w == w and v != w and v < w
        return w.t + w(2) + w[1] if same and w else x

    return f, None


@program()
def dataclasses_enums_and_namedtuples():
    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int = 3
        tags: tuple = ()

    @dataclasses.dataclass
    class Derived:
        x: object
        items: list = dataclasses.field(default_factory=list)
        total: object = None

        def __post_init__(self):
            self.total = self.x * 2

    Pair = collections.namedtuple("Pair", "a b", defaults=(3,))

    def f(x):
        c = Config(4)
        d = Derived(x)
        d.items.append(c.width)
        p = Pair(x)._replace(b=5)
        try:
            c.width = 9
        except dataclasses.FrozenInstanceError as e:
            d.items.append(str(e))
        k = {Color.RED: 2.0, Color.BLUE: 3.0}[Color(2)]
        return d, p, dataclasses.replace(c, width=7) == Config(7), x * k, Color.RED.name

    return f, None


@program(traces=2)
def inheritance_new_and_properties():
    class Base:
        made = 0

        def __new__(cls, *args):
            obj = super().__new__(cls)
            obj.tag = "new"
            return obj

        def __init__(self, x):
            self.x = x

        @classmethod
        def make(cls, x):
            return cls(x)

        @staticmethod
        def twice(v):
            return v * 2

        @property
        def doubled(self):
            return self.twice(self.x)

        def __getattr__(self, name):
            if name.startswith("auto_"):
                return len(name)
            raise AttributeError(name)

    class Child(Base):
        def __init__(self, x):
            super().__init__(x + 1)

        @property
        def doubled(self):
            return super().doubled + 1

        @functools.cached_property
        def expensive(self):
            return self.x * 10

    kept = Child(tr.ones(3))

    def f(x):
        c = Child.make(x)
        y = c.expensive + c.expensive + kept.expensive
        return c.doubled + y + c.auto_ab + kept.auto_abc + getattr(c, "nothing", 1) + len(c.tag)

    return f, kept


@program()
def recursion_closures_and_partials():
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    def adder(k, /, *args, scale=2, **more):
        def add(v):
            return v * scale + k + sum(args) + more.get("z", 0)

        return add

    scaled = functools.partial(adder, 1, scale=3)

    def f(x):
        class Local:
            k = 3

            def run(self, v):
                return v * self.k

        fs = [lambda v, i=i: v * i for i in range(3)]
        return scaled(2, z=4)(power(x, 3)) + fs[2](x) + Local().run(x) + functools.reduce(lambda a, b: a + b, [x, x])

    return f, None


@program()
def decorators_with_a_counter_on_the_function():
    def counted(fn):
        @functools.wraps(fn)
        def inner(*args):
            inner.calls += 1
            return fn(*args)

        inner.calls = 0
        return inner

    @counted
    def g(x):
        return x * 2

    return lambda x: g(x) + g.calls, vars(g)


@program(n=8)
def an_object_that_replaces_itself():
    class State:
        def __init__(self, h, n):
            self.h, self.n = h, n

        def step(self, x):
            return State(self.h * 0.5 + x, self.n + 1)

    box = Box(state=State(tr.zeros(3), 0))

    def f(x):
        box.state = box.state.step(x)
        return box.state.h * box.state.n

    return f, box


@program()
def match_statements():
    class Shape:
        __match_args__ = ("kind", "size")

        def __init__(self, kind, size):
            self.kind, self.size = kind, size

    def area(s, x):
        match s:
            case Shape("circle", size=r) if r > 1:
                return x * r
            case Shape("square", a) | Shape("box", a):
                return x * a + 1
            case {"kind": "dict", "v": [first, *rest], **others}:
                return first * x + len(rest) + len(others)
            case (1 | 2 as n, _):
                return x + n
            case str(name):
                return x + len(name)
            case None | True:
                return x * 7
            case int() | float():
                return x * s
            case _:
                return x

    def f(x):
        subjects = [Shape("circle", 2), Shape("circle", 1), Shape("box", 3), {"kind": "dict", "v": [x, 1, 2], "z": 0}]
        return [area(s, x) for s in [*subjects, (2, 5), "name", None, 4, [1, 2, 3]]]

    return f, None


# ------------------------------------------------------------------ what comes out


@program()
def objects_made_inside_come_out():
    class Result:
        def __init__(self, x):
            self.x, self.parts = x, [x * 2, "a"]
            self.me = None

    box = Box(made=None)

    def f(x):
        r = Result(x + 1)
        box.made = r
        return r, Point(r.x), {"again": r}

    def g(x):
        r, p, d = f(x)
        assert d["again"] is r
        return r, p, d

    return g, box


def test_objects_in_several_places_stay_one():
    box = Box(made=None, items=[])

    def f(x):
        made = Box(x=x * 2)
        shared = [made, x]
        box.made, box.items = made, shared
        return made, shared, {"s": shared}

    compiled = tr.compile(f, fullgraph=True)
    for i in range(3):
        made, shared, d = compiled(vector(i))
        assert made is shared[0] and made is box.made and shared is box.items and d["s"] is shared
        assert box.made.x.tolist() == (vector(i) * 2).tolist()


def test_closures_made_inside_come_out():
    def f(x):
        n = 0

        def count():
            nonlocal n
            n += 1
            return x * n

        return count, lambda v: v + x + n, functools.partial(max, 3)

    compiled = tr.compile(f, fullgraph=True)
    for i in range(3):
        count, add, largest = compiled(vector(i))
        want_count, want_add, _ = f(vector(i))
        for _ in range(2):
            assert count().tolist() == want_count().tolist()
            assert add(1.0).tolist() == want_add(1.0).tolist()
        assert largest(5) == 5


def test_existing_containers_are_returned_themselves():
    log = []

    def f(x, d):
        log.append(x)
        return log, d

    compiled, d = tr.compile(f, fullgraph=True), {"a": 1}
    for i in range(3):
        out = compiled(vector(i), d)
        assert out[0] is log and out[1] is d
    assert len(log) == 3


def test_nothing_happens_if_the_call_fails():
    box = Box(n=0, log=[])

    def f(x, i):
        box.n += 1
        box.log.append(x.sum())
        print("printed")
        return x[i]

    compiled = tr.compile(f, fullgraph=True)
    compiled(vector(0), tr.tensor(1))
    with pytest.raises(IndexError):
        compiled(vector(0), tr.tensor(9))
    assert box.n == 2 and len(box.log) == 2  # once each: by the plain Python that raised


def test_objects_of_different_identity_are_not_mistaken():
    box = Box(a=[], b=[])

    def f(x):
        box.a.append(1)
        box.b.append(2)
        return x

    compiled = tr.compile(f, fullgraph=True)
    compiled(vector(0))
    box.b = box.a
    compiled(vector(0))
    assert box.a == [1, 1, 2]


def test_warnings_name_the_users_line():
    def f(x):
        warnings.warn("careful")
        return x

    compiled = tr.compile(f, fullgraph=True)
    for _ in range(2):
        with pytest.warns(UserWarning, match="careful") as caught:
            compiled(vector(0))
        assert caught[0].filename == __file__ and caught[0].lineno == f.__code__.co_firstlineno + 1


def test_states_that_changed_outside_are_seen():
    box = Box(n=0, last=None)

    def f(x):
        box.n += 1
        box.last = x * box.n
        return box.last

    compiled = tr.compile(f, fullgraph=True)
    compiled(vector(0))
    box.n = 10
    assert compiled(vector(0)).tolist() == (vector(0) * 11).tolist()
    box.n = 2.5
    assert compiled(vector(0)).tolist() == (vector(0) * 3.5).tolist()
    assert type(types.SimpleNamespace()) is types.SimpleNamespace


@tr.compile
def importable(x):
    return x * 2


def test_compiled_functions_pickle_by_reference():
    assert pickle.loads(pickle.dumps(importable)) is importable and copy.deepcopy(importable) is importable
    with pytest.raises(TypeError, match="compile it again"):
        pickle.dumps(tr.compile(lambda x: x))


def test_compiled_modules_stay_compiled_when_copied_and_pickled():
    from tracefuse.frontend.compile import is_compiled

    net = tr.compile(nn.Linear(3, 2), fullgraph=True)
    x = tr.ones((1, 3))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert is_compiled(twin) and isinstance(twin, nn.Linear) and twin.weight is not net.weight
        assert twin(x).tolist() == net(x).tolist()


def test_disabled_functions_stay_in_plain_python():
    traced = []

    @tr.compile
    def inner(x):
        traced.append(isinstance(tr.Tensor, type))
        return x + 1

    @tr.disable
    def plain(x):
        return float(inner(x).sum())

    @tr.compile
    def f(x):
        return x * plain(x)

    with pytest.warns(tr.CaptureWarning, match="disable"):
        assert f(vector(0)).tolist() == (vector(0) * plain(vector(0))).tolist()
    with tr.disable():
        inner(vector(0))
    assert inner.cache_info()["traces"] == 0 and plain.__name__ == "plain"
    inner(vector(0))
    inner(vector(0))
    with tr.disable():
        inner(vector(0))
    info = inner.cache_info()
    assert info["traces"] == 1 and info["hits"] == 1


def test_threads_share_a_compiled_function():
    box = Box(log=[])

    def f(x):
        box.log.append(x.sum())
        return x * 2

    compiled = tr.compile(f, fullgraph=True)
    threads = [threading.Thread(target=lambda: [compiled(vector(i)) for i in range(50)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(box.log) == 200 and all(type(v) is tr.Tensor and float(v) > 0 for v in box.log)


def test_source_that_only_linecache_knows():
    text = "def made(x, log):\n    log.append(x * 2)\n    return x + 1\n"
    linecache.cache["<cell 1>"] = (len(text), None, text.splitlines(True), "<cell 1>")
    space: dict = {}
    exec(compile(text, "<cell 1>", "exec"), space)
    compiled, log = tr.compile(space["made"], fullgraph=True), []
    assert compiled(vector(0), log).tolist() == (vector(0) + 1).tolist() and len(log) == 1


def test_relative_imports_inside():
    import tracefuse.frontend.demo as demo

    text = "def f(x):\n    from . import large\n    from .costs import kernel_cost\n    return x * 2\n"
    linecache.cache["<cell 2>"] = (len(text), None, text.splitlines(True), "<cell 2>")
    space = {"__package__": demo.__package__, "__name__": "some.module"}
    exec(compile(text, "<cell 2>", "exec"), space)
    assert tr.compile(space["f"], fullgraph=True)(vector(0)).tolist() == (vector(0) * 2).tolist()


def test_opaque_functions_are_steps_of_the_graph():
    seen = []

    @tr.allow_in_graph
    def halves(x, k=2):
        seen.append(x.shape)
        a = np.asarray(x) / k
        return tr.tensor(a), {"sum": tr.tensor(a.sum())}

    def f(x):
        a, d = halves(x * 2, k=4)
        return a + d["sum"] * x, halves(x)[0]

    compiled = tr.compile(f, fullgraph=True)
    for i in range(3):
        assert described(compiled(vector(i))) == described(f(vector(i)))
    assert compiled.cache_info()["traces"] == 1 and halves.__name__ == "halves"
    w = tr.ones(3, requires_grad=True)
    with pytest.raises(tr.CaptureError, match="gradient"):
        compiled(w)
