"""One table of what a GPU does with tracefuse's kernels, models and training steps, beside PyTorch and JAX where they are
installed and see the GPU.

    python benchmarks/gpu.py [--only memory,matmul,attention,gpt2,resnet,mlp] [--rounds 10] [--json FILE]

"of the limit": for memory-bound kernels the share of what a copy on the device reaches with as many bytes, for products of
PyTorch's library call. On a machine without a GPU it says so; `--tiny` runs everything on small sizes, with
TRACEFUSE_CUDA=interpret on any machine, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gpu_nets as models
import numpy as np
import tracefuse.nn.functional as F
from common import in_turns, median, peer, quick, setting, table

import tracefuse as tr
from tracefuse import optim

Call = Callable[[], Any]


@dataclass
class Row:
    """seconds: median of a call, by side. limit: share of the limit that tracefuse reaches, None where there is none."""

    what: str
    seconds: dict[str, float]
    limit: float | None = None


class Bench:
    def __init__(self, tiny: bool, rounds: int):
        self.tiny, self.rounds = tiny, rounds
        self.rows: list[Row] = []
        torch, jax = peer("torch"), peer("jax")
        self.torch = torch if torch is not None and torch.cuda.is_available() else None
        self.jax = jax if jax is not None and not tiny and any(d.platform == "gpu" for d in jax.devices()) else None

    def size(self, full: Any, tiny: Any) -> Any:
        return tiny if self.tiny else full

    def timed(self, sides: dict[str, Call], repeats: int) -> dict[str, float]:
        """Seconds a call, of `repeats` that are queued one after the other."""

        def queued(call: Call) -> Call:
            def run() -> None:
                for _ in range(repeats):
                    call()
                tr.cuda.synchronize()
                if self.torch is not None:
                    self.torch.cuda.synchronize()

            return run

        for call in sides.values():  # compiles; and what is done after the third call is done
            for _ in range(4):
                call()
        times = in_turns({k: queued(c) for k, c in sides.items()}, self.rounds)
        return {k: median(t) / repeats for k, t in times.items()}

    def add(
        self, what: str, sides: dict[str, Call], repeats: int = 20, limit: Callable[[dict], float] | None = None
    ) -> None:
        seconds = self.timed(sides, 1 if self.tiny else repeats)
        self.rows.append(Row(what, seconds, None if limit is None else limit(seconds)))
        print(self.line(self.rows[-1]), flush=True)

    def line(self, row: Row) -> str:
        times = ", ".join(f"{k} {quick(s)}" for k, s in row.seconds.items())
        return f"{row.what}: {times}" + ("" if row.limit is None else f"; {row.limit:.0%} of the limit")

    def torch_of(self, x: Any) -> Any:
        """A tensor's numbers on PyTorch's side, copied."""
        assert self.torch is not None
        return self.torch.from_dlpack(x).clone()

    # ---- memory-bound kernels
    def memory(self) -> None:
        n = self.size(1 << 28, 1 << 12)
        rows, columns = self.size((1 << 16, 1 << 12), (8, 64))
        x, y = tr.randn(n, device="cuda"), tr.randn(n, device="cuda")
        copied = self.timed({"copy": lambda: y.copy_(x)}, 1 if self.tiny else 20)["copy"]
        bandwidth = 2 * n * 4 / copied  # bytes a second, read and written
        self.rows.append(Row(f"copy of {quantity(4 * n)} ({bandwidth / 1e12:.2f} TB/s)", {"tracefuse": copied}, 1.0))
        m = tr.randn(rows, columns, device="cuda")
        w = tr.ones(columns, device="cuda")
        half = m.to(tr.bfloat16)
        cases: list[tuple[str, Callable, tuple, int]] = [
            ("gelu(x + y) f32", lambda lib, f, a, b: f.gelu(a + b), (x, y), 3 * n * 4),
            ("sum f32", lambda lib, f, a: a.sum(), (x,), n * 4),
            ("softmax f32", lambda lib, f, a: f.softmax(a, -1), (m,), 2 * m.nbytes),
            ("layer_norm f32", lambda lib, f, a, b: f.layer_norm(a, (columns,), b), (m, w), 2 * m.nbytes),
            ("softmax bf16", lambda lib, f, a: f.softmax(a, -1), (half,), 2 * half.nbytes),
            ("sum of columns f32", lambda lib, f, a: a.sum(0), (m,), m.nbytes),
            ("transpose + add f32", lambda lib, f, a: (a.T + 1.0).contiguous(), (m,), 2 * m.nbytes),
        ]
        for name, function, args, nbytes in cases:
            ours = tr.compile(lambda *a, g=function: g(tr, F, *a), fullgraph=True)
            sides: dict[str, Call] = {"tracefuse": lambda: ours(*args)}
            if self.torch is not None:
                torch, theirs = self.torch, [self.torch_of(a) for a in args]
                compiled = torch.compile(lambda *a, g=function: g(torch, torch.nn.functional, *a))
                sides["torch.compile"] = lambda: compiled(*theirs)
            self.add(name, sides, limit=lambda s, b=nbytes: b / s["tracefuse"] / bandwidth)

    # ---- products
    def matmul(self) -> None:
        for name, n in self.size((("8192", 8192), ("4096", 4096), ("1024", 1024)), (("64", 64),)):
            for dtype in ("bfloat16", "float32"):
                a, b = (tr.randn(n, n, device="cuda").to(getattr(tr, dtype)) for _ in range(2))
                ours = tr.compile(lambda a, b: a @ b, fullgraph=True, mode="default" if self.tiny else "max")
                sides: dict[str, Call] = {"tracefuse": lambda: ours(a, b)}
                limit = None
                if self.torch is not None:
                    x, y = self.torch_of(a), self.torch_of(b)
                    sides["torch"] = lambda: x @ y
                    limit = lambda s: s["torch"] / s["tracefuse"]  # noqa: E731
                self.add(f"matmul {dtype} {name}", sides, limit=limit)

    def attention(self) -> None:
        shapes = self.size(((8, 12, 1024, 64), (4, 16, 4096, 128)), ((1, 2, 32, 16),))
        for shape in shapes:
            for causal in (False, True):
                q, k, v = (tr.randn(*shape, device="cuda").to(tr.bfloat16) for _ in range(3))
                ours = tr.compile(
                    lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c), fullgraph=True
                )
                sides: dict[str, Call] = {"tracefuse": lambda: ours(q, k, v)}
                limit = None
                if self.torch is not None:
                    theirs = [self.torch_of(x) for x in (q, k, v)]
                    fused = self.torch.nn.functional.scaled_dot_product_attention
                    sides["torch"] = lambda c=causal: fused(*theirs, is_causal=c)
                    limit = lambda s: s["torch"] / s["tracefuse"]  # noqa: E731
                self.add(f"attention bf16 {list(shape)}{' causal' * causal}", sides, limit=limit)

    # ---- models
    def gpt2(self) -> None:
        """Forward, bfloat16."""
        full = dict(vocabulary=50257, length=1024, width=768, depth=12, heads=12)
        sizes = self.size(full, dict(vocabulary=50, length=16, width=16, depth=1, heads=2))
        batch = self.size(8, 1)
        numbers = np.random.default_rng(0).integers(0, sizes["vocabulary"], (batch, sizes["length"]))
        net = models.gpt2(tr, **sizes).to("cuda", tr.bfloat16)
        tokens = tr.asarray(numbers, device="cuda")
        ours = tr.compile(lambda x: net(x), fullgraph=True)

        def without_gradients(call: Call, lib: Any) -> Call:
            def run() -> Any:
                with lib.no_grad():
                    return call()

            return run

        sides: dict[str, Call] = {"tracefuse": without_gradients(lambda: ours(tokens), tr)}
        if self.torch is not None:
            torch = self.torch
            theirs = models.gpt2(torch, **sizes).cuda().bfloat16()
            theirs.load_state_dict({k: self.torch_of(v.detach()) for k, v in net.state_dict().items()})
            x = torch.from_numpy(numbers).cuda()
            compiled = torch.compile(theirs)
            sides["torch eager"] = without_gradients(lambda: theirs(x), torch)
            sides["torch.compile"] = without_gradients(lambda: compiled(x), torch)
        if self.jax is not None:
            jax = self.jax
            params = {
                k: jax.numpy.asarray(v.detach().to(tr.float32).cpu().numpy(), "bfloat16")
                for k, v in net.state_dict().items()
            }
            jitted, given = jax.jit(models.gpt2_in_jax(jax, heads=sizes["heads"])), jax.numpy.asarray(numbers)
            sides["jax.jit"] = lambda: jitted(params, given).block_until_ready()
        self.add(f"GPT-2 small forward bf16, batch {batch}", sides, repeats=5)

    def resnet(self) -> None:
        """A training step, float32 with TF32 products on both sides."""
        full = dict(depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), classes=1000)
        sizes = self.size(full, dict(depths=(1,), widths=(4,), classes=5))
        batch, pixels = self.size((64, 224), (2, 16))
        images = np.random.default_rng(0).standard_normal((batch, 3, pixels, pixels)).astype(np.float32)
        labels = np.random.default_rng(1).integers(0, sizes["classes"], batch)
        sides: dict[str, Call] = {}

        def step_of(lib: Any, net: Any, opt: Any, x: Any, y: Any) -> Call:
            def step() -> Any:
                loss = lib.nn.functional.cross_entropy(net(x), y)
                loss.backward()
                opt.step()
                opt.zero_grad()
                return loss

            return step

        before = tr.get_float32_matmul_precision()
        try:
            tr.set_float32_matmul_precision("high")
            net = models.resnet(tr, **sizes).to("cuda")
            opt = optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
            x, y = tr.asarray(images, device="cuda"), tr.asarray(labels, device="cuda")
            sides["tracefuse"] = tr.compile(step_of(tr, net, opt, x, y), fullgraph=True)
            if self.torch is not None:
                torch = self.torch
                torch.set_float32_matmul_precision("high")
                torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
                xt, yt = torch.from_numpy(images).cuda(), torch.from_numpy(labels).cuda()
                for name in ("torch eager", "torch.compile"):
                    theirs = models.resnet(torch, **sizes).cuda()
                    theirs_opt = torch.optim.SGD(theirs.parameters(), lr=1e-3, momentum=0.9)
                    module = torch.compile(theirs) if name == "torch.compile" else theirs
                    sides[name] = step_of(torch, module, theirs_opt, xt, yt)
            self.add(f"ResNet-50 training step TF32, batch {batch}", sides, repeats=3)
        finally:
            tr.set_float32_matmul_precision(before)

    def mlp(self) -> None:
        """A training step with batch 1: nothing but launches."""
        sizes = self.size(dict(width=256, depth=6), dict(width=8, depth=2))
        net = models.mlp(tr, **sizes).to("cuda")
        opt = optim.SGD(net.parameters(), lr=1e-3)
        x = tr.ones(1, sizes["width"], device="cuda")

        def step(x: Any) -> Any:
            loss = (net(x) ** 2).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        ours = tr.compile(step, fullgraph=True, options={"cuda_graphs": True})
        sides: dict[str, Call] = {"tracefuse": lambda: ours(x)}
        if self.torch is not None:
            torch = self.torch
            theirs = models.mlp(torch, **sizes).cuda()
            theirs_opt = torch.optim.SGD(theirs.parameters(), lr=1e-3)
            xt = torch.ones(1, sizes["width"], device="cuda")

            def torch_step() -> Any:
                theirs_opt.zero_grad(set_to_none=True)
                loss = (theirs(xt) ** 2).mean()
                loss.backward()
                theirs_opt.step()
                return loss

            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    torch_step()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                torch_step()
            sides["torch CUDA graph"] = graph.replay
        self.add("MLP training step, batch 1", sides, repeats=200)


PARTS = ("memory", "matmul", "attention", "gpt2", "resnet", "mlp")


def quantity(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.0f} MB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    if not tr.cuda.is_available():
        print(f"no GPU: {tr.cuda.why_not()}")
        return 0
    bench = Bench(args.tiny, 2 if args.tiny else args.rounds)
    properties = tr.cuda.get_device_properties()
    title = f"{properties.name}, compute capability {'.'.join(map(str, properties.capability))}; {setting('triton', 'torch', 'jax')}"
    print(title, flush=True)
    for part in args.only.split(","):
        if part not in PARTS:
            parser.error(f"{part} is not one of {', '.join(PARTS)}")
        try:
            getattr(bench, part)()
        except Exception as e:  # the others are still worth having
            print(f"{part} failed: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            if args.tiny:
                raise
    names = list(dict.fromkeys(k for r in bench.rows for k in r.seconds))
    rows = [
        [
            r.what,
            *(quick(r.seconds[k]) if k in r.seconds else "" for k in names),
            "" if r.limit is None else f"{r.limit:.0%}",
        ]
        for r in bench.rows
    ]
    print("\n" + table(title, ["", *names, "of the limit"], rows))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"setting": title, "rows": [asdict(r) for r in bench.rows]}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
