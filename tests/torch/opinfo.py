"""PyTorch as the judge: torch's own sample inputs (OpInfo), run through tracefuse and compared.

    python tests/torch/opinfo.py [--no-compile] [--verbose] [NAME ...]

For every entry of torch's `op_db` whose name tracefuse has: the float32 and float64 samples; values, gradients, second
gradients (float64), and values and gradients of the compiled function. `judge(entry)` gives the `Verdict` of one entry.
Names mean the method or function of the same name; where that means something else here, `adapters.py` says what to
call.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db

import tracefuse as tr

# float32 results of two libraries differ by their order of summation; (relative, absolute)
TOLERANCE = {"float32": (2e-4, 2e-5), "float64": (1e-7, 1e-8), "float16": (4e-3, 4e-3), "bfloat16": (3e-2, 3e-2)}
COMPILED_SAMPLES = 3  # of each entry and dtype: compiling costs a tenth of a second
GRADGRAD_SAMPLES = 12


def _sibling(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(name + ".py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adapters = _sibling("adapters")


class Skip(Exception):
    """A sample of something that tracefuse leaves out on purpose (complex numbers, sparse layouts, ...)."""


# ------------------------------------------------------------------ from torch and back


def to_tracefuse(x: Any, leaves: list | None = None) -> Any:
    """The same value for tracefuse; tensors that require grad become leaves, and are appended with their originals."""
    if isinstance(x, torch.Tensor):
        if x.is_sparse or x.layout is not torch.strided:
            raise Skip("sparse")
        if x.is_complex():
            raise Skip("complex")
        if x.is_quantized:
            raise Skip("quantized")
        t = (
            tr.asarray(x.detach().view(torch.uint16).numpy().view(tr.bfloat16.np))
            if x.dtype is torch.bfloat16
            else None
        )
        t = tr.from_numpy(x.detach().resolve_neg().numpy()) if t is None else t
        if x.requires_grad and leaves is not None:
            t.requires_grad_()
            leaves.append((x, t))
        return t
    if isinstance(x, torch.dtype):
        if x.is_complex:
            raise Skip("complex")
        return getattr(tr, str(x).removeprefix("torch."))
    if isinstance(x, torch.Size):
        return tuple(x)
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        return type(x)(to_tracefuse(v, leaves) for v in x)
    if isinstance(x, dict):
        skipped = ("device", "layout", "memory_format", "pin_memory", "generator", "out")
        return {k: to_tracefuse(v, leaves) for k, v in x.items() if k not in skipped}
    if isinstance(x, complex):
        raise Skip("complex")
    if isinstance(x, np.ndarray) or x is None or isinstance(x, (bool, int, float, str, slice, type(Ellipsis))):
        return x
    if callable(x) and getattr(x, "__module__", "").startswith("torch"):
        found = getattr(tr.nn.functional, getattr(x, "__name__", ""), None)
        if found is None:
            raise Skip(f"takes {x!r}")
        return found
    return x


def flat(x: Any) -> list[Any]:
    """The tensors and numbers in a result."""
    if isinstance(x, (list, tuple)):
        return [y for part in x for y in flat(part)]
    if isinstance(x, dict):
        return [y for part in x.values() for y in flat(part)]
    return [] if x is None else [x]


def _difference(got: Any, want: Any, coarse: bool) -> str:
    """What is wrong with `got`; empty if it is close to `want`. coarse: to the precision of float32 at best."""
    if isinstance(want, torch.Tensor):
        if not isinstance(got, tr.Tensor):
            return f"{type(got).__name__} instead of a tensor"
        dtype = str(want.dtype).removeprefix("torch.")
        if got.dtype.name != dtype:
            return f"dtype {got.dtype.name} instead of {dtype}"
        if tuple(got.shape) != tuple(want.shape):
            return f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"
        want = torch.zeros_like(want) if want._is_zerotensor() else want
        a, b = np.asarray(got.detach().numpy()), want.detach().resolve_neg().resolve_conj()
        b = b.float().numpy() if b.dtype is torch.bfloat16 else b.numpy()
    else:
        a, b, dtype = np.asarray(got), np.asarray(want), "float64"
        if a.shape != b.shape:
            return f"shape {a.shape} instead of {b.shape}"
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        return "" if np.array_equal(a, b) else f"{int((a != b).sum())} of {a.size} integers differ"
    relative, absolute = TOLERANCE.get("float32" if coarse and dtype == "float64" else dtype, (0, 0))
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.abs(b[np.isfinite(b)]).max(initial=1.0)  # sums of large terms leave errors of their size
    absolute *= size
    close = np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
    if close.all():
        return ""
    worst = np.abs(a - b)[~close]
    return (
        f"{int((~close).sum())} of {a.size} differ, by {np.nanmax(worst) if np.isfinite(worst).any() else worst[0]:.3g}"
    )


def compare(got: Any, want: Any, shapes_only: bool = False, coarse: bool = False) -> str:
    a, b = flat(got), flat(want)
    if len(a) != len(b):
        return f"{len(a)} results instead of {len(b)}"
    for x, y in zip(a, b):
        if shapes_only and isinstance(y, torch.Tensor):
            if not isinstance(x, tr.Tensor) or tuple(x.shape) != tuple(y.shape) or x.dtype.name != str(y.dtype)[6:]:
                return f"{getattr(x, 'type', type(x))} instead of {y.dtype} {tuple(y.shape)}"
        elif wrong := _difference(x, y, coarse):
            return wrong
    return ""


# ------------------------------------------------------------------ one entry


def find(name: str, variant: str = "") -> Callable | None:
    """What tracefuse calls `name`: an adapter, a function of the module of that name, a method, a function."""
    if f"{name}.{variant}" in adapters.ADAPTERS:
        return adapters.ADAPTERS[f"{name}.{variant}"]
    if name in adapters.ADAPTERS:
        return adapters.ADAPTERS[name]
    *path, last = name.split(".")
    if name.startswith("torch.") or name in adapters.LEFT_OUT:
        return None
    home: Any = tr
    for part in path:
        try:
            home = getattr(home, part, None)
        except ImportError:
            return None
        if home is None:
            return None
    if not path and hasattr(tr.Tensor, last):
        method = getattr(tr.Tensor, last)
        if isinstance(method, property):
            return lambda x: getattr(x, last)
        return method
    found = getattr(home, last, None)
    return found if callable(found) else None


@dataclass
class Verdict:
    """What the samples of one entry gave. failures: (sample, kind of check, what is wrong)."""

    name: str
    entry: str = ""
    samples: int = 0
    passed: int = 0
    skipped: Counter = field(default_factory=Counter)
    failures: list[tuple[str, str, str]] = field(default_factory=list)


def entries() -> Iterator[Any]:
    """The entries that tracefuse has. Several may share one name (variants)."""
    for op in op_db:
        if find(op.name, op.variant_test_name) is not None and (
            torch.float32 in op.dtypes or torch.float64 in op.dtypes
        ):
            yield op


def _cotangents(outs: list[Any], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.5, 1.5, tuple(o.shape)) for o in outs]


def _torch_grads(outs: list, inputs: list, seed: int, create: bool) -> list:
    gs = [torch.as_tensor(c).to(o.dtype) for c, o in zip(_cotangents(outs, seed), outs)]
    found = torch.autograd.grad(outs, inputs, gs, create_graph=create, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs)]


def _our_grads(outs: list, inputs: list, seed: int, create: bool) -> list:
    """Zeros where nothing depends on an input."""
    weighted = [(o, tr.asarray(c.astype(o.dtype.np))) for c, o in zip(_cotangents(outs, seed), outs) if o.requires_grad]
    if not weighted:
        return [tr.zeros_like(x) for x in inputs]
    outs, gs = map(list, zip(*weighted))
    found = tr.autograd.grad(outs, inputs, gs, create_graph=create, allow_unused=True, retain_graph=True)
    return [tr.zeros_like(x) if g is None else g for g, x in zip(found, inputs)]


def _with_history(outs: list) -> list[int]:
    return [i for i, o in enumerate(outs) if isinstance(o, torch.Tensor) and o.requires_grad and not o.is_complex()]


def _run_sample(op: Any, ours: Callable, sample: Any, dtype: torch.dtype, number: int, compiled: bool) -> str:
    """Raises Skip. Returns "" or "kind: what is wrong"."""
    leaves: list = []
    wants_grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    x, args, kwargs = (to_tracefuse(v, leaves) for v in (sample.input, sample.args, sample.kwargs))
    random = op.name in adapters.RANDOM or sample.kwargs.get("dropout_p", 0) > 0
    wrapper = op.gradcheck_wrapper
    if "hermitian" not in wrapper.__name__ and "triangular" not in wrapper.__name__:
        wrapper = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = op.op if wrapper is None else lambda *a, **k: wrapper(op.op, *a, **k)
            want = call(sample.input, *sample.args, **sample.kwargs)
    except Exception as e:
        raise Skip(f"torch itself: {type(e).__name__}") from None
    if any(isinstance(w, torch.Tensor) and (w.is_complex() or w.layout is not torch.strided) for w in flat(want)):
        raise Skip("complex or sparse result")
    fn = ours if wrapper is None else lambda *a, **k: wrapper(ours, *a, **k)
    step = "value"
    coarse = any(t.dtype is tr.float32 for _, t in leaves)  # torch computes weights of narrower types in those
    try:
        got = fn(x, *args, **kwargs)
        unique = adapters.COMPARED.get(op.name, lambda out: out)
        if wrong := compare(unique(got), unique(want), random, coarse):
            return f"value: {wrong}"
        pick = _with_history(flat(want)) if wants_grad and leaves and not random else []
        process = sample.output_process_fn_grad
        inputs = [t for t, _ in leaves]
        mine = [t for _, t in leaves]
        if pick:
            step = "gradient"
            if process:
                want, got = process(want), process(got)
                pick = _with_history(flat(want))
            outs, our_outs = [flat(want)[i] for i in pick], [flat(got)[i] for i in pick]
            second = dtype is torch.float64 and op.supports_gradgrad and number < GRADGRAD_SAMPLES
            try:
                g_want = _torch_grads(outs, inputs, 1, second)
            except (RuntimeError, NotImplementedError):
                pick = []
        if pick:
            g_got = _our_grads(our_outs, mine, 1, second)
            if wrong := compare(g_got, g_want, coarse=coarse):
                return f"gradient: {wrong}"
            again = _with_history(g_want)
            if second and again:
                step = "gradgrad"
                try:
                    gg_want = _torch_grads([g_want[i] for i in again], inputs, 2, False)
                except (RuntimeError, NotImplementedError):
                    gg_want = None
                if gg_want is not None:
                    gg_got = _our_grads([g_got[i] for i in again], mine, 2, False)
                    if wrong := compare(gg_got, gg_want, coarse=coarse):
                        return f"gradgrad: {wrong}"
        if compiled:
            step = "compiled"
            return _run_compiled(
                ours, x, args, kwargs, mine if pick and process is not None else [], got, random, wrapper
            )
    except Exception as e:
        message = str(e).split("\n")[0][:150]
        return f"{step}: {type(e).__name__}: {message}"
    return ""


def _run_compiled(
    ours: Callable, x: Any, args: Any, kwargs: Any, mine: list, got: Any, random: bool, wrapper: Any
) -> str:
    def call(x, args, kwargs):
        return ours(x, *args, **kwargs)

    if wrapper is not None:
        return ""
    with tr.no_grad():
        plain = ours(x, *args, **kwargs)
        compiled = tr.compile(call)(x, args, kwargs)
    for a, b in zip(flat(compiled), flat(plain), strict=True):
        if isinstance(b, tr.Tensor):
            if a.dtype is not b.dtype or a.shape != b.shape:
                return f"compiled: {a.type} instead of {b.type}"
            relative, absolute = TOLERANCE.get(b.dtype.name, (0, 0))
            if not random and not np.allclose(
                a.numpy().astype(np.float64), b.numpy().astype(np.float64), relative, absolute, equal_nan=True
            ):
                return "compiled: values differ from eager ones"
    return "" if random or not mine else _compiled_gradients(call, (x, args, kwargs), mine)


def _compiled_gradients(call: Callable, operands: tuple, mine: list) -> str:
    """Gradients through the compiled function against those through the eager one."""
    found = []
    for fn in (call, tr.compile(call)):
        outs = [o for o in flat(fn(*operands)) if isinstance(o, tr.Tensor) and o.requires_grad and o.dtype.is_floating]
        found.append(_our_grads(outs, mine, 1, False) if outs else [])
    for a, b in zip(*found, strict=True):
        relative, absolute = (10 * t for t in TOLERANCE.get(b.dtype.name, (1e-5, 1e-6)))
        w, g = (v.detach().numpy().astype(np.float64) for v in (a, b))
        if not np.allclose(g, w, relative, absolute * max(1.0, np.nanmax(np.abs(w), initial=0.0)), equal_nan=True):
            return "compiled: gradients differ from eager ones"
    return ""


def judge(
    op: Any, compiled: bool = True, most: int | None = None, dtypes: tuple = (torch.float32, torch.float64)
) -> Verdict:
    """Runs the samples of one entry (at most `most` of each dtype)."""
    ours = find(op.name, op.variant_test_name)
    assert ours is not None
    out = Verdict(f"{op.name}{'.' + op.variant_test_name if op.variant_test_name else ''}", op.name)
    for dtype in dtypes:
        if dtype not in op.supported_dtypes("cpu"):
            continue
        wants_grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        torch.manual_seed(0)
        samples = list(islice(op.sample_inputs("cpu", dtype, requires_grad=wants_grad), most))
        step = max(1, len(samples) // COMPILED_SAMPLES)
        for i, sample in enumerate(samples):
            try:
                if reason := adapters.known(out.name, str(dtype)[6:], i):
                    raise Skip(f"known: {reason}")
                wrong = _run_sample(op, ours, sample, dtype, i, compiled and i % step == 0)
            except Skip as e:
                out.skipped[str(e)] += 1
                continue
            out.samples += 1
            if wrong:
                kind, _, what = wrong.partition(": ")
                out.failures.append((f"{str(dtype)[6:]}#{i}", kind, what))
            else:
                out.passed += 1
    return out


# ------------------------------------------------------------------ the report


def report(verdicts: list[Verdict], verbose: bool = False) -> str:
    """Counts, then each failing entry with its reasons."""
    run = [v for v in verdicts if v.samples]
    names = {v.entry for v in run}
    samples, passed = sum(v.samples for v in run), sum(v.passed for v in run)
    lines = [
        f"{len(run)} entries under {len(names)} names covered, {passed} of {samples} samples passed ({100 * passed / max(samples, 1):.2f} %), "
        f"{sum(not v.failures for v in run)} entries without a failure"
    ]
    kinds = Counter(kind for v in run for _, kind, _ in v.failures)
    lines.append("failures by kind: " + (", ".join(f"{k} {n}" for k, n in kinds.most_common()) or "none"))
    skipped = Counter()
    for v in verdicts:
        skipped.update(v.skipped)
    lines.append("samples left out: " + (", ".join(f"{k} {n}" for k, n in skipped.most_common()) or "none"))
    for v in run:
        if v.failures:
            shown = v.failures if verbose else v.failures[:2]
            lines.append(f"  {v.name}: {v.passed}/{v.samples}")
            lines += [f"      {sample} {kind}: {what}" for sample, kind, what in shown]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="entries to run (a trailing * matches a prefix); all by default")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--missing", action="store_true", help="list the names that tracefuse lacks")
    given = parser.parse_args()
    if given.missing:
        print(" ".join(sorted({o.name for o in op_db if find(o.name) is None and o.name not in adapters.LEFT_OUT})))
        return 0
    torch.set_num_threads(1)

    def chosen(name: str) -> bool:
        return not given.names or any(name == n or n.endswith("*") and name.startswith(n[:-1]) for n in given.names)

    verdicts = []
    for op in entries():
        if chosen(op.name):
            start = time.monotonic()
            verdicts.append(judge(op, compiled=not given.no_compile))
            if given.verbose:
                print(f"{verdicts[-1].name} {time.monotonic() - start:.1f} s", file=sys.stderr)
    print(report(verdicts, given.verbose))
    return 0


if __name__ == "__main__":
    sys.exit(main())
