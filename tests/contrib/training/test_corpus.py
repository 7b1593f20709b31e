from __future__ import annotations

import ctypes.util

import pytest

pytest.importorskip("scipy", reason="scipy is not installed")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("espeak-ng's library is not installed", allow_module_level=True)

from training import corpus, voices


# Python 3.12 warns of a fork beside any thread; here none holds a lock that the child needs.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_same_seed_gives_the_same_corpus_however_many_processes_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_STRETCH", 4)
    made = []
    for processes in (1, 3):
        corpus.build(tmp_path / str(processes), "training", 12, seed=5, processes=processes)
        made.append([(tmp_path / str(processes) / f"training.{kind}").read_bytes() for kind in ("json", "pcm")])

    assert made[0] == made[1]
    spoken = corpus.Corpus(tmp_path / "1", "training")
    assert {entry.voice for entry in spoken.entries} <= {"drawn", *voices.TRAINING}
    for number, entry in enumerate(spoken.entries):
        clip = spoken.clip(number)
        assert len(clip.samples) == entry.length
        assert len(clip.begins) == len(clip.text.split())
        assert clip.samples.std() > 0.001
