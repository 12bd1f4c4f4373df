"""A tokenizer that leaves home gives the ids that it gave at home."""

from __future__ import annotations

import html
import random

import ftfy
import pytest

from tagger.tokenizer import UNKNOWN, ClipPieces, ExportedPieces, Tokenizer, learn_pieces

from .conftest import random_titles

TOKENIZERS: list[Tokenizer] = [learn_pieces(random_titles(60), 200, 16), ClipPieces(20)]
CLEANING = {
    "ftfy.fix_text": ftfy.fix_text,
    "html.unescape": html.unescape,
    "str.lower": str.lower,
}
ALPHABETS = (
    "abcdefg 'st 're 've 'll",
    "ABCÄÖÜßéÉñçİ\u0131Σ\u03c3ς",
    "0123456789½²Ⅷ٣",
    " \t\n\u00a0\u3000\u200b\x1c\x85",
    "漢字かなカナ한국어हिन्दीไทยعربيעברית",
    "😀👩🏽",
    "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    "&amp;&lt;&#39;ﬁ\u2019\u201c\u201d\u2014…™®ÃƒÂ©â€™\ufeff\u0301\x00",
)
WORDS = (
    "t-shirt",
    "women's",
    "men\u2019s",
    "I'LL",
    "&AMP;",
    "<b>",
    "<end_of_text>",
    "[END]",
    "shoe",
)


def titles(count: int) -> list[str]:
    """Words that tokenizers trip over, between random characters."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        length = rng.randint(0, 30)
        noise = ["".join(rng.choices(rng.choice(ALPHABETS), k=5)) for _ in range(length)]
        rows.append(" ".join(rng.choice((word, rng.choice(WORDS))) for word in noise))
    return rows


def test_more_characters_than_pieces_are_unknown_and_not_beyond_the_vocabulary() -> None:
    signs = [chr(0x4E00 + k) for k in range(400)]
    rows = ["".join(signs[k : k + 20]) + " shirt" for k in range(0, 400, 10)] + ["shirt"] * 400
    pieces = learn_pieces(rows, 100, 12)
    assert pieces.vocabulary_size <= 100
    ids = [i for row in pieces.encode(rows) for i in row]
    assert max(ids) < 100
    assert UNKNOWN in ids
    assert UNKNOWN not in pieces.encode(["shirt"])[0]
    again = learn_pieces(rows, 100, 12)
    assert again.to_fast().to_str() == pieces.to_fast().to_str()


def cleaned(title: str, tokenizer: Tokenizer) -> str:
    for name in tokenizer.cleaning:
        title = CLEANING[name](title)
    return title


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["learned", "clip"])
def test_the_portable_tokenizer_gives_the_same_ids(tokenizer: Tokenizer) -> None:
    fast = tokenizer.to_fast()
    for title in titles(500):
        assert fast.encode(cleaned(title, tokenizer)).ids == tokenizer.encode([title])[0], title


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["learned", "clip"])
def test_what_an_export_reads_titles_with_is_the_tokenizer_of_its_source(
    tokenizer: Tokenizer,
) -> None:
    exported = ExportedPieces(
        tokenizer.to_fast(), tokenizer.context_length, tokenizer.pad_id, tokenizer.cleaning
    )
    assert exported.encode(titles(500)) == tokenizer.encode(titles(500))
    assert exported.num_leading == tokenizer.num_leading


def test_case_and_accents_of_a_title_tell_nothing() -> None:
    pieces = learn_pieces(random_titles(60), 200, 16)
    spellings = ["R\u00c9D Shirt", "RE\u0301D SHIRT", "red shirt"]
    assert len({tuple(ids) for ids in pieces.encode(spellings)}) == 1
    assert UNKNOWN not in pieces.encode(spellings)[0]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["learned", "clip"])
def test_plain_titles_need_no_cleaning(tokenizer: Tokenizer) -> None:
    fast = tokenizer.to_fast()
    for title in ["Red Shirt, size 42", "  WOMEN's   shoe\n", "red " * 50, *random_titles(20)]:
        assert fast.encode(title).ids == tokenizer.encode([title])[0]


def test_ids_for_clip_are_those_of_open_clip_and_no_word_is_remembered() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    theirs, mine = SimpleTokenizer(context_length=20), ClipPieces(20)
    titles = [
        *random_titles(40),
        "Caf\u00e9 &amp; Co. 50%",
        "don't \U0001f45f",
        "<end_of_text>",
        "",
    ]
    for title, ids in zip(titles, mine.encode(titles), strict=True):
        assert ids == [theirs.sot_token_id, *theirs.encode(title)[:18], theirs.eot_token_id]
    remembered = len(mine._bpe.cache)
    mine.encode([f"unheard{n}of" for n in range(50)])
    assert len(mine._bpe.cache) == remembered
    assert len(mine.encode(["x" * 100_000])[0]) == 20
