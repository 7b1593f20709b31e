"""Model families: what each wants to read, where it is told the target language, and which languages a folder has.

A folder says by its files what it is. What it cannot say (the languages of a model for one pair) or says wrong stands
in a manifest, `streamtask-model.json`. This module reads files and tokenizes; it never runs a model.

| family | source tokens | target language | tokenizer |
| --- | --- | --- | --- |
| opus | pieces | `>>fra<<` before them, where the model has several | source.spm, target.spm |
| nllb | `eng_Latn`, pieces | first token of the translation, `fra_Latn` | sentencepiece.bpe.model |
| m2m | `__en__`, pieces | first token of the translation, `__fr__` | sentencepiece.bpe.model |
| madlad | `<2fr>`, pieces | that | spiece.model |
| tagged | a token of the manifest, pieces | that | spm.model |

Behind all of them stands `</s>`, which CTranslate2 adds itself if its config.json says so (`add_source_eos`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sentencepiece import SentencePieceProcessor

from streamtask import ConfigurationError, Reject
from streamtask_contrib.languages import find, known

MANIFEST = "streamtask-model.json"

FamilyName = Literal["opus", "nllb", "m2m", "madlad", "tagged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of a family are spoken to."""

    #: What a language's token looks like in the vocabulary; its group is the language. None: the manifest says it.
    tag: re.Pattern[str] | None
    #: Where the target language's token stands: before the source's pieces, or as the translation's first token.
    target_at: Literal["source", "translation"]
    #: Whether the source language's token stands before the source's pieces.
    names_source: bool = False
    #: Files of the source's and the target's tokenizer, each by the names that it is found under.
    tokenizers: tuple[Sequence[str], Sequence[str]]


_ONE = ("sentencepiece.bpe.model", "spm.128k.model", "flores200_sacrebleu_tokenizer_spm.model", "spm.model")
_T5 = ("spiece.model", "sentencepiece.model", "spm.model")
_OWN = ("spm.model",)

FAMILIES: Mapping[FamilyName, Family] = {
    "opus": Family(
        tag=re.compile(r">>([A-Za-z_-]+)<<"), target_at="source", tokenizers=(("source.spm",), ("target.spm",))
    ),
    "nllb": Family(
        tag=re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"), target_at="translation", names_source=True, tokenizers=(_ONE, _ONE)
    ),
    "m2m": Family(
        tag=re.compile(r"__([a-z]{2,3})__"), target_at="translation", names_source=True, tokenizers=(_ONE, _ONE)
    ),
    "madlad": Family(tag=re.compile(r"<2([A-Za-z_-]+)>"), target_at="source", tokenizers=(_T5, _T5)),
    "tagged": Family(tag=None, target_at="source", tokenizers=(_OWN, _OWN)),
}
#: Families whose vocabulary shows them, for the tokens of its languages.
_TOLD_BY_VOCABULARY: Sequence[FamilyName] = ("nllb", "m2m", "madlad")
#: The two languages in the name of a folder: opus-mt-en-fr, opus-mt-tc-big-en-fr, opus-mt-en-ROMANCE-ct2, en-fr.
_OPUS_NAME = re.compile(r"(?:.*opus-mt-(?:tc-[a-z]+-)?([a-z]+)-([a-z]+)|([a-z]{2,3})-([a-z]{2,3}))(?:[-_.].*)?")
#: Languages that a message lists.
_SHOWN = 20


class Tokenizer(Protocol):
    """Text ↔ pieces; SentencePiece's processor is one. Threads may share it."""

    def encode(self, text: str, *, out_type: type[str]) -> list[str]:
        """The pieces of a text."""

    def decode(self, pieces: list[str]) -> str:
        """The text of pieces."""


