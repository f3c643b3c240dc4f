"""Iteration, functions and statements of Python."""

import collections
import functools
import itertools
import sys
from pathlib import Path

import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


def test_effects_behind_a_cache_end_the_capture():
    calls = []

    @functools.lru_cache
    def cached(n):
        calls.append(n)
        return n

    with pytest.raises(tr.CaptureError, match="cache"):
        tr.compile(lambda x: x * cached(3), fullgraph=True)(vector(0))


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


def halvings(x, n):
    return x if n == 0 else halvings(x / 2, n - 1)


@tr.compile(fullgraph=True)
def compiled_halvings(x, n):
    return x if n == 0 else compiled_halvings(x / 2, n - 1)


def test_functions_of_a_module_may_call_themselves():
    assert tr.compile(halvings, fullgraph=True)(vector(0), 3).tolist() == halvings(vector(0), 3).tolist()
    assert compiled_halvings(vector(0), 3).tolist() == halvings(vector(0), 3).tolist()


def test_names_of_what_is_defined_inside_are_those_of_plain_python():
    def f(x):
        class Inner:
            def method(self):
                return x

        def inner():
            return lambda: x

        return Inner.__qualname__, Inner.method.__qualname__, inner.__qualname__, inner().__qualname__

    assert tr.compile(f, fullgraph=True)(vector(0)) == f(vector(0))


@program(traces=5)
def loops_over_containers_that_they_change():
    table, items = {"a": 1, "b": 2}, [1, 2, 3]

    def f(x):
        for key, v in table.items():
            table[key] = v + 1
        for i, v in enumerate(items):
            if i + 1 < len(items):
                items[i + 1] = v
        n = 0
        for v in items:
            if n < 2:
                items.append(v)
            n += 1
        keys = table.keys()
        table["c"] = 1
        return x * n, len(keys), sorted(keys), "c" in keys, list(table.values())

    return f, [table, items]


@program()
def containers_that_must_not_change_meanwhile():
    table, window, seen = {"a": 1}, collections.deque([1, 2]), {1}

    def f(x):
        out = []
        for values, change in (
            (table, lambda k: table.update({"n" + k: 1})),
            (window, lambda k: window.append(window.popleft())),
            (seen, lambda k: seen.add(k + 1)),
        ):
            try:
                for k in values:
                    change(k)
            except RuntimeError as e:
                out.append(str(e))
        table.clear()
        table["a"] = 1
        seen.discard(2)
        return x, out

    return f, [table, window, seen]


@program()
def tools_for_iteration():
    def f(x):
        groups = [(k, list(g)) for k, g in itertools.groupby([1, 1, 2])]
        chained = list(itertools.chain.from_iterable([[x], [x * 2]]))
        first, second = itertools.tee([1, 2])
        cycle = itertools.cycle([1, 2])
        sums = list(itertools.accumulate([x, x, x]))
        return groups, chained, [*first, *second], [next(cycle) for _ in range(3)], sums, list({"a": x}.items())

    return f, None


@program()
def classes_that_iterate_in_their_own_way():
    class Steps:
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            return iter(range(self.n))

        def __reversed__(self):
            return iter([9, 8])

        def __len__(self):
            return self.n

    steps = Steps(3)

    def f(x):
        lists = [*steps], list(reversed(steps)), list(zip(steps, steps)), sorted(steps, reverse=True), set(steps)
        return x * sum(steps) + max(steps) + len(steps), lists, list(map(str, steps)), dict(enumerate(steps))

    return f, steps
