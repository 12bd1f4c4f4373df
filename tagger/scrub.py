"""Words of a title that give a label away, and titles without them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# Vowel signs and accents are no letters to `re`: combining ones, of the Indic scripts, of Thai.
_SIGNS = "\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e"
_WORD = re.compile(rf"(?:[^\W_]|[{_SIGNS}])+")
# Han, kana and Thai are written without spaces: there a label stands within a longer run.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_TOO_COMMON = frozenset({"and", "of", "the", "in", "off", "up", "set", "with"})
# Endings under which catalogs write the same label: Printed / Print, Stripes / Striped.
_ENDINGS = ("", "s", "es", "d", "ed", "ing")


def words_of(text: str) -> list[str]:
    """The lower-cased words of `text` in order: runs of letters and digits."""
    return _WORD.findall(text.lower())


def giveaways(labels: Iterable[str]) -> frozenset[str]:
    """All spellings of the words that make up `labels`: the label's word, its stem, its endings.

    A common word beside others, such as `off` in `Off White`, is none of them.

    >>> sorted(giveaways(["Striped"]))[:3]
    ['strip', 'stripe', 'striped']
    """
    found: set[str] = set()
    for label in labels:
        words = words_of(label)
        for word in words:
            if word in _TOO_COMMON and len(words) > 1:
                continue
            found.add(word)
            if not word.isalpha():
                continue
            stems = {word} | {word[: -len(end)] for end in _ENDINGS[1:] if word.endswith(end)}
            long_stems = {stem for stem in stems if len(stem) >= 3}
            found |= {stem + end for stem in long_stems for end in _ENDINGS}
    return frozenset(found)


def scrub(title: str, words: frozenset[str]) -> str:
    """`title` without `words`; everything else stays as it was written.

    >>> scrub("Acme Men Blue Striped Shirt", giveaways(["Blue", "Striped"]))
    'Acme Men Shirt'
    """
    kept = _WORD.sub(lambda match: _without(match[0], words), title)
    return " ".join(kept.split())


def says_none_of(words: frozenset[str], text: str) -> bool:
    """Whether `text` holds none of `words`."""
    return all(_without(run, words) == run for run in _WORD.findall(text))


def _without(run: str, words: frozenset[str]) -> str:
    """A run of letters, unless it is one of `words`; of one without spaces what is left of it."""
    if run.lower() in words:
        return ""
    if _UNSPACED.search(run):
        for word in _unspaced(words):
            run = run.replace(word, "")
    return run


@lru_cache(maxsize=64)
def _unspaced(words: frozenset[str]) -> list[str]:
    """Those of `words` that are written without spaces, the longest first; of equally long ones, as
    they sort, or each process would take another one out where two overlap."""
    return sorted(filter(_UNSPACED.search, words), key=lambda word: (-len(word), word))
