"""Real CTranslate2 models whose weights are set by hand, one of each family: they translate word by word.

`by_position` is a Transformer that answers step n with the translation of the source's token n; what stands in front of
the words (a language's token) is seen in what comes out. `by_succession` has T5's architecture (relative attention,
RMS norms, no positions): it answers a word with the translation of the word that followed it in the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from ctranslate2.specs.common_spec import Activation
from ctranslate2.specs.transformer_spec import TransformerSpec

#: Positions that a model knows, of a source and of a translation.
_POSITIONS = 128
#: So much heavier is what is looked for than everything else.
_SHARP = 20.0


#: What the models know, and its translation.
ENGLISH = "zero one two three four five six seven eight nine start the meeting please".split()  # noqa: SIM905 - reads better
FRENCH = "zéro un deux trois quatre cinq six sept huit neuf commencez la réunion merci".split()  # noqa: SIM905 - as above
_MEANINGS = {f"▁{word}": f"▁{other}" for word, other in zip(ENGLISH, FRENCH, strict=True)}


def opus(folder: Path, *, tags: Sequence[str] = (), add_source_eos: bool = False) -> Path:
    """OPUS-MT as ct2-transformers-converter leaves it (`add_source_eos`: as ct2-opus-mt-converter does)."""
    folder.mkdir()
    source = ["</s>", "<unk>", *tokenizer(folder / "source.spm", ENGLISH), *tags]
    target = ["</s>", "<unk>", *tokenizer(folder / "target.spm", FRENCH), *tags]
    marian = {"decoder_start_token": "</s>", "add_source_eos": add_source_eos}
    by_position(folder, source, target, meanings=_MEANINGS, skip=bool(tags), zero_start=True, **marian)
    return folder


def nllb(folder: Path, *, tags: Sequence[str] = ("eng_Latn", "fra_Latn", "deu_Latn", "zho_Hans", "zho_Hant")) -> Path:
    """NLLB-200, or M2M-100 by its `tags`."""
    folder.mkdir()
    pieces = tokenizer(folder / "sentencepiece.bpe.model", [*ENGLISH, *FRENCH])
    words = ["<s>", "<pad>", "</s>", "<unk>", *pieces, *tags]
    by_position(folder, words, words, meanings=_MEANINGS, decoder_start_token="</s>")
    return folder


def madlad(folder: Path, *, tags: Sequence[str] = ("<2en>", "<2fr>", "<2iw>")) -> Path:
    """MADLAD-400: T5's architecture, with its relative attention."""
    folder.mkdir()
    words = ["<unk>", "<s>", "</s>", *tags, *tokenizer(folder / "spiece.model", [*ENGLISH, *FRENCH]), "<pad>"]
    by_succession(folder, words, meanings=_MEANINGS, tags=tags, bos_token="<pad>", decoder_start_token="<pad>")
    return folder


def tokenizer(file: Path, words: Sequence[str]) -> list[str]:
    """Train a tokenizer that has a piece for each word; its pieces."""
    with file.open("wb") as written:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(words)] * 4),
            model_writer=written,
            model_type="word",
            use_all_vocab=True,
            minloglevel=2,
        )
    return [f"▁{word}" for word in dict.fromkeys(words)]


def by_position(
    folder: Path,
    source: Sequence[str],
    target: Sequence[str],
    *,
    meanings: Mapping[str, str],
    skip: int = 0,
    zero_start: bool = False,
    **config: object,
) -> None:
    """Write a model. `meanings`: source token → target token. `skip`: tokens in front of the source's words."""
    spec = TransformerSpec.from_config((1, 1), 1, pre_norm=True, activation=Activation.RELU)
    words, width = len(target), len(target) + _POSITIONS
    places = np.hstack([np.zeros((_POSITIONS, words)), np.eye(_POSITIONS)])
    looking = _between(width, slice(words, width), np.eye(_POSITIONS, k=-skip) * _SHARP)
    finding = _between(width, slice(words, width), np.eye(_POSITIONS))
    meaning = _between(width, slice(0, words), np.eye(words))
    _fill(spec, source, target, meanings, width)
    for side in (spec.encoder, spec.decoder):
        side.position_encodings.encodings = _float(places)
        side.scale_embeddings = False
    _attend(spec.decoder.layer[0].attention, looking, finding, meaning)
    spec.decoder.start_from_zero_embedding = zero_start
    _save(spec, folder, source, target, config)


