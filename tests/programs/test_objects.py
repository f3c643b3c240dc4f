"""Classes, objects and special methods of the user's."""

import collections
import dataclasses
import enum
import functools
import sys
from pathlib import Path

import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Point, Programs  # noqa: E402

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
