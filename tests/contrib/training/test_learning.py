"""The training learns, and the same seed learns the same."""

from __future__ import annotations

import ctypes.util

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; only the training needs it")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("espeak-ng's library is not installed", allow_module_level=True)

from training import corpus, speech, translation


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build(folder, "training", 24, seed=1, processes=1)
    return corpus.Corpus(folder, "training")


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_recogniser_learns_the_same_from_the_same_seed_and_from_a_checkpoint(clips, tmp_path):
    straight = speech.Trainer(clips, speech.Plan(steps=6, kept_every=3))
    losses = [sum(straight.learn().values()) for _ in range(6)]

    stopped = speech.Trainer(clips, speech.Plan(steps=6, kept_every=3))
    while stopped.step < 3:
        stopped.learn()
    stopped.keep(tmp_path / "speech.pt")
    resumed = speech.Trainer(clips, speech.Plan(steps=6, kept_every=3))
    resumed.run(tmp_path / "speech.pt")

    assert losses[-1] < losses[0]
    assert _same(straight.network.state_dict(), resumed.network.state_dict())
    assert _same(straight.network.state_dict(), speech.trained(tmp_path / "speech.pt", straight.tokens).state_dict())


def test_the_translator_learns_the_same_from_the_same_seed(tmp_path):
    pieces = translation.pieces(tmp_path / "spm.model", seed=1)
    trainers = [translation.Trainer(pieces, translation.Plan(steps=30, lines=16)) for _ in range(2)]
    losses = [[trainer.learn() for _ in range(30)] for trainer in trainers]

    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] / 2
    assert _same(*(trainer.network.state_dict() for trainer in trainers))
