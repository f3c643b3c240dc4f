"""What changes between calls: the results follow."""

import functools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tracefuse.runtime import entry

import tracefuse as tr
from tracefuse import nn

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, described, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


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


class First:
    def scaled(self, x):
        return x


class Second:
    def scaled(self, x):
        return x * 2


class Base:
    pass


class Mixin(Base):
    def scaled(self, x):
        return x * 3


class Other(Base):
    def scaled(self, x):
        return x * 4


def pick(i, *choices):
    return choices[i % len(choices)]


@program(traces=5, between=lambda i, d: d.update(k=i))
def a_value_in_a_dict():
    d = {"k": 0}
    return lambda x: x * d["k"], d


@program(traces=5, n=6, between=lambda i, b: setattr(b, "t", pick(i, tr.zeros(3), tr.zeros(3, dtype=tr.float64), None)))
def the_type_of_a_tensor_in_an_attribute():
    box = Box(t=None)
    return lambda x: x if box.t is None else x + box.t, box


@program(traces=2, arguments=lambda i: (vector(i, 4).reshape(2, 2).T if i % 2 else vector(i, 4).reshape(2, 2),))
def strides():
    return lambda x: (x * 2, x.reshape(-1)), None


@program(traces=4, n=8, arguments=lambda i: (vector(i), pick(i, 1, 1.0, True, "a")))
def numbers_of_all_kinds():
    return lambda x, k: (x if isinstance(k, str) else x * k, type(k).__name__), None


@program(traces=3, n=6, arguments=lambda i: ([vector(i)] * (i % 3 + 1),))
def the_length_of_a_list():
    return lambda xs: sum(xs), None


@program(traces=2, between=lambda i, net: net.train(i % 2 == 0))
def training_mode():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    return lambda x: net(x), net


@program(traces=2, between=lambda i, s: tr.set_default_dtype(pick(i, tr.float32, tr.float64)))
def the_default_dtype():
    def f(x):
        return tr.zeros(3) + 1, tr.rand(2)

    return f, None


@program(traces=5, between=lambda i, assign: assign(i))
def closure_variables_of_functions_that_are_called():
    n = 0

    def inner(x):
        return x * n

    def assign(i):
        nonlocal n
        n = i

    return lambda x: inner(x), assign


@program(traces=5, n=8, between=lambda i, b: setattr(b, "f", pick(i, tr.exp, tr.sin, abs, lambda x: x)))
def a_function_in_an_attribute():
    box = Box(f=abs)
    box.f = lambda x: x
    return lambda x: box.f(x), box


@program(traces=5, between=lambda i, g: setattr(g, "__defaults__", (i,)))
def defaults_of_a_function():
    def g(x, k=1):
        return x * k

    return lambda x: g(x), g


@program(traces=5, between=lambda i, g: setattr(g, "__kwdefaults__", {"k": i}))
def keyword_defaults_of_a_function():
    def g(x, *, k=1):
        return x * k

    return lambda x: g(x), g


@program(traces=5, between=lambda i, g: g.__kwdefaults__.update(k=i))
def keyword_defaults_written_in_place():
    def g(x, *, k=1):
        return x * k

    return lambda x: g(x), g


@program(traces=2, between=lambda i, g: setattr(g, "__code__", (lambda x: x * 3).__code__) if i == 2 else None)
def code_that_is_reloaded():
    def g(x):
        return x * 2

    return lambda x: g(x), g


@program(traces=5, between=lambda i, p: p.keywords.update(k=i))
def what_a_partial_passes():
    p = functools.partial(lambda x, k: x * k, k=1)
    return lambda x: p(x), p


@program(traces=2, between=lambda i, a: setattr(a, "__class__", pick(i, First, Second)))
def the_class_of_an_object():
    obj = First()
    return lambda x: obj.scaled(x), obj


@program(traces=2, between=lambda i, net: setattr(net, "__class__", pick(i, Twice, Thrice)))
def the_class_of_a_module():
    net = Twice()
    return lambda x: net(x), net


class Twice(nn.Module):
    def forward(self, x):
        return x * 2


class Thrice(nn.Module):
    def forward(self, x):
        return x * 3


@program(traces=5, between=lambda i, cls: setattr(cls, "__bases__", (pick(i, Mixin, Other),)))
def the_bases_of_a_class():
    class Derived(Mixin):
        pass

    obj = Derived()
    return lambda x: obj.scaled(x), Derived


@program(traces=5, between=lambda i, cls: setattr(cls, "forward", lambda self, x: x * (i + 1)))
def forward_of_a_class_of_modules():
    class Net(nn.Module):
        def forward(self, x):
            return x

    net = Net()
    return lambda x: net(x), Net


@program(traces=5, between=lambda i, cls: setattr(cls, "scaled", lambda self, x: x * (i + 1)))
def a_method_that_super_finds():
    class Parent:
        def scaled(self, x):
            return x

    class Child(Parent):
        def scaled(self, x):
            return super().scaled(x) + 1

    obj = Child()
    return lambda x: obj.scaled(x), Parent


@program(traces=2, n=4, between=lambda i, cls: i == 2 and setattr(cls, "scaled", lambda self, x: x * 7))
def a_method_that_a_subclass_overrides_later():
    class Parent:
        def scaled(self, x):
            return x

    class Child(Parent):
        pass

    obj = Child()
    return lambda x: obj.scaled(x), Child


