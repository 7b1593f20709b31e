"""The recogniser's tokens: every word one, every byte one, and Whisper's own with 8 seconds of timestamps.

The order is Whisper's, and the libraries rely on it: text below <|endoftext|>, timestamps last, right after
<|notimestamps|>. Every byte is there because faster-whisper asks for the ids of " -" and " '" when it loads.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.vocabulary import WORDS

#: Seconds that the model looks at together. Whisper's 30 would be four times the work for sentences of two.
WINDOW = 8
#: Timestamps, and frames of the encoder, a second.
STEPS = 50

_SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


class Tokens:
    """Ids of words and of what stands between them."""

    def __init__(self) -> None:
        self.tokenizer = _tokenizer()
        self.size: int = self.tokenizer.get_vocab_size()
        self.end, self.start, self.previous, self.no_speech, self.no_timestamps = (
            self._id(name)
            for name in (
                "<|endoftext|>",
                "<|startoftranscript|>",
                "<|startofprev|>",
                "<|nospeech|>",
                "<|notimestamps|>",
            )
        )
        self.blank = self._id("Ġ")
        self._words = {word: self._id(f"Ġ{word}") for word in WORDS}

    def of(self, words: Iterable[str]) -> list[int]:
        """Return the tokens of words that the model knows."""
        return [self._words[word] for word in words]

    def at(self, seconds: float) -> int:
        """Return the timestamp nearest to `seconds` from the window's begin."""
        return self.no_timestamps + 1 + min(max(0, round(seconds * STEPS)), WINDOW * STEPS)

    def in_order(self) -> list[str]:
        """Return every token as it is written in the vocabulary, by id."""
        return [self.tokenizer.id_to_token(number) for number in range(self.size)]

    def _id(self, token: str) -> int:
        number: int = self.tokenizer.token_to_id(token)
        return number


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator([f" {word}" for word in WORDS for _ in range(50)], trainer)
    tokenizer.add_special_tokens([*_SPECIAL, *(f"<|{step / STEPS:.2f}|>" for step in range(WINDOW * STEPS + 1))])
    return tokenizer