def by_succession(
    folder: Path, vocabulary: Sequence[str], *, meanings: Mapping[str, str], tags: Sequence[str], **config: object
) -> None:
    """Write a model of T5's architecture. No word may come twice. `tags`: what may stand in front of the words."""
    spec = TransformerSpec.from_config(
        (1, 1), 1, pre_norm=True, activation=Activation.RELU, relative_attention_bias=True, rms_norm=True
    )
    words = len(vocabulary)
    token, before = slice(0, words), slice(words, 2 * words)
    _fill(spec, vocabulary, vocabulary, meanings, 2 * words, meaning_of_source=False)
    for side in (spec.encoder, spec.decoder):
        side.scale_embeddings = False
        attention = side.layer[0].self_attention
        attention.relative_attention_bias = _float(np.zeros((32, 1)))
        attention.relative_attention_max_distance = np.dtype("int32").type(128)
    # Bucket 1: the token just before.
    spec.encoder.layer[0].self_attention.relative_attention_bias[1] = 100.0
    move = np.zeros((2 * words, 2 * words))
    move[before, token] = np.eye(words)
    _attend_self(spec.encoder.layer[0].self_attention, values=move)

    # What follows a word: the decoder has its translation. What follows the start: what follows a tag.
    followed = np.zeros((words, words))
    for place, each in enumerate(vocabulary):
        followed[place, vocabulary.index(meanings.get(each, each))] = _SHARP
    start = vocabulary.index(str(config["decoder_start_token"]))
    followed[:, start] = 0.0
    for tag in tags:
        followed[vocabulary.index(tag), start] = _SHARP
    looking, finding, meaning = (np.zeros((2 * words, 2 * words)) for _ in range(3))
    looking[before, token] = followed
    finding[before, before] = np.eye(words)
    for place, each in enumerate(vocabulary):
        meaning[vocabulary.index(meanings.get(each, each)), place] = 1.0
    _attend(spec.decoder.layer[0].attention, looking, finding, meaning)
    _save(spec, folder, vocabulary, vocabulary, config)


def _fill(
    spec: TransformerSpec,
    source: Sequence[str],
    target: Sequence[str],
    meanings: Mapping[str, str],
    width: int,
    *,
    meaning_of_source: bool = True,
) -> None:
    """Embeddings that are the words themselves, and layers that pass everything on unchanged."""
    words = len(target)
    read = np.zeros((len(source), width))
    for place, each in enumerate(source):
        meant = meanings.get(each, each) if meaning_of_source else each
        if meant in target:
            read[place, target.index(meant)] = 1.0
    spec.encoder.embeddings[0].weight = _float(read)
    spec.decoder.embeddings.weight = _float(np.eye(words, width))
    spec.decoder.projection.weight = _float(np.eye(words, width) * _SHARP)
    for side in (spec.encoder, spec.decoder):
        _norm(side.layer_norm, width)
        layer = side.layer[0]
        _attend_self(layer.self_attention, values=np.zeros((width, width)))
        _norm(layer.ffn.layer_norm, width)
        for linear in (layer.ffn.linear_0, layer.ffn.linear_1):
            _linear(linear, np.zeros((width, width)))


def _attend_self(attention: object, *, values: np.ndarray) -> None:
    nothing = np.zeros_like(values)
    _norm(attention.layer_norm, len(values))
    _linear(attention.linear[0], np.vstack([nothing, nothing, values]))
    _linear(attention.linear[1], np.eye(len(values)))


def _attend(attention: object, queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
    _norm(attention.layer_norm, len(values))
    _linear(attention.linear[0], queries)
    _linear(attention.linear[1], np.vstack([keys, values]))
    _linear(attention.linear[2], np.eye(len(values)) * _SHARP)


def _between(width: int, part: slice, matrix: np.ndarray) -> np.ndarray:
    """A matrix that works on a part of what flows, and drops the rest."""
    whole = np.zeros((width, width))
    whole[part, part] = matrix
    return whole


def _linear(linear: object, weight: np.ndarray) -> None:
    linear.weight = _float(weight)
    linear.bias = _float(np.zeros(len(weight)))


def _norm(norm: object, width: int) -> None:
    norm.gamma = _float(np.ones(width))
    if hasattr(norm, "beta"):
        norm.beta = _float(np.zeros(width))


def _float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def _save(
    spec: TransformerSpec, folder: Path, source: Sequence[str], target: Sequence[str], config: Mapping[str, object]
) -> None:
    spec.register_source_vocabulary(list(source))
    spec.register_target_vocabulary(list(target))
    for name, value in config.items():
        setattr(spec.config, name, value)
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    assert json.loads((folder / "config.json").read_text())["decoder_start_token"] == config["decoder_start_token"]
