"""Both networks: Whisper's architecture with 0.8 million numbers, and a translator of a third of that.

Three things in Whisper differ from a plain transformer, all for training only: attention can be told how many padded
frames a short batch stands for, the last decoder layer keeps its attention to be guided, and a head names the word at
each frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.vocabulary import WORDS


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network."""

    vocabulary: int
    width: int = 96
    heads: int = 3
    encoder_layers: int = 3
    decoder_layers: int = 2
    inner: int = 384
    mels: int = 80
    #: Positions of the encoder are a window of 30 s, which faster-whisper always pads to.
    frames: int = 1500
    context: int = 448


class Attention(nn.Module):
    """Attention of `width` in some heads; keeps its weights if it is told to."""

    def __init__(self, shape: Shape, *, keeps: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self._heads = shape.heads
        self._keeps = keeps
        self.weights: Tensor | None = None

    def forward(self, inputs: Tensor, memory: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Let `inputs` look at `memory`; `bias` is added to the weights before they are normalised."""
        query, key, value = (
            self._split(self.query(inputs)),
            self._split(self.key(memory)),
            self._split(self.value(memory)),
        )
        if self._keeps and self.training and bias is not None:
            self.weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias).softmax(-1)
            heard = self.weights @ value
        else:
            heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)
        return self.out(heard.transpose(1, 2).reshape(inputs.shape))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(rows.shape[0], rows.shape[1], self._heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """A pre-norm transformer layer: of the encoder, or with `crosses` of the decoder."""

    def __init__(self, shape: Shape, *, crosses: bool, keeps: bool = False) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(shape.width)
        self.self_attention = Attention(shape)
        if crosses:
            self.norm_cross = nn.LayerNorm(shape.width)
            self.cross_attention = Attention(shape, keeps=keeps)
        self.norm_inner = nn.LayerNorm(shape.width)
        self.inner_in = nn.Linear(shape.width, shape.inner)
        self.inner_out = nn.Linear(shape.inner, shape.width)
        self.crosses = crosses

    def forward(self, rows: Tensor, bias: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return the rows after this layer; `bias` is that of the encoder's frames."""
        normal = self.norm_self(rows)
        rows = rows + self.self_attention(normal, normal, None if self.crosses else bias, causal=self.crosses)
        if memory is not None:
            rows = rows + self.cross_attention(self.norm_cross(rows), memory, bias)
        return rows + self.inner_out(functional.gelu(self.inner_in(self.norm_inner(rows))))


class Whisper(nn.Module):
    """Encoder and decoder. `frame_words` is a head for training: which word, or none, is at each frame."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.convolution_1 = nn.Conv1d(shape.mels, shape.width, 3, padding=1)
        self.convolution_2 = nn.Conv1d(shape.width, shape.width, 3, stride=2, padding=1)
        # At full height the positions drown what the convolutions say.
        self.register_buffer("positions", 0.4 * _sinusoids(shape.frames, shape.width))
        self.encoder = nn.ModuleList(Layer(shape, crosses=False) for _ in range(shape.encoder_layers))
        self.encoder_norm = nn.LayerNorm(shape.width)
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.token_positions = nn.Parameter(torch.randn(shape.context, shape.width) * 0.02)
        last = shape.decoder_layers - 1
        self.decoder = nn.ModuleList(
            Layer(shape, crosses=True, keeps=number == last) for number in range(shape.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(shape.width)
        self.frame_words = nn.Linear(shape.width, len(WORDS) + 1)
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.kaiming_normal_(self.convolution_1.weight)
        nn.init.kaiming_normal_(self.convolution_2.weight)

    def encode(
        self, mel: Tensor, counts: Tensor, *, padding: float, scatter: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frames, the bias for whoever looks at them, and how many frames of each window are sound.

        A short batch stands for windows that are padded to 30 s: each of its few padded frames counts for many, which
        adds the logarithm of that to its attention. `padding` is added to that: -30 hides them, 0 is the truth. With
        `scatter`, they also stand where those that they count for would: anywhere in the rest of the 30 s.
        """
        rows = functional.gelu(self.convolution_2(functional.gelu(self.convolution_1(mel)))).transpose(1, 2)
        total = rows.shape[1]
        sound = ((counts + 1) // 2).clamp(max=total)
        padded = torch.arange(total) >= sound[:, None]
        if scatter is None:
            rows = rows + self.positions[:total]
        else:
            anywhere = torch.rand(padded.shape, generator=scatter) * (self.shape.frames - sound)[:, None]
            places = torch.where(padded, sound[:, None] + anywhere.long(), torch.arange(total))
            rows = rows + self.positions[places]
        stands_for = (self.shape.frames - sound).float() / (total - sound).clamp(min=1).float()
        bias = (padded * (stands_for.log()[:, None] + padding))[:, None, None]
        for layer in self.encoder:
            rows = layer(rows, bias)
        return self.encoder_norm(rows), bias, sound

    def decode(self, tokens: Tensor, frames: Tensor, bias: Tensor) -> Tensor:
        """Return a score for every token after each of `tokens`."""
        rows = self.embedding(tokens) + self.token_positions[: tokens.shape[1]]
        for layer in self.decoder:
            rows = layer(rows, bias, frames)
        return self.decoder_norm(rows) @ self.embedding.weight.T

    def guided(self) -> Tensor:
        """Return the last decoder layer's attention to the frames (window, head, token, frame), after `decode`."""
        weights: Tensor | None = self.decoder[-1].cross_attention.weights
        if weights is None:
            raise RuntimeError("attention is kept while training only")
        return weights


class Translator(nn.Module):
    """A transformer from tokens to tokens of one vocabulary, with one table of embeddings for all of its three uses."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        # CTranslate2 computes these itself, and begins with one.
        self.register_buffer("positions", _sinusoids(shape.context, shape.width, first=1), persistent=False)
        self.encoder = nn.ModuleList(Layer(shape, crosses=False) for _ in range(shape.encoder_layers))
        self.encoder_norm = nn.LayerNorm(shape.width)
        self.decoder = nn.ModuleList(Layer(shape, crosses=True) for _ in range(shape.decoder_layers))
        self.decoder_norm = nn.LayerNorm(shape.width)
        nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)

    def forward(self, source: Tensor, is_padding: Tensor, target: Tensor) -> Tensor:
        """Return a score for every token after each of `target`."""
        bias = (is_padding * -1e9)[:, None, None]
        memory = self._embed(source)
        for layer in self.encoder:
            memory = layer(memory, bias)
        memory = self.encoder_norm(memory)
        rows = self._embed(target)
        for layer in self.decoder:
            rows = layer(rows, bias, memory)
        return self.decoder_norm(rows) @ self.embedding.weight.T

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) * self.shape.width**0.5 + self.positions[: tokens.shape[1]]


def _sinusoids(count: int, width: int, *, first: int = 0) -> Tensor:
    scale = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angle = torch.arange(first, first + count)[:, None] * scale
    return torch.cat([angle.sin(), angle.cos()], 1)
