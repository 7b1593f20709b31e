"""The training learns, and the same seed learns the same."""

from __future__ import annotations

import ctypes.util
from statistics import mean

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; only the training needs it")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("espeak-ng's library is not installed", allow_module_level=True)

from training import corpus, speech, translation

_PLAN = speech.Plan(steps=12, warm_up=3, batch_seconds=6)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build(folder, "training", 24, seed=1, processes=1)
    return corpus.Corpus(folder, "training")


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_recogniser_learns_the_same_from_the_same_seed_and_from_a_checkpoint(clips, tmp_path):
    straight = speech.Trainer(clips, _PLAN)
    losses = [straight.learn()["tokens"] for _ in range(_PLAN.steps)]

    stopped = speech.Trainer(clips, _PLAN)
    while stopped.step < _PLAN.steps // 2:
        stopped.learn()
    stopped.keep(tmp_path / "speech.pt")
    resumed = speech.Trainer(clips, _PLAN)
    resumed.run(tmp_path / "speech.pt")

    assert mean(losses[-3:]) < mean(losses[:3])
    assert _same(straight.network.state_dict(), resumed.network.state_dict())
    assert _same(straight.network.state_dict(), speech.trained(tmp_path / "speech.pt", straight.tokens).state_dict())


def test_the_translator_learns_the_same_from_the_same_seed(tmp_path):
    pieces = translation.pieces(tmp_path / "spm.model", seed=1)
    trainers = [translation.Trainer(pieces, translation.Plan(steps=12, warm_up=3, lines=8)) for _ in range(2)]
    losses = [[trainer.learn() for _ in range(12)] for trainer in trainers]

    assert losses[0] == losses[1]
    assert mean(losses[0][-3:]) < mean(losses[0][:3])
    assert _same(*(trainer.network.state_dict() for trainer in trainers))
