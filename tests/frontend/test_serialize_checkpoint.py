"""Checkpoints: training that goes on from one computes the bits that it would have computed anyway."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tracefuse.frontend import data, nn, optim, random_state
from tracefuse.frontend.nn import functional as F
from tracefuse.frontend.tensor_file import InvalidTensorFile

import tracefuse as tr


class Noisy(data.Dataset):
    """Eight numbers with noise, and a class."""

    def __len__(self):
        return 22

    def __getitem__(self, i):
        return np.full(8, i / 22, np.float32) + np.random.rand(8).astype(np.float32), i % 3


class Training:
    """A small training run: all that a checkpoint has to hold."""

    def __init__(self, seed, optimizer="AdamW", workers=0, compiled=False):
        tr.seed_everything(seed)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        options = {"momentum": 0.9} if optimizer == "SGD" else {}
        self.opt = getattr(optim, optimizer)(self.net.parameters(), lr=1e-2, **options)
        self.schedule = optim.lr_scheduler.CosineAnnealingLR(self.opt, T_max=15)
        self.loader = data.DataLoader(Noisy(), 4, shuffle=True, num_workers=workers)
        self.generator = tr.Generator(seed)
        self.step = tr.compile(self._step) if compiled else self._step

    def _step(self, x, y):
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.opt.step()
        self.opt.zero_grad()
        return loss

    @property
    def parts(self):
        return {"model": self.net, "state": [self.opt, {"schedule": self.schedule}], "loader": self.loader,
                "generator": self.generator}  # fmt: skip

    def run(self, epochs, epoch=0, count=0, save_at=None, path=None):
        """The losses from there on, and (if `save_at`) a checkpoint after that many batches."""
        losses = []
        for e in range(epoch, epochs):
            for x, y in self.loader:
                noise = tr.randn(4, 8, generator=self.generator)[: x.shape[0]] * 0.01
                losses.append(self.step(x + noise, y).item())
                self.schedule.step()
                count += 1
                if count == save_at:
                    tr.save_checkpoint(path, **self.parts, epoch=e, count=count, best=(min(losses), "here"))
        return losses


@pytest.mark.parametrize(
    "options,save_at",
    [({}, 4), ({}, 6), ({"optimizer": "SGD"}, 4), ({"workers": 2}, 4), ({"compiled": True}, 4)],
    ids=["eager", "end of epoch", "sgd", "workers", "compiled"],
)
def test_resumed_training_computes_the_same_bits(tmp_path, options, save_at):
    path = tmp_path / "run.ckpt"
    losses = Training(1, **options).run(3, save_at=save_at, path=path)
    resumed = Training(99, **options)
    rest = tr.load_checkpoint(path, **resumed.parts)
    assert rest == {"epoch": 0, "count": save_at, "best": (min(losses[:save_at]), "here")}
    assert resumed.run(3, rest["epoch"], rest["count"]) == losses[save_at:]
    assert len(losses) == 18


RESUME = """
import sys
import tracefuse as tr
sys.path.insert(0, sys.argv[1])
from test_serialize_checkpoint import Training
run = Training(5)
rest = tr.load_checkpoint(sys.argv[2], **run.parts)
print(*[x.hex() for x in run.run(3, rest["epoch"], rest["count"])])
"""


def test_training_resumes_in_another_process(tmp_path):
    losses = Training(1).run(3, save_at=8, path=tmp_path / "c")
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", RESUME, here, tmp_path / "c"], capture_output=True, text=True)
    assert done.stdout.split() == [x.hex() for x in losses[8:]], done.stderr


def test_all_generators_go_on_where_they_were(tmp_path):
    import random

    own = np.random.default_rng(3)
    own.random(5)
    np.random.randn()  # leaves a second normal number for later
    random.gauss(0, 1)

    def draw():
        return [np.random.randn(), random.gauss(0, 1), random.random(), tr.rand(2).tolist(), own.random()]

    tr.save_checkpoint(tmp_path / "c", own=own)
    expected = draw()
    tr.seed_everything(77)
    own.random()
    assert tr.load_checkpoint(tmp_path / "c", own=own) == {}
    assert draw() == expected
    before = random_state.global_state()["python"][1].tolist()
    tr.load_checkpoint(tmp_path / "c", own=own, rng=False)
    assert random_state.global_state()["python"][1].tolist() == before
    tr.save_checkpoint(tmp_path / "c", rng=False)
    tr.load_checkpoint(tmp_path / "c")
    assert random_state.global_state()["python"][1].tolist() == before


def test_what_is_not_loaded_is_returned(tmp_path):
    net = nn.Linear(2, 2)
    tr.save_checkpoint(tmp_path / "c", model=net, history=[0.5, 0.25], name="x", average=tr.ones(2))
    rest = tr.load_checkpoint(tmp_path / "c")
    assert rest["history"] == [0.5, 0.25] and rest["name"] == "x" and rest["average"].tolist() == [1, 1]
    fresh = nn.Linear(2, 2)
    fresh.load_state_dict(rest["model"])
    np.testing.assert_array_equal(fresh.weight.detach().numpy(), net.weight.detach().numpy())


def test_mistakes_change_nothing(tmp_path):
    net, path = nn.Linear(2, 2), tmp_path / "c"
    tr.save_checkpoint(path, model=nn.Linear(2, 2), opts=[optim.SGD(net.parameters(), lr=0.1)], step=3)
    before = net.weight.detach().numpy().copy()
    with pytest.raises(KeyError, match="has no optimizer; its parts are model, opts, step"):
        tr.load_checkpoint(path, model=net, optimizer=net)
    with pytest.raises(TypeError, match="step: a int cannot be loaded into; leave it out"):
        tr.load_checkpoint(path, model=net, step=0)
    with pytest.raises(ValueError, match="opts: 2 items"):
        tr.load_checkpoint(path, model=net, opts=[net, net])
    with pytest.raises(ValueError, match=r"opts: a dict with the keys \['a'\]"):
        tr.load_checkpoint(path, model=net, opts={"a": net})
    with pytest.raises(RuntimeError, match="size mismatch") as e:
        tr.load_checkpoint(path, model=nn.Linear(2, 3))
    assert "the part 'model'" in e.value.__notes__[0]
    np.testing.assert_array_equal(net.weight.detach().numpy(), before)
    with pytest.raises(TypeError, match="cannot save parts.f: a function"):
        tr.save_checkpoint(path, f=lambda: 0)
    assert tr.load_checkpoint(path)["step"] == 3  # the old file


@pytest.mark.parametrize(
    "content",
    [{"a": 1}, [1], {"checkpoint": 2, "parts": {}, "random": None}, {"checkpoint": 1, "parts": 3, "random": 0}],
)
def test_other_files_are_no_checkpoints(tmp_path, content):
    tr.save(content, tmp_path / "c")
    with pytest.raises(InvalidTensorFile, match="checkpoint"):
        tr.load_checkpoint(tmp_path / "c")
