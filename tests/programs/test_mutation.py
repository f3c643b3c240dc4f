"""What programs change: attributes, containers, globals and closure variables."""

import collections
import sys
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr
from tracefuse import nn

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Point, Programs, vector  # noqa: E402

program = Programs()
COUNTER, LAST = 0, None


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


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
