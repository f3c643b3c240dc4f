"""Classes, objects and special methods of the user's."""

import collections
import collections.abc
import copy
import dataclasses
import enum
import functools
import operator
import sys
import types
import typing
from pathlib import Path

import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Point, Programs, described, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


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


# ------------------------------------------------------------------ subclasses of builtin containers


class Names(list):
    pass


@program(traces=2, n=6)
def a_list_with_methods():
    class History(list):
        @property
        def mean(self):
            return sum(self) / len(self)

        def last(self):
            return self[-1] if self else None

        def append(self, v):
            super().append(v)
            self.count = len(self)

    history = History()

    def f(x):
        before = history.last()
        history.append(x)
        return x if before is None else x + before

    return f, history


@program(n=4)
def a_dict_whose_items_are_attributes():
    class Config(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__
        __delattr__ = dict.__delitem__

    config = Config(rate=2.0, n=1)

    def f(x):
        config.n = config.n + 1
        config.t = x
        made = Config(a=1)
        made.b = x * 2
        return x * config.rate * config.n + made.b + made.a, made

    return f, config


@program(n=4)
def a_dict_with_getattr_and_setattr():
    class Config(dict):
        def __getattr__(self, key):
            try:
                return self[key]
            except KeyError:
                raise AttributeError(key) from None

        def __setattr__(self, key, value):
            self[key] = value

    config = Config(rate=2.0, n=1)

    def f(x):
        config.n = config.n + 1
        config.t = x
        return x * config.rate * config.n + getattr(config, "missing", 3)

    return f, config


@program()
def containers_that_override_their_own_methods():
    class Twice(list):
        def append(self, v):
            list.append(self, v)
            super().append(v)

        def __setitem__(self, i, v):
            super().__setitem__(i, v * 2)

    class Doubled(dict):
        def __setitem__(self, key, v):
            dict.__setitem__(self, key, v)

        def __getitem__(self, key):
            return super().__getitem__(key) * 2

    items, table = Twice([1]), Doubled(a=1)

    def f(x):
        items.append(x)
        items[0] = 3
        table["b"] = x
        table["a"] = 5
        return items[-1] + table["b"] * table["a"] + items[0]

    return f, [items, table]


@program(traces=2)
def missing_keys():
    class Lengths(dict):
        def __missing__(self, key):
            v = self[key] = len(key)
            return v

    lengths = Lengths()

    def f(x):
        made = Lengths()
        return x * lengths["abc"] + lengths["abc"] + made["ab"], made

    return f, lengths


@program(traces=3)
def subclasses_of_all_kinds():
    class Totals(collections.defaultdict):
        def total(self):
            return sum(self.values())

    class Counts(collections.Counter):
        pass

    class Window(collections.deque):
        def push(self, v):
            self.append(v)
            return self

    class Seen(set):
        def has(self, v):
            return v in self

    totals, counts, window, seen = Totals(int), Counts("aab"), Window(maxlen=2), Seen([1])

    def f(x):
        totals["a"] += 1
        counts.update("b")
        window.push(x)
        seen.add(2)
        return x * totals.total() * counts["a"] + window[-1] * len(window) + seen.has(2) + seen.has(5)

    return f, [totals, counts, window, seen]


@program()
def subclasses_made_inside_come_out():
    class Pair(tuple):
        def __new__(cls, *items):
            return super().__new__(cls, items)

        @property
        def first(self):
            return self[0]

    class Tag(str):
        def twice(self):
            return Tag(self + self)

    class Table(dict):
        def total(self):
            return sum(self.values())

    def f(x):
        names = Names([x, x * 2])
        names.append(3)
        names += [4]
        names.note = x
        pair, table = Pair(x, 2), Table(a=x, b=2.0)
        table["c"] = x * 2
        space = types.SimpleNamespace(x=x, y=2)
        space.z = 3
        total = table.total()
        for v in names[:2]:
            total = total + v
        return names, pair, pair.first, Tag("ab").twice(), table, total, space, Names()

    return f, None


@program(traces=5, between=lambda i, names: names.append(i))
def a_list_of_the_users_that_changes_outside():
    names = Names([1])
    return lambda x: x * sum(names) + len(names), names


@program(traces=3, n=3, arguments=lambda i: (vector(i), Names([1, vector(2)])))
def a_list_of_the_users_among_the_arguments():
    def f(x, names):
        names.append(x)
        return names[1] * len(names)

    return f, None


@program(n=4)
def counters_and_mappings_of_the_standard_library():
    chain, table = collections.ChainMap({"a": 1}, {"b": 2}), collections.UserDict(k=1)

    def f(x):
        chain["a"] = chain["a"] + chain["b"]
        table["k"] += 1
        return x * chain["a"] * table["k"] + table.get("missing", 1)

    return f, [chain, table]


@program(traces=4, n=4)
def counters_that_are_updated():
    counts = collections.Counter(a=1)

    def f(x):
        counts.update(["a", "b"])
        counts.update({"a": 3}, z=2)
        counts.subtract("ab")
        return x * counts["a"], counts.most_common(1), sorted(counts.elements())

    return f, counts


@program(traces=5, between=lambda i, m: m.table.update(a=i))
def a_mapping_made_of_mixins():
    class Settings(collections.abc.Mapping):
        def __init__(self, table):
            self.table = table

        def __getitem__(self, key):
            return self.table[key]

        def __iter__(self):
            return iter(self.table)

        def __len__(self):
            return len(self.table)

    settings = Settings({"a": 2, "b": 3})

    def f(x):
        total = x * settings.get("a") + settings.get("missing", 1) + ("b" in settings) + sum(settings.values())
        return total, list(settings.keys()), dict(settings), settings == {"a": 2}

    return f, settings


@program(traces=2)
def a_mutable_mapping_made_of_mixins():
    class Store(collections.abc.MutableMapping):
        def __init__(self):
            self.table = {}

        def __getitem__(self, key):
            return self.table[key]

        def __setitem__(self, key, value):
            self.table[key] = value

        def __delitem__(self, key):
            del self.table[key]

        def __iter__(self):
            return iter(self.table)

        def __len__(self):
            return len(self.table)

    store = Store()

    def f(x):
        store["a"] = x
        store.update(b=2, c=3)
        store.pop("c")
        store.setdefault("n", 0)
        store["n"] += 1
        return store["a"] * store["n"]

    return f, store


@program()
def generic_classes():
    T = typing.TypeVar("T")

    class Holder(typing.Generic[T]):
        def __init__(self, value):
            self.value = value

    def f(x):
        return Holder(x).value + Holder[int](3).value, list[int]([1, 2]), typing.cast(int, 3)

    return f, None


# ------------------------------------------------------------------ builtins that call special methods


class Size:
    def __init__(self, n):
        self.n = n

    def __lt__(self, other):
        return self.n < other.n

    def __gt__(self, other):
        return self.n > other.n

    def __eq__(self, other):
        return self.n == other.n

    def __hash__(self):
        return hash(self.n)

    def __add__(self, other):
        return Size(self.n + (other.n if isinstance(other, Size) else other))

    __radd__ = __add__

    def __index__(self):
        return self.n

    def __int__(self):
        return self.n

    def __bool__(self):
        return self.n > 3


@dataclasses.dataclass(order=True)
class Item:
    n: int
    note: object = None


USES = {
    "sorted": lambda xs, one: sorted(xs)[0].n,
    "sorted_by_key": lambda xs, one: sorted(xs, key=lambda v: v, reverse=True)[0].n,
    "max_and_min": lambda xs, one: max(xs).n * 10 + min(xs).n,
    "in_a_list": lambda xs, one: (one in xs) + 2 * (one not in xs),
    "index_and_count": lambda xs, one: xs.index(one) + xs.count(one) if one in xs else 9,
    "equal_lists": lambda xs, one: (
        (xs == [one, xs[1], xs[2]]) + 2 * ((xs[0],) == (one,)) + 4 * ({1: xs[0]} == {1: one})
    ),
    "ordered_tuples": lambda xs, one: (1, xs[0]) < (1, one),
    "reduce": lambda xs, one: functools.reduce(lambda a, b: a if a > b else b, xs).n,
}
OF_SIZES = {
    "sum": lambda xs, one: sum(xs).n,
    "any_and_all": lambda xs, one: any(xs) + 2 * all(xs) + 4 * len(list(filter(None, xs))),
    "map": lambda xs, one: sum(map(int, xs)),
    "operators": lambda xs, one: functools.reduce(operator.add, xs).n,
    "index": lambda xs, one: [5, 6, 7, 8, 9][xs[0]] + len(range(xs[0])),
    "key": lambda xs, one: {Size(0): 5, Size(2): 6}.get(xs[0], 1),
    "set": lambda xs, one: len({*xs, one}) + len(set(xs)),
}


@pytest.mark.parametrize("kind, use", [*((k, u) for u in USES for k in (Size, Item)), *((Size, u) for u in OF_SIZES)])
def test_builtins_see_objects_that_change(kind, use):
    use = {**USES, **OF_SIZES}[use]
    xs, one = [kind(1), kind(3), kind(5)], kind(2)

    def f(x):
        return x * use(xs, one)

    compiled = tr.compile(f, fullgraph=True)
    for n in (1, 2, 4, 2, 0):
        xs[0].n = n
        assert described(compiled(vector(0))) == described(f(vector(0)))


def test_copies_of_objects_of_the_users_end_the_capture():
    with pytest.raises(tr.CaptureError, match="reads it unseen"):
        thing = Item(1)
        tr.compile(lambda x: x * copy.copy(thing).n, fullgraph=True)(vector(0))


@program(traces=2, n=6)
def a_frozen_dataclass_that_is_replaced():
    @dataclasses.dataclass(frozen=True)
    class State:
        step: int
        mean: object
        notes: tuple = ()

    box = Box(state=State(0, tr.zeros(3)), made=None)

    def f(x):
        state = box.state
        box.state = dataclasses.replace(state, step=state.step + 1, mean=state.mean + x)
        box.made = dataclasses.asdict(Point(1, [2, {"k": Point(3)}])), dataclasses.astuple(Point(4, (5, 6)))
        return box.state.mean * box.state.step

    return f, box


@program(traces=5, between=lambda i, item: setattr(item, "n", i))
def a_dataclass_that_changes_outside():
    item = Item(1)
    return lambda x: (x * dataclasses.asdict(item)["n"], dataclasses.replace(item, note="new"), repr(item)), item
