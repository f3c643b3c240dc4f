"""PyTorch's own ModuleInfo samples, run by both libraries: same state dicts, outputs, gradients; eager and compiled."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tracefuse.frontend import nn
from tracefuse.frontend.nn import functional as F
from tracefuse.frontend.nn.utils.rnn import PackedSequence

import tracefuse as tr

# PyTorch gives the gradient of a log_softmax's input to its output: compared behind a log_softmax, where they agree.
OF_LOG_SOFTMAX = ("nn.CTCLoss",)


def entries() -> list[Any]:
    """The ModuleInfos whose name tracefuse has."""
    from torch.testing._internal.common_modules import module_db

    return [m for m in module_db if hasattr(nn, m.name.split(".")[-1])]


def samples(info: Any, dtype: Any, training: bool) -> Iterator[Any]:
    """The module inputs of an entry; `training` where the entry makes a difference of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)


def ours(x: Any, seen: dict[int, Any] | None = None) -> Any:
    """Arguments of a torch module as tracefuse takes them: tensors (one that occurs twice stays one), modules,
    functions by their names."""
    import torch

    seen = {} if seen is None else seen
    if isinstance(x, torch.Tensor):
        if id(x) not in seen:
            seen[id(x)] = tr.tensor(x.detach().numpy().copy(), requires_grad=x.requires_grad)
        return seen[id(x)]
    if isinstance(x, torch.nn.utils.rnn.PackedSequence):
        return PackedSequence(*(ours(t, seen) for t in x))
    if isinstance(x, torch.nn.TransformerEncoderLayer):
        sizes = (x.linear1.in_features, x.self_attn.num_heads, x.linear1.out_features, x.dropout.p, ours(x.activation))
        first = {"batch_first": x.self_attn.batch_first, "norm_first": x.norm_first}
        return nn.TransformerEncoderLayer(*sizes, x.norm1.eps, **first, bias=x.linear1.bias is not None)
    if isinstance(x, torch.dtype):
        return getattr(tr, str(x).split(".")[1])
    if isinstance(x, (list, tuple)):
        return type(x)(ours(v, seen) for v in x)
    if isinstance(x, dict):
        return {k: ours(v, seen) for k, v in x.items()}
    if callable(x) and getattr(torch.nn.functional, getattr(x, "__name__", ""), None) is x:
        return getattr(F, x.__name__)
    return x


def leaf(x: Any, seen: dict[int, Any]) -> Any:
    """The same arguments with tensors that keep their own gradients."""
    import torch

    if isinstance(x, torch.Tensor):
        if id(x) not in seen:
            seen[id(x)] = x.detach().clone().requires_grad_(x.requires_grad)
        return seen[id(x)]
    if isinstance(x, torch.nn.utils.rnn.PackedSequence):
        return type(x)(*(leaf(t, seen) for t in x))
    if isinstance(x, (list, tuple)):
        return type(x)(leaf(v, seen) for v in x)
    return {k: leaf(v, seen) for k, v in x.items()} if isinstance(x, dict) else x


def leaves(x: Any) -> list[Any]:
    """All tensors of a nested value, of either library."""
    import torch

    if isinstance(x, (torch.Tensor, tr.Tensor)):
        return [x]
    if isinstance(x, dict):
        return [t for v in x.values() for t in leaves(v)]
    return [t for v in x for t in leaves(v)] if isinstance(x, (list, tuple)) else []


def array(t: Any) -> np.ndarray:
    return np.asarray(t.detach())


def pair(info: Any, sample: Any, dtype: Any, training: bool) -> tuple[Any, Any]:
    """(torch's module, ours with its weights). Their state dicts have the same names and shapes."""
    import torch

    args, kwargs = sample.constructor_input.args, dict(sample.constructor_input.kwargs)
    if "dtype" in inspect.signature(info.module_cls.__init__).parameters:
        kwargs.setdefault("dtype", dtype)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = info.module_cls(*copy.deepcopy(args), **copy.deepcopy(kwargs)).to(dtype)
    mine = getattr(nn, info.name.split(".")[-1])(*ours(args), **ours(kwargs)).to(ours(dtype))
    if "Lazy" in info.name:  # both get their parameters now
        theirs(*leaf(sample.forward_input.args, {}))
        mine.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    state = theirs.state_dict()
    assert {k: tuple(v.shape) for k, v in mine.state_dict().items()} == {k: tuple(v.shape) for k, v in state.items()}
    assert list(mine.state_dict()) == list(state), "the order of the state dict"
    mine.load_state_dict({k: v.numpy() for k, v in state.items()})
    return theirs.train(training), mine.train(training)


