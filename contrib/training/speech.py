"""Train the recogniser: so many steps from a seed, kept now and then, so that a run that is killed goes on.

What is learnt, and when, follows `Plan`: short windows first; the padding hidden first, true from half way; the words
at each frame first, so that there is something to attend to; whole 30-second windows at the very end.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.corpus import Corpus
from training.features import FULL_WINDOW, Features
from training.network import Shape, Whisper
from training.optimisers import Optimisers
from training.synthesis import RATE
from training.tokens import WINDOW, Tokens
from training.vocabulary import WORDS
from training.windows import IGNORED, Answer, Recordings, answer

log = logging.getLogger(__name__)

_BATCH_LARGEST, _BATCH_OF_FULL_WINDOWS = 36, 4
_FRAME = RATE // 50
_WORD_NUMBERS = {word: number for number, word in enumerate(WORDS, 1)}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how to train; the defaults are the shipped model's."""

    steps: int = 5000
    seed: int = 1
    rate: float = 2e-3
    warm_up: int = 150
    #: Sound in a batch, however long its windows are: a step takes about the same time throughout.
    batch_seconds: float = 72
    #: Steps between two checkpoints.
    kept_every: int = 250

    def rate_at(self, step: int) -> float:
        """Return the learning rate: up, then along a cosine down to a fiftieth."""
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (0.02 + 0.98 * fall)

    def longest_at(self, step: int) -> float:
        """Return the seconds of the longest window: from 2 to all 8 by two fifths."""
        return min(WINDOW, 2 + (WINDOW - 2) * step / (0.4 * self.steps))

    def padding_at(self, step: int) -> float:
        """Return what is added to the attention to padding: hidden at first, else all attention goes there."""
        done = step / self.steps
        if done < 0.3:
            return -30.0
        return -12.0 * max(0.0, 0.55 - done) / 0.25

    def is_scattered_at(self, step: int) -> bool:
        """Say whether what stands for padding stands anywhere in it. Otherwise 30-second windows come as a surprise."""
        return step >= 0.7 * self.steps

    def is_full_at(self, step: int) -> bool:
        """Say whether windows are padded to 30 seconds, as they are in use: dear, so only at the end."""
        return step >= 0.965 * self.steps

    def frame_share_at(self, step: int) -> float:
        """Return the weight of naming the word at each frame."""
        return max(0.2, 1 - step / self.steps)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from."""

    mel: Tensor
    counts: Tensor
    given: Tensor
    wanted: Tensor
    answers: list[Answer]


class Trainer:
    """The network with its optimiser, at some step of the plan."""

    def __init__(self, corpus: Corpus, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.tokens = Tokens()
        self.network = Whisper(Shape(self.tokens.size))
        self.step = 0
        self._recordings = Recordings(corpus, plan.seed)
        self._features = Features()
        self._optimisers = Optimisers(self.network, (*self.network.encoder, *self.network.decoder))

    def run(self, kept: Path) -> None:
        """Train to the end of the plan, from the checkpoint `kept` if there is one."""
        if kept.exists():
            self._restore(kept)
        began, first = time.monotonic(), self.step
        while self.step < self.plan.steps:
            losses = self.learn()
            if self.step % 100 == 0:
                seconds = (time.monotonic() - began) / (self.step - first)
                shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
                log.info("step %d %s, %.3f s a step", self.step, shown, seconds)
            if self.step % self.plan.kept_every == 0 or self.step == self.plan.steps:
                self.keep(kept)

    def learn(self) -> dict[str, float]:
        """Take one step; return its losses."""
        self.network.train()
        losses = self._losses(self._batch())
        weights = {"tokens": 1.0, "attention": 0.3, "frames": self.plan.frame_share_at(self.step)}
        loss = torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()
        self._optimisers.step(loss, self.plan.rate_at(self.step))
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def _batch(self) -> Batch:
        """Return the batch of this step: the same one whenever it is asked for."""
        rng = random.Random(f"{self.plan.seed}/{self.step}")
        is_full = self.plan.is_full_at(self.step)
        longest = self.plan.longest_at(self.step)
        seconds = longest if is_full or rng.random() < 0.35 else rng.uniform(1.0, longest)
        count = min(_BATCH_LARGEST, max(1, round(self.plan.batch_seconds / seconds)))
        if is_full:
            count = _BATCH_OF_FULL_WINDOWS
        windows = [self._recordings.window(round(seconds * RATE), rng) for _ in range(count)]
        answers = [answer(window, self.tokens, rng) for window in windows]
        mel, counts = self._features(
            [window.samples for window in windows], frames=FULL_WINDOW if is_full else None, rng=rng
        )
        return Batch(
            mel,
            counts,
            _table([one.given for one in answers], self.tokens.end),
            _table([one.wanted for one in answers], IGNORED),
            answers,
        )

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        is_scattered = self.plan.is_scattered_at(self.step) and not self.plan.is_full_at(self.step)
        frames, bias, sound = self.network.encode(
            batch.mel,
            batch.counts,
            padding=self.plan.padding_at(self.step),
            scatter=torch.Generator().manual_seed(self.step) if is_scattered else None,
        )
        scores = self.network.decode(batch.given, frames, bias)
        tokens = functional.cross_entropy(
            scores.flatten(0, 1), batch.wanted.flatten(), ignore_index=IGNORED, label_smoothing=0.02
        )
        named = functional.cross_entropy(
            self.network.frame_words(frames).flatten(0, 1),
            _frame_words(batch.answers, sound, frames.shape[1]).flatten(),
            ignore_index=IGNORED,
        )
        return {"tokens": tokens, "attention": _astray(self.network.guided(), batch.answers), "frames": named}

    def keep(self, path: Path) -> None:
        """Write a checkpoint, from which `run` goes on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimisers": self._optimisers.state(),
        }
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(path)

    def _restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._optimisers.restore(state["optimisers"])


def trained(checkpoint: Path, tokens: Tokens) -> Whisper:
    """Return the network of a checkpoint."""
    network = Whisper(Shape(tokens.size))
    network.load_state_dict(torch.load(checkpoint, weights_only=True)["network"])
    return network


def _table(rows: list[list[int]], filling: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filling] * (longest - len(row)) for row in rows])


def _frame_words(answers: list[Answer], sound: Tensor, total: int) -> Tensor:
    """Return the number of the word at each frame, 0 between words; padding is no frame."""
    words = torch.full((len(answers), total), IGNORED)
    for row, one in enumerate(answers):
        words[row, : int(sound[row])] = 0
        for _, spoken in one.places:
            words[row, spoken.begin // _FRAME : -(-spoken.end // _FRAME)] = _WORD_NUMBERS[spoken.word]
    return words


def _astray(weights: Tensor, answers: list[Answer]) -> Tensor:
    """Return how much of the attention lies elsewhere than on the word that is to be said next."""
    rows, places, heard = [], [], []
    frame = torch.arange(weights.shape[3])
    for row, one in enumerate(answers):
        for place, spoken in one.places:
            rows.append(row)
            places.append(place)
            heard.append((frame >= spoken.begin // _FRAME - 2) & (frame < -(-spoken.end // _FRAME) + 2))
    if not rows:
        return weights.sum() * 0.0
    on_word = (weights[rows, :, places] * torch.stack(heard)[:, None]).sum(-1)
    return -on_word.clamp(min=1e-6).log().mean()
