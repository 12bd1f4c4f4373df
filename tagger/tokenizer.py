"""Titles to token ids: pieces learned from the titles, or the tower's own."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from tagger.errors import ModelError

FILE_NAME = "tokenizer.json"
_SPECIAL = ["[PAD]", "[UNK]", "[END]"]
PAD, UNKNOWN, END = range(3)


class Tokenizer(Protocol):
    """What the pipeline asks of a tokenizer."""

    pad_id: int
    context_length: int
    """Tokens of the longest title, the special ones among them."""
    num_leading: int
    """Special tokens before the first one of the title; behind the last one stands one more."""
    cleaning: tuple[str, ...]
    """What Python does to a title before `to_fast()` reads it, function by function."""

    def encode(self, titles: Sequence[str]) -> list[list[int]]:
        """Token ids per title, special tokens in place, cut to the context length, unpadded."""
        ...

    def save(self, directory: Path) -> None:
        """Write what `load` needs into a model directory."""
        ...

    def to_fast(self) -> FastTokenizer:
        """One that gives by itself, to a cleaned title, the ids that `encode` gives to the title:
        special tokens are in place, and long titles are cut."""
        ...


class LearnedPieces:
    """A `tokenizers` file; ids end with the end token, where the text tower reads its global."""

    num_leading = 0
    cleaning: tuple[str, ...] = ()

    def __init__(self, fast: FastTokenizer, context_length: int) -> None:
        self._fast = fast
        self.context_length = context_length
        self.pad_id = PAD

    def encode(self, titles: Sequence[str]) -> list[list[int]]:
        pieces = (encoding.ids for encoding in self._fast.encode_batch(list(titles)))
        return [[*ids[: self.context_length - 1], END] for ids in pieces]

    def save(self, directory: Path) -> None:
        (directory / FILE_NAME).write_text(self._fast.to_str(), encoding="utf-8")

    def to_fast(self) -> FastTokenizer:
        fast = FastTokenizer.from_str(self._fast.to_str())
        fast.post_processor = processors.TemplateProcessing(
            single="$A [END]", special_tokens=[("[END]", END)]
        )
        fast.enable_truncation(self.context_length)
        return fast

    @property
    def vocabulary_size(self) -> int:
        return int(self._fast.get_vocab_size())


class ClipPieces:
    """CLIP's byte-pair encoding, which open_clip carries: ids start with SOT and end with EOT."""

    pad_id = 0
    num_leading = 1
    cleaning: tuple[str, ...] = ("ftfy.fix_text", "html.unescape", "html.unescape", "str.lower")

    def __init__(self, context_length: int) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self._bpe = SimpleTokenizer(context_length=context_length)
        self.context_length = context_length
        # open_clip's own takes a second for a word of 2,000 letters, and forgets no word.
        self._fast = ExportedPieces(self.to_fast(), context_length, self.pad_id, self.cleaning)

    def encode(self, titles: Sequence[str]) -> list[list[int]]:
        return self._fast.encode(titles)

    def save(self, directory: Path) -> None:
        """Nothing to write: the encoding is part of open_clip."""

    def to_fast(self) -> FastTokenizer:
        bpe = self._bpe
        merges = sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.__getitem__)
        fast = FastTokenizer(models.BPE(bpe.encoder, merges, end_of_word_suffix="</w>"))
        # For titles that were not cleaned: lower-case is most of it.
        fast.normalizer = normalizers.Lowercase()
        fast.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(bpe.pat.pattern), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        start, end = (bpe.decoder[token] for token in (bpe.sot_token_id, bpe.eot_token_id))
        fast.add_special_tokens([start, end])  # A title that spells one out means it, as in CLIP.
        fast.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            special_tokens=[(start, bpe.sot_token_id), (end, bpe.eot_token_id)],
        )
        fast.enable_truncation(self.context_length)
        return fast


class ExportedPieces:
    """tokenizer.json of an export, whose special tokens are in place, behind the `cleaning` that it
    asks for: the ids of the tokenizer that it was made of."""

    def __init__(
        self, fast: FastTokenizer, context_length: int, pad_id: int, cleaning: tuple[str, ...]
    ) -> None:
        """Raises:
        KeyError: a function in `cleaning` that this tagger does not know.
        """
        self._fast = fast
        self._steps = [_cleaner(name) for name in cleaning]
        self.context_length, self.pad_id, self.cleaning = context_length, pad_id, cleaning
        self.num_leading = len(fast.encode("").ids) - 1

    def encode(self, titles: Sequence[str]) -> list[list[int]]:
        cleaned = list(titles)
        for step in self._steps:
            cleaned = [step(title) for title in cleaned]
        return [encoding.ids for encoding in self._fast.encode_batch(cleaned)]

    def save(self, directory: Path) -> None:
        (directory / FILE_NAME).write_text(self._fast.to_str(), encoding="utf-8")

    def to_fast(self) -> FastTokenizer:
        return FastTokenizer.from_str(self._fast.to_str())


def _cleaner(name: str) -> Callable[[str], str]:
    """The function that an export calls `name`."""
    if name == "ftfy.fix_text":
        import ftfy

        return ftfy.fix_text
    return {"html.unescape": html.unescape, "str.lower": str.lower}[name]


def learn_pieces(titles: Iterable[str], vocabulary_size: int, context_length: int) -> LearnedPieces:
    """Lower-cased, accent-free byte-pair encoding of at most `vocabulary_size` pieces; characters
    that these have no room for, the rarest, are unknown.

    The same titles give the same pieces. (The trainers of `tokenizers` that mark the start or the
    end of a word do not: they break ties at random.)
    """
    fast = FastTokenizer(models.BPE(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    titles = list(titles)
    counts = Counter[str]()
    for title in titles:
        counts.update("".join(fast.normalizer.normalize_str(title).split()))
    # The trainer would choose among equally frequent characters at random.
    alphabet = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = alphabet[: max(1, vocabulary_size - len(_SPECIAL))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=_SPECIAL,
        initial_alphabet=alphabet,
        limit_alphabet=max(1, len(alphabet)),
        show_progress=False,
    )
    fast.train_from_iterator(titles, trainer)
    return LearnedPieces(fast, context_length)


def read_fast_tokenizer(directory: Path) -> FastTokenizer | None:
    """tokenizer.json of a model directory, None where there is none.

    Raises:
        ModelError: the file is not one that `tokenizers` can read.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return None
    try:
        return FastTokenizer.from_file(str(path))
    # tokenizers raises a bare Exception for any malformed file.
    except Exception as error:
        raise ModelError(
            f"{path}: not a tokenizer file: {error}", "train the model again"
        ) from None