def close(name: str, a: Any, b: Any, tolerance: float) -> None:
    assert (a is None) == (b is None), f"{name}: {a} against {b}"
    if a is not None:
        a, b = array(a), array(b)
        assert a.shape == b.shape, f"{name}: shape {a.shape} against {b.shape}"
        scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0))) if b.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def check(info: Any, sample: Any, dtype: Any, training: bool) -> None:
    """AssertionError unless outputs, gradients and buffers agree."""
    import torch

    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    theirs, mine = pair(info, sample, dtype, training)
    args, kwargs = leaf((sample.forward_input.args, dict(sample.forward_input.kwargs)), {})
    my_args, my_kwargs = ours((args, kwargs), {})
    outs, my_outs = leaves(theirs(*args, **kwargs)), leaves(mine(*my_args, **my_kwargs))
    assert len(outs) == len(my_outs), f"{len(my_outs)} results against {len(outs)}"
    for i, (a, b) in enumerate(zip(my_outs, outs)):
        close(f"result {i}", a, b, tolerance)
    pulls = [(a, b) for a, b in zip(my_outs, outs) if b.requires_grad]
    if not pulls:
        return
    rng = np.random.default_rng(0)
    seeds = [np.asarray(rng.standard_normal(tuple(b.shape))).astype(array(b).dtype) for _, b in pulls]
    inputs = [(a, b) for a, b in zip(leaves((my_args, my_kwargs)), leaves((args, kwargs))) if b.requires_grad]
    torch.autograd.backward([b for _, b in pulls], [torch.tensor(s) for s in seeds])
    tr.autograd.backward([a for a, _ in pulls], [tr.tensor(s) for s in seeds])
    for i, (a, b) in enumerate(inputs):
        if info.name in OF_LOG_SOFTMAX:
            for t in (a, b):
                t.grad = t.grad - t.detach().exp() * t.grad.sum(-1)[..., None]
        close(f"gradient of input {i}", a.grad, b.grad, 10 * tolerance)
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters()):
        close(f"gradient of {name}", a.grad, b.grad, 10 * tolerance)
    for (name, a), (_, b) in zip(mine.named_buffers(), theirs.named_buffers()):
        close(f"buffer {name}", a, b, tolerance)


def check_compiled(info: Any, sample: Any, dtype: Any, training: bool) -> None:
    """AssertionError unless the compiled module gives what the eager one gives, in one graph."""
    import torch

    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    _, mine = pair(info, sample, dtype, training)
    other = copy.deepcopy(mine)
    given = (sample.forward_input.args, dict(sample.forward_input.kwargs))
    (args, kwargs), (args2, kwargs2) = ours(given, {}), ours(given, {})
    step = tr.compile(_with_gradients(other), fullgraph=True)
    expected = _with_gradients(mine)(*args, **kwargs)
    for i, (a, b) in enumerate(zip(leaves(step(*args2, **kwargs2)), leaves(expected), strict=True)):
        close(f"compiled result {i}", a, b, tolerance)
    for (name, a), (_, b) in zip(other.named_parameters(), mine.named_parameters()):
        close(f"compiled gradient of {name}", a.grad, b.grad, 10 * tolerance)


def _with_gradients(module: Any) -> Callable[..., Any]:
    def run(*args, **kwargs):
        out = module(*args, **kwargs)
        total = None
        for t in out if isinstance(out, tuple) else (out,):
            if isinstance(t, tr.Tensor) and t.dtype.is_floating and t.requires_grad:
                part = (t * t).sum()
                total = part if total is None else total + part
        if total is not None:
            total.backward()
        return out

    return run
