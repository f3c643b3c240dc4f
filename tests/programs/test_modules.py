"""Modules, parameters and optimizers that a call makes, and hands out or not."""

import sys
from pathlib import Path

import pytest

import tracefuse as tr
from tracefuse import nn, optim

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, described, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.width = nn.Linear(3, width), width
        self.register_buffer("shift", tr.ones(width))
        self.scale = nn.Parameter(tr.zeros(width))
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])

    def forward(self, x):
        x = self.first(x) + self.shift * self.scale
        for layer in self.layers:
            x = tr.relu(layer(x))
        return x * self.width


@program()
def functions_as_modules():
    return lambda x: (nn.ReLU()(x) + nn.Softmax(dim=-1)(x), nn.MSELoss()(x, x * 2)), None


@program()
def a_module_of_the_users():
    return lambda x: Net(4)(x), None


@program()
def a_module_that_comes_out():
    def f(x):
        with tr.no_grad():
            net = Net(2)
            y = net(x)
            net.width = 5
            net.eval()
        return net, y, [name for name, _ in net.named_parameters()], net.training

    return f, None


@program()
def modules_of_the_library_that_come_out():
    def f(x):
        with tr.no_grad():
            net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))
            y = net(x.reshape(1, 3).expand(4, 3))
        return net, y, nn.ModuleDict({"a": nn.Linear(1, 1)}), nn.ParameterList([nn.Parameter(x * 2)])

    return f, None


@program(traces=2)
def a_module_that_is_made_once():
    box = Box(net=None)

    def f(x):
        if box.net is None:
            box.net = nn.Linear(3, 2)
        with tr.no_grad():
            return box.net(x)

    return f, box


@program()
def a_module_from_outside_in_a_new_one():
    inner = nn.Linear(3, 3)

    def f(x):
        net = nn.Sequential(inner, nn.ReLU(), nn.Linear(3, 2))
        with tr.no_grad():
            return net(x)

    return f, inner


@program(n=3)
def recurrent_and_attention_modules():
    def f(x):
        with tr.no_grad():
            h, _ = nn.LSTM(3, 4)(x.reshape(1, 1, 3))
            return h, nn.TransformerEncoderLayer(4, 2, 8)(h)

    return f, None


@program()
def a_training_loop_inside():
    def f(x):
        net = nn.Linear(3, 1)
        opt = optim.Adam(net.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            loss = (net(x) ** 2).sum()
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.detach())
        return losses, [p.detach() for p in net.parameters()]

    return f, None


@program()
def a_parameter_that_follows_the_argument():
    def f(x):
        w = nn.Parameter(tr.zeros(3))
        opt = optim.SGD([w], lr=0.1)
        for _ in range(3):
            loss = ((w - x) ** 2).sum()
            loss.backward()
            opt.step()
            opt.zero_grad()
        return w.detach()

    return f, None


@program()
def gradients_of_old_and_new_parameters():
    net = nn.Linear(3, 3)

    def f(x):
        head = nn.Linear(3, 2)
        head(net(x)).sum().backward()
        grads = net.weight.grad, head.weight.grad
        net.zero_grad()
        return grads

    return f, net


@program()
def leaves_that_come_out():
    def f(x):
        w = tr.ones(3, requires_grad=True)
        (w * x).sum().backward()
        return w, w.grad, nn.Parameter(tr.zeros(2)), nn.Parameter(x * 3, requires_grad=False), {"w": w}

    return f, None


@program()
def a_parameter_around_an_argument():
    def f(x):
        w = nn.Parameter(x)
        with tr.no_grad():
            w.add_(1)
        return x * 2, w, w.detach()

    return f, None


@program()
def hooks_of_a_new_module():
    def f(x):
        net = nn.Linear(3, 2)
        net.register_forward_hook(lambda m, args, out: out * 2)
        with tr.no_grad():
            return net(x)

    return f, None


def test_histories_that_lead_to_new_parameters():
    net = nn.Linear(3, 3)

    def f(x):
        return nn.Linear(3, 2)(net(x)).sum()

    compiled, grads = tr.compile(f, fullgraph=True), []
    for g in (f, compiled, compiled):
        tr.manual_seed(0)
        net.zero_grad()
        g(vector(0)).backward()
        grads.append(described(net.weight.grad))
    assert grads[0] == grads[1] == grads[2]
    alone = tr.compile(lambda x: nn.Linear(3, 2)(x).sum(), fullgraph=True)
    for _ in range(2):
        alone(vector(0)).backward()


def test_a_new_parameter_and_its_history_do_not_come_out_together():
    def f(x):
        net = nn.Linear(3, 2)
        return net, net(x)

    with pytest.raises(tr.CaptureError, match="a tensor whose history leads to it"):
        tr.compile(f, fullgraph=True)(vector(0))
    with pytest.warns(tr.CaptureWarning):
        net, y = tr.compile(f)(vector(0))
    y.sum().backward()
    assert net.bias.grad.tolist() == [1.0, 1.0]