class Manifest(BaseModel):
    """What stands in `streamtask-model.json`. All but the family may be left to the folder."""

    model_config = ConfigDict(extra="forbid")

    family: FamilyName
    #: Languages that it reads; none: what the folder says, else every one.
    source: list[str] = Field(default_factory=list)
    #: Languages that it writes, each with its token; "" where the model has only this one.
    targets: dict[str, str] = Field(default_factory=dict)
    #: File of the tokenizer; two, where source and target have one each.
    tokenizer: str | tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model on disk: its family and languages, and how text becomes tokens and tokens become text."""

    path: Path
    family: Family
    #: Language → its token, "" where it needs none; None: it reads every language.
    sources: Mapping[str, str] | None
    #: Language → its token; "" where the model writes one language only.
    targets: Mapping[str, str]
    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    #: The token that ends a source; "" where CTranslate2 adds it.
    end: str
    #: Pieces that are never said: all tokens of languages. Tokenizers know ">>fra<<" as a piece, too, and what somebody
    #: says must not choose the language.
    unsaid: frozenset[str]

    def check(self, source: str, target: str) -> None:
        """Raise Reject, with the pairs that there are, where the model does not translate this one."""
        if target in self.targets and (self.sources is None or source in self.sources):
            return
        reads = "any language" if self.sources is None else _listed(self.sources)
        raise Reject(
            f"the model {self.path.name} does not translate {source} to {target}, only {reads} to "
            f"{_listed(self.targets)}; set STREAMTASK_TRANSLATION_MODEL to a model that does"
        )

    def encode(self, text: str, source: str, target: str) -> list[str]:
        """The tokens that the model reads."""
        before = []
        if self.family.names_source and self.sources is not None:
            before.append(self.sources[source])
        if self.family.target_at == "source":
            before.append(self.targets[target])
        return [*filter(None, before), *self._pieces(text), *filter(None, [self.end])]

    def measure(self, text: str) -> int:
        """How many pieces a text is."""
        return len(self._pieces(text))

    def prefix(self, target: str) -> list[str]:
        """The tokens that a translation is made to begin with."""
        return [self.targets[target]] if self.family.target_at == "translation" else []

    def decode(self, tokens: Sequence[str], target: str) -> str:
        """The text of a translation."""
        prefix = self.prefix(target)
        said = tokens[len(prefix) :] if list(tokens[: len(prefix)]) == prefix else tokens
        return self.target_tokenizer.decode(list(said)).strip()

    def _pieces(self, text: str) -> list[str]:
        return [piece for piece in self.source_tokenizer.encode(text, out_type=str) if piece not in self.unsaid]


def open_folder(path: Path) -> ModelFolder:
    """Read what a folder is.

    Raises:
        ConfigurationError: it is no model, or of no family that is known; the message has what was looked for.
    """
    if not (path / "model.bin").is_file() or not (path / "config.json").is_file():
        raise ConfigurationError(
            f"{path} is no model of CTranslate2: it has no model.bin and config.json; "
            "ct2-transformers-converter makes such a folder"
        )
    config = json.loads((path / "config.json").read_text())
    manifest = _manifest(path)
    words = _vocabulary(path, "source") | _vocabulary(path, "target")
    name = manifest.family if manifest is not None else _family(path, words)
    told = manifest or Manifest(family=name)
    if name == "opus" and not told.targets:
        told = _from_folder_name(path, told, words)
    sources, targets = _sources(path, told, words), _targets(path, told, words)
    source_tokenizer, target_tokenizer = _tokenizers(path, told)
    return ModelFolder(
        path=path,
        family=FAMILIES[name],
        sources=sources,
        targets=targets,
        source_tokenizer=source_tokenizer,
        target_tokenizer=target_tokenizer,
        end="" if config.get("add_source_eos") else config.get("eos_token", "</s>"),
        unsaid=frozenset({*(sources or {}).values(), *targets.values()}),
    )


# ── what a folder says ────────────────────────────────────────────────────────────────────────────────────────────


def _manifest(path: Path) -> Manifest | None:
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ConfigurationError(f"{file} is no manifest of a model: {error}") from error


def _vocabulary(path: Path, side: str) -> frozenset[str]:
    """The tokens of the source or the target, whose vocabularies may be one."""
    for name in ("shared", side):
        file = path / f"{name}_vocabulary.json"
        if file.is_file():
            return frozenset(json.loads(file.read_text(encoding="utf-8")))
        older = file.with_suffix(".txt")
        if older.is_file():
            return frozenset(older.read_text(encoding="utf-8").split("\n"))
    return frozenset()


def _family(path: Path, words: frozenset[str]) -> FamilyName:
    if (path / "source.spm").is_file() and (path / "target.spm").is_file():
        return "opus"
    for name in _TOLD_BY_VOCABULARY:
        if _tags(name, words):
            return name
    raise ConfigurationError(
        f"{path} is of no family that is known: it has no source.spm and target.spm (opus), and its vocabulary no "
        f"token like eng_Latn (nllb), __en__ (m2m) or <2en> (madlad). If it is one of {', '.join(FAMILIES)}, say so in "
        f'{MANIFEST} beside model.bin: {{"family": "opus", "source": ["en"], "targets": {{"fr": ""}}}}'
    )


def _tokenizers(path: Path, told: Manifest) -> tuple[Tokenizer, Tokenizer]:
    """The source's and the target's, which may be one."""
    if told.tokenizer is None:
        source, target = FAMILIES[told.family].tokenizers
    else:
        named = (told.tokenizer, told.tokenizer) if isinstance(told.tokenizer, str) else told.tokenizer
        source, target = [[name] for name in named]
    tokenizer = _tokenizer(path, source)
    return tokenizer, tokenizer if target == source else _tokenizer(path, target)


def _tokenizer(path: Path, names: Sequence[str]) -> Tokenizer:
    """The one that is there under one of these names."""
    for name in names:
        if (path / name).is_file():
            tokenizer: Tokenizer = SentencePieceProcessor(model_file=str(path / name))
            return tokenizer
    raise ConfigurationError(
        f"{path} has no tokenizer: there is no {' or '.join(names)}. It comes with the original model; "
        "ct2-transformers-converter takes it along with --copy_files"
    )


# ── which languages ───────────────────────────────────────────────────────────────────────────────────────────────


def _tags(family: FamilyName, words: Iterable[str]) -> dict[str, str]:
    """Language → its token, of those in the vocabulary. Languages that the table lacks are left out."""
    tag = FAMILIES[family].tag
    found: dict[str, dict[str, str]] = {}
    for match in filter(None, map(tag.fullmatch, words)) if tag is not None else ():
        with suppress(ValueError):
            found.setdefault(known(match[1]), {})[match[1]] = match[0]
    return {code: written[_usual(code, written)] for code, written in sorted(found.items())}


def _usual(code: str, written: Iterable[str]) -> str:
    """Of several ways to write a language ("fra", "fr", "fr_BE"), the one in its usual script and of no region."""
    language = find(code)
    order = (language.flores, language.iso3, language.code)
    return min(written, key=lambda each: (order.index(each) if each in order else len(order), len(each), each))


def _from_folder_name(path: Path, told: Manifest, words: frozenset[str]) -> Manifest:
    """An OPUS model says its pair nowhere but in its name: opus-mt-en-fr. One of several targets has their tokens."""
    named = _OPUS_NAME.fullmatch(path.absolute().name.lower())
    source, target = [_if_known(code) for code in named.groups() if code] if named else [None, None]
    targets = _tags("opus", words) or ({target: ""} if target else {})
    if not targets:
        raise ConfigurationError(
            f"{path} does not say which languages it translates: call it opus-mt-en-fr, or write {MANIFEST} beside "
            'model.bin: {"family": "opus", "source": ["en"], "targets": {"fr": ""}}'
        )
    return told.model_copy(update={"source": told.source or ([source] if source else []), "targets": targets})


def _if_known(code: str) -> str | None:
    """None for what is no language: "mul", "romance"."""
    try:
        return known(code)
    except ValueError:
        return None


def _sources(path: Path, told: Manifest, words: frozenset[str]) -> Mapping[str, str] | None:
    read = [_known(path, code) for code in told.source]
    if not FAMILIES[told.family].names_source:
        return dict.fromkeys(read, "") or None
    tags = _tags(told.family, words)
    if not set(read) <= set(tags):
        raise ConfigurationError(f"{path}: its vocabulary has no token of {_listed(set(read) - set(tags))}")
    return {code: tags[code] for code in read or tags}


def _targets(path: Path, told: Manifest, words: frozenset[str]) -> Mapping[str, str]:
    tags = _tags(told.family, words)
    given = {_known(path, code): token for code, token in told.targets.items()} or dict.fromkeys(tags, "")
    written = {code: token or tags.get(code, "") for code, token in given.items()}
    untold = [code for code, token in written.items() if not token]
    is_only_one = told.family == "opus" and len(written) == 1
    if not written or (untold and not is_only_one):
        raise ConfigurationError(
            f"{path}: there is no token for {_listed(untold) or 'any target language'}, neither in its vocabulary nor "
            f'in {MANIFEST} ("targets": {{"fr": ">>fra<<"}}); without one the model cannot know what to write'
        )
    if missing := {token for token in written.values() if token} - words:
        raise ConfigurationError(f"{path}: its vocabulary does not have {_listed(missing)}, which {MANIFEST} names")
    return written


def _known(path: Path, code: str) -> str:
    try:
        return known(code)
    except ValueError as error:
        raise ConfigurationError(f"{path / MANIFEST}: {error}") from error


def _listed(codes: Iterable[str]) -> str:
    """Codes for people; of many, the first."""
    ordered = sorted(codes)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