SPECIAL = {  # a use of an object, and its special method, of i
    "add": (lambda a, x: a + x, "__add__", lambda i: lambda self, x: x * i),
    "radd": (lambda a, x: 3 + a, "__radd__", lambda i: lambda self, n: n * i),
    "neg": (lambda a, x: x * -a, "__neg__", lambda i: lambda self: i),
    "len": (lambda a, x: x * len(a), "__len__", lambda i: lambda self: i),
    "bool": (lambda a, x: x if a else x * 2, "__bool__", lambda i: lambda self: i % 2 == 0),
    "eq": (lambda a, x: x if a == 3 else x * 2, "__eq__", lambda i: lambda self, other: i % 2 == 0),
    "contains": (lambda a, x: x if 3 in a else x * 2, "__contains__", lambda i: lambda self, v: i % 2 == 0),
    "enter": (lambda a, x: x * _entered(a), "__enter__", lambda i: lambda self: i),
    "iter": (lambda a, x: x * sum(v for v in a), "__iter__", lambda i: lambda self: iter([i, i])),
    "getitem": (lambda a, x: x * a[0], "__getitem__", lambda i: lambda self, k: i),
    "getattr": (lambda a, x: x * a.anything, "__getattr__", lambda i: lambda self, name: i),
    "call": (lambda a, x: a(x), "__call__", lambda i: lambda self, x: x * i),
    "str": (lambda a, x: x * len(str(a)), "__str__", lambda i: lambda self: "a" * i),
    "hash": (lambda a, x: x * hash(a), "__hash__", lambda i: lambda self: i),
    "init": (lambda a, x: type(a)(x).v, "__init__", lambda i: lambda self, x=0: setattr(self, "v", x * i)),
    "property": (lambda a, x: x * a.p, "p", lambda i: property(lambda self: i)),
}


def _entered(a):
    with a as v:
        return v


@pytest.mark.parametrize("name", SPECIAL)
def test_special_methods_that_are_replaced_are_noticed(name):
    use, method, make = SPECIAL[name]

    class Special:
        def __exit__(self, *error):
            return None

    setattr(Special, method, make(1))
    obj = Special()
    compiled = tr.compile(lambda x: use(obj, x), fullgraph=True)
    for i in (1, 2, 3):
        setattr(Special, method, make(i))
        for _ in range(2):
            assert described(compiled(vector(0))) == described(use(obj, vector(0)))
    assert compiled.cache_info()["traces"] == 3 if name not in ("bool", "eq", "contains") else 2


def test_a_special_method_that_is_added_is_noticed():
    class Special:
        pass

    obj = Special()
    compiled = tr.compile(lambda x: x if obj else x * 2, fullgraph=True)
    assert compiled(vector(0)).tolist() == vector(0).tolist()
    Special.__len__ = lambda self: 0  # type: ignore[attr-defined]
    assert compiled(vector(0)).tolist() == (vector(0) * 2).tolist()


def test_guards_of_classes_and_functions_are_native():
    class Scale:
        k = 2

        def __call__(self, x, *, more=1):
            return x * self.k + more

    scale = Scale()
    compiled = tr.compile(lambda x: scale(x), fullgraph=True)
    compiled(vector(0))
    hits = sum(t.hits for t in entry.traces(compiled))
    compiled(vector(0))
    assert sum(t.hits for t in entry.traces(compiled)) == hits + 1
    Scale.k = 3
    assert compiled(vector(0)).tolist() == (vector(0) * 3 + 1).tolist()


def absent_or(i, obj):
    """Sets and deletes the attribute `k` in turn."""
    if i % 2:
        obj.k = i
    elif hasattr(obj, "k"):
        del obj.k


@program(traces=4, between=absent_or)
def an_attribute_with_a_default():
    box = Box()
    return lambda x: x * getattr(box, "k", 7), box


@program(traces=4, between=absent_or)
def an_attribute_of_a_class_with_a_default():
    class Plain:
        pass

    obj = Plain()
    return lambda x: x * getattr(obj, "k", 7) + hasattr(obj, "k"), Plain


@program(traces=4, between=absent_or)
def a_slot_with_a_default():
    class Slotted:
        __slots__ = ("k",)

    obj = Slotted()
    return lambda x: x * getattr(obj, "k", 7), obj


@program(traces=4, between=absent_or)
def an_attribute_that_is_tried():
    box = Box()

    def f(x):
        try:
            return x * box.k
        except AttributeError:
            return x

    return f, box


@program(traces=4, between=lambda i, table: table.update(k=i) if i % 2 else table.clear())
def a_key_that_is_tried():
    table = {}

    def f(x):
        try:
            return x * table["k"]
        except KeyError:
            return x

    return f, table


@pytest.mark.parametrize("make", [lambda: tr.ones(3), lambda: np.ones(3)])
def test_an_argument_that_the_function_also_reaches_by_itself(make):
    inside = make()
    box, items = Box(t=inside), [inside]
    for f in (lambda x: x + inside, lambda x: x + box.t * 2, lambda x: x - items[0]):
        compiled = tr.compile(f, fullgraph=True)
        for x in (inside, make() * 5, inside):
            assert described(compiled(x)) == described(f(x))


def test_a_parameter_that_is_also_an_argument():
    net = nn.Linear(3, 2)
    compiled = tr.compile(lambda w, x: net(x) + (w * x).sum(), fullgraph=True)
    x = vector(0)
    for w in (net.weight, tr.zeros(2, 3), net.weight):
        assert described(compiled(w, x)) == described(net(x) + (w * x).sum())
