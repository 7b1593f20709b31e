"""Train the translator: English lines that the recogniser may write, and what the rules of `parallel` make of them."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import Tensor
from torch.nn import functional

from training.network import Shape, Translator
from training.optimisers import Optimisers
from training.parallel import TAGS, is_held_out, sentence, translate

log = logging.getLogger(__name__)

_UNKNOWN, _BEGIN, _END = 0, 1, 2
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how to train; the defaults are the shipped model's."""

    steps: int = 6000
    seed: int = 1
    rate: float = 2e-3
    warm_up: int = 100
    lines: int = 64


def pieces(path: Path, *, seed: int) -> SentencePieceProcessor:
    """Write the sentencepiece model of all three languages, and return it."""
    rng = random.Random(seed)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_lines(rng, 6000)),
        model_writer=model,
        # Whole words: the vocabulary is closed, and a third of the tokens is a third of the time.
        model_type="word",
        vocab_size=400,
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=list(TAGS.values()),
        unk_id=_UNKNOWN,
        bos_id=_BEGIN,
        eos_id=_END,
        pad_id=-1,
        # The default carries tables of a quarter megabyte for scripts that are not written here.
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    return SentencePieceProcessor(model_file=str(path))


def _lines(rng: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        text = sentence(rng)
        yield text
        yield translate(text, rng.choice(tuple(TAGS)))


def untrained(processor: SentencePieceProcessor) -> Translator:
    """Return a network for these pieces."""
    return Translator(Shape(processor.get_piece_size(), width=64, heads=2, encoder_layers=2, inner=256, context=128))


def trained(weights: Path, processor: SentencePieceProcessor) -> Translator:
    """Return the network with the weights of a file."""
    network = untrained(processor)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


class Trainer:
    """The network with its optimisers, at some step of the plan."""

    def __init__(self, processor: SentencePieceProcessor, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.network = untrained(processor)
        self.step = 0
        self._processor = processor
        self._optimisers = Optimisers(self.network, (*self.network.encoder, *self.network.decoder))

    def run(self) -> None:
        """Train to the end of the plan: minutes, so nothing is kept between."""
        while self.step < self.plan.steps:
            loss = self.learn()
            if self.step % 100 == 0:
                log.info("step %d loss %.4f", self.step, loss)

    def learn(self) -> float:
        """Take one step; return its loss."""
        source, target = self._batch()
        scores = self.network(source.clamp(min=0), source == _IGNORED, target[:, :-1].clamp(min=0))
        # Smoothed: a network that is too sure has the end as its second choice, and a beam of two then ends too early.
        loss = functional.cross_entropy(
            scores.flatten(0, 1), target[:, 1:].flatten(), ignore_index=_IGNORED, label_smoothing=0.1
        )
        fall = 1 - self.step / self.plan.steps
        self._optimisers.step(loss, self.plan.rate * min(1.0, (self.step + 1) / self.plan.warm_up) * fall + 1e-5)
        self.step += 1
        return loss.item()

    def _batch(self) -> tuple[Tensor, Tensor]:
        rng = random.Random(f"{self.plan.seed}/{self.step}")
        sources, targets = [], []
        while len(sources) < self.plan.lines:
            text, language = sentence(rng), rng.choice(tuple(TAGS))
            if not is_held_out(text):
                tag = self._processor.piece_to_id(TAGS[language])
                sources.append([tag, *self._processor.encode(text), _END])
                targets.append([_BEGIN, *self._processor.encode(translate(text, language)), _END])
        return _table(sources), _table(targets)


def _table(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [_IGNORED] * (longest - len(row)) for row in rows])
