"""Random numbers: the same ones as plain Python draws, whoever holds, seeds, copies or passes the generators."""

import sys
from pathlib import Path

import pytest
import tracefuse.nn.functional as F

import tracefuse as tr
from tracefuse import nn

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


@program()
def draws_of_all_kinds():
    def f(x):
        return x + tr.randn(3), tr.rand(2), tr.randint(0, 10, (3,)), tr.bernoulli(x / 9)

    return f, None


@program()
def dropout_in_the_order_of_the_program():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.3))

    def f(x):
        return net(x), F.dropout(x, 0.5), F.dropout(x, 0.5, training=False)

    return f, net


@program()
def a_generator_of_its_own():
    g = tr.Generator(3)
    return lambda x: x + tr.rand(3, generator=g) + tr.rand(3), g


@program()
def a_generator_in_a_module():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = tr.Generator(4)

        def forward(self, x):
            return x + tr.randn(3, generator=self.g)

    net = Noisy()
    return lambda x: net(x), net


@program(arguments=lambda i: (vector(i), tr.Generator(i)))
def a_generator_among_the_arguments():
    return lambda x, g: (x + tr.rand(3, generator=g), tr.rand(2, generator=g)), None


@program(arguments=lambda i: (vector(i), {"g": tr.Generator(i)}))
def a_generator_in_a_dict_among_the_arguments():
    return lambda x, d: (tr.rand(3, generator=d["g"]) + x, d), None


@program(traces=2)
def two_generators_in_turn():
    generators, box = [tr.Generator(1), tr.Generator(2)], Box(n=0)

    def f(x):
        g = generators[box.n % 2]
        box.n += 1
        return x + tr.rand(3, generator=g)

    return f, [generators, box]


@program()
def a_generator_made_inside():
    def f(x):
        g = tr.Generator(11)
        return x + tr.rand(3, generator=g), tr.rand(2, generator=g), g

    return f, None


@program(traces=2)
def a_generator_that_is_made_once():
    box = Box(g=None)

    def f(x):
        if box.g is None:
            box.g = tr.Generator(2)
        return x + tr.rand(3, generator=box.g)

    return f, box


@program()
def seeds_inside():
    g = tr.Generator(3)

    def f(x):
        before = tr.rand(3), tr.rand(3, generator=g)
        tr.manual_seed(4)
        g.manual_seed(9)
        return x, before, tr.rand(3), tr.rand(3, generator=g)

    return f, g


@program(traces=5)
def a_seed_that_depends_on_a_value():
    def f(x):
        tr.manual_seed(int(x[0]))
        return tr.rand(3)

    return f, None


@program(between=lambda i, g: (tr.manual_seed(i // 2), g.manual_seed(i // 3)))
def seeds_between_calls():
    g = tr.Generator(1)
    return lambda x: x + tr.rand(3) + tr.rand(3, generator=g), g


@program()
def a_forked_generator():
    g = tr.Generator(3)

    def f(x):
        fork = tr.Generator(0)
        fork.set_state(g.get_state())
        return tr.rand(3, generator=fork), tr.rand(3, generator=g), fork

    return f, g


@program()
def a_state_that_is_saved_and_set():
    def f(x):
        saved = tr.get_rng_state()
        first = tr.rand(3)
        tr.set_rng_state(saved)
        return first, tr.rand(3), saved

    return f, None


@program()
def permutations():
    return lambda x: (x[tr.randperm(3)], tr.permutation(x), tr.randperm(5, dtype=tr.int32)), None


@program()
def samples_of_categories():
    return lambda x: (tr.multinomial(x, 2), tr.multinomial(x, 5, replacement=True)), None


@program(traces=2)
def draws_in_one_branch_more():
    def f(x):
        if x[0] > 2:
            return x + tr.rand(3)
        return x + tr.rand(3) + tr.rand(3)

    return f, None


@program(traces=6, n=8)
def draws_until_one_is_large():
    def f(x):
        n = 0
        while tr.rand(()) < 0.7 and n < 4:
            n += 1
        return x * n

    return f, None


@program()
def starting_values_anew():
    net = nn.Linear(3, 2)

    def f(x):
        nn.init.normal_(net.weight)
        nn.init.uniform_(net.bias)
        nn.init.kaiming_uniform_(net.weight, a=2.0)
        return net(x).detach()

    return f, net


@program()
def draws_before_and_after_an_exception():
    def f(x):
        first = tr.rand(3)
        try:
            tr.rand(2)
            raise KeyError
        except KeyError:
            return first, tr.rand(3)

    return f, None


@program(fails=True, n=4)
def a_call_that_fails_has_drawn_what_plain_python_has_drawn():
    def f(x):
        y = x + tr.rand(3)
        if x[0] > 2:
            raise ValueError("large")
        return y + tr.rand(3)

    return f, None


def test_seeding_other_libraries_ends_the_capture():
    with pytest.raises(tr.CaptureError, match="seed_everything"):
        tr.compile(lambda x: tr.seed_everything(3), fullgraph=True)(vector(0))
