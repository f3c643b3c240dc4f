"""PyTorch's ModuleInfo samples as the judge of nn: see `nn_against_torch`."""

import sys
from collections import Counter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")
sys.path.insert(0, str(Path(__file__).parent))

import nn_against_torch as judge  # noqa: E402

ENTRIES = judge.entries()
IDS = [m.name for m in ENTRIES]
SIZEABLE = ("nn.CTCLoss", "nn.Transformer", "nn.TransformerEncoder", "nn.GRU", "nn.LSTM", "nn.RNN")


def test_most_modules_of_torch_are_there():
    from torch.testing._internal.common_modules import module_db

    missing = {m.name for m in module_db} - set(IDS)
    assert len(ENTRIES) >= 113, missing


@pytest.mark.parametrize("info", [m for m in ENTRIES if m.name not in SIZEABLE], ids=lambda m: m.name)
def test_the_first_samples_agree(info):
    for sample, _ in zip(judge.samples(info, torch.float32, True), range(2)):
        judge.check(info, sample, torch.float32, True)


@pytest.mark.parametrize("name", [
    "nn.Conv2d", "nn.GRUCell", "nn.CrossEntropyLoss", "nn.MultiMarginLoss", "nn.FractionalMaxPool2d",
    "nn.LocalResponseNorm", "nn.CircularPad2d",
])  # fmt: skip
def test_some_compiled_modules_agree_with_eager_ones(name):
    info = ENTRIES[IDS.index(name)]
    judge.check_compiled(info, next(judge.samples(info, torch.float32, True)), torch.float32, True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_samples_agree(dtype, capsys):
    _run_all(judge.check, dtype, None, "eager", capsys)


@pytest.mark.slow
def test_compiled_modules_agree_with_eager_ones(capsys):
    _run_all(judge.check_compiled, torch.float32, 2, "compiled", capsys)


def _run_all(check, dtype, limit, what, capsys):
    """Every entry's samples (the first `limit`) in both modes; prints the counts, and fails with all that differed."""
    counts, failures = Counter(), []
    for info in ENTRIES:
        for training in (True, False):
            for i, sample in enumerate(judge.samples(info, dtype, training)):
                if limit is not None and i >= limit:
                    break
                counts["samples"] += 1
                try:
                    check(info, sample, dtype, training)
                    counts["passed"] += 1
                except Exception as e:  # noqa: BLE001  all of them are collected
                    failures.append(f"{info.name} sample {i} {sample.desc} training={training}: {str(e)[:200]}")
    with capsys.disabled():
        n = len(ENTRIES)
        print(f"\n{what}, {dtype}: {n} modules, {counts['passed']} of {counts['samples']} samples agree")
    assert not failures, "\n".join(failures)
