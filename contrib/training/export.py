"""Trained networks as folders that CTranslate2, and with it faster-whisper, loads: 8-bit numbers, no torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec, whisper_spec
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from training.network import Attention, Layer, Translator, Whisper
from training.parallel import TAGS
from training.tokens import WINDOW, Tokens

#: 8 bits for what is multiplied; 16 for the rest, of which the encoder's positions are most.
_QUANTIZATION = "int8_float16"


def speech(network: Whisper, tokens: Tokens, folder: Path) -> None:
    """Write the recogniser."""
    shape = network.shape
    spec = whisper_spec.WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    for target, source in ((spec.encoder.conv1, network.convolution_1), (spec.encoder.conv2, network.convolution_2)):
        target.weight, target.bias = _numbers(source.weight), _numbers(source.bias)
    spec.encoder.position_encodings.encodings = _numbers(network.positions)
    _norm(spec.encoder.layer_norm, network.encoder_norm)
    _layers(spec.encoder.layer, network.encoder)
    spec.decoder.embeddings.weight = _numbers(network.embedding.weight)
    spec.decoder.projection.weight = _numbers(network.embedding.weight)
    spec.decoder.position_encodings.encodings = _numbers(network.token_positions)
    _norm(spec.decoder.layer_norm, network.decoder_norm)
    _layers(spec.decoder.layer, network.decoder)
    spec.register_vocabulary(tokens.in_order())
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [tokens.blank, tokens.end]
    spec.config.lang_ids = []
    spec.config.alignment_heads = [(shape.decoder_layers - 1, head) for head in range(shape.heads)]
    _save(spec, folder, _QUANTIZATION)
    (folder / "tokenizer.json").write_text(tokens.tokenizer.to_str(pretty=False))
    # Without this file faster-whisper assumes windows of 30 s; without the tokenizer's it asks a hub for one.
    preprocessor = {"feature_size": shape.mels, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "chunk_length": WINDOW}))


def translation(network: Translator, pieces: Path, folder: Path) -> None:
    """Write the translator with its sentencepiece model, and the file that tells how it is asked for a language."""
    shape = network.shape
    spec = transformer_spec.TransformerSpec.from_config(
        (shape.encoder_layers, shape.decoder_layers),
        shape.heads,
        pre_norm=True,
        activation=common_spec.Activation.GELU,
    )
    for target in (spec.encoder.embeddings[0], spec.decoder.embeddings, spec.decoder.projection):
        target.weight = _numbers(network.embedding.weight)
    _layers(spec.encoder.layer, network.encoder)
    _layers(spec.decoder.layer, network.decoder)
    _norm(spec.encoder.layer_norm, network.encoder_norm)
    _norm(spec.decoder.layer_norm, network.decoder_norm)
    processor = SentencePieceProcessor(model_file=str(pieces))
    vocabulary = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
    spec.config.decoder_start_token = spec.config.bos_token
    spec.config.add_source_eos = True
    _save(spec, folder, "int8")
    shutil.copyfile(pieces, folder / pieces.name)
    manifest = {"family": "tagged", "source": ["en"], "targets": dict(TAGS), "tokenizer": pieces.name}
    (folder / "streamtask-model.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _layers(targets: Any, sources: nn.ModuleList) -> None:
    for target, source in zip(targets, sources, strict=True):
        _layer(target, source)


def _layer(target: Any, source: Layer) -> None:
    _norm(target.self_attention.layer_norm, source.norm_self)
    _attention(target.self_attention.linear, source.self_attention, crosses=False)
    if source.crosses:
        _norm(target.attention.layer_norm, source.norm_cross)
        _attention(target.attention.linear, source.cross_attention, crosses=True)
    _norm(target.ffn.layer_norm, source.norm_inner)
    _linear(target.ffn.linear_0, source.inner_in)
    _linear(target.ffn.linear_1, source.inner_out)


def _attention(target: Any, source: Attention, *, crosses: bool) -> None:
    """CTranslate2 multiplies once for all that looks at the same rows."""
    groups = [[source.query], [source.key, source.value]] if crosses else [[source.query, source.key, source.value]]
    for linear, parts in zip(target, [*groups, [source.out]], strict=True):
        _linear(linear, *parts)


def _linear(target: Any, *parts: nn.Linear) -> None:
    target.weight = np.concatenate([_numbers(part.weight) for part in parts])
    target.bias = np.concatenate([_numbers(part.bias) for part in parts])


def _norm(target: Any, source: nn.LayerNorm) -> None:
    target.gamma, target.beta = _numbers(source.weight), _numbers(source.bias)


def _numbers(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    # A copy: CTranslate2 scales some of them in place.
    numbers: np.ndarray[Any, np.dtype[np.float32]] = tensor.detach().float().numpy().copy()
    return numbers


def _save(spec: Any, folder: Path, quantization: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
