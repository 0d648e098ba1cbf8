"""Metrics by name: each gives a score, its part for every example, and whether the predictions are trivial.

All are higher for better, within 0..1, or -1..1 for correlations. The libraries that compute them are imported when a
metric is first used, because they take seconds and listing tasks must not wait for them.

Text metrics compare text of any script. Text is brought to a Unicode normal form first, so that an accented letter is
the same whether it is one code point or two. `words` splits text into words; `normalised` does it as SQuAD does.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from deltacompose.errors import BadInput, unknown
from deltacompose.task.answers import EXTRACTIONS, equation_holds, same_answer

References = Sequence[tuple[str, ...]]
"""For every example its accepted answers, the first being the one that is trained on."""


@dataclass(frozen=True)
class Score:
    """A score in a metric.

    `per_example` has one number per example: its part of the mean where the metric is a mean over examples; the product
    of the two standardised values for a correlation, whose mean is the correlation; else 1 for right and 0 for wrong.
    `trivial` says that all predictions are the same: whatever the value, nothing of the input went into them.
    """

    value: float
    metric: str
    per_example: tuple[float, ...]
    trivial: bool


@dataclass(frozen=True)
class Metric:
    """A metric: what it compares, its range, and its functions. Higher is always better.

    `compares` is what it reads: the `labels` of choice tasks, generated `texts`, or `numbers` (labels or texts that
    read as numbers). `is_mean` says that the score is the mean of its parts, so that a bootstrap may resample those;
    where it is not, resample examples and score again. `total(references, predictions, labels)` is the score of such a
    metric, where `labels` are the task's labels in order.
    """

    name: str
    compares: Literal["labels", "texts", "numbers"]
    parts: Callable[[References, Sequence[str]], list[float]]
    total: Callable[[References, Sequence[str], Sequence[str]], float] | None = None
    is_mean: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    source: str = ""

    def score(self, references: References, predictions: Sequence[str], labels: Sequence[str] = ()) -> Score:
        """The score of predictions, given the accepted answers of every example.

        Raises:
            BadInput: no examples, or not as many predictions as examples.
        """
        if not references:
            raise BadInput(f"{self.name} of no examples is not defined; give at least one example")
        if len(predictions) != len(references):
            raise BadInput(f"{len(predictions)} predictions for {len(references)} examples; there must be one for each")
        parts = self.parts(references, predictions)
        value = self.total(references, predictions, labels) if self.total else math.fsum(parts) / len(parts)
        trivial = len(predictions) > 1 and len(set(map(self._read, predictions))) == 1
        return Score(float(value), self.name, tuple(parts), trivial)

    def _read(self, prediction: str) -> str | float:
        """Normal form of a prediction: as numbers, '3' and '3.0' are equal, and so are any two other texts."""
        return _number(prediction) if self.compares == "numbers" else prediction


def metric(name: str) -> Metric:
    """The metric of that name.

    >>> accuracy = metric("accuracy")
    >>> accuracy.score([("yes",), ("no",)], ["yes", "yes"], labels=("yes", "no")).value
    0.5

    Raises:
        BadInput: there is none.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


def _right(references: References, predictions: Sequence[str]) -> list[float]:
    return [float(answer == accepted[0]) for accepted, answer in zip(references, predictions, strict=True)]


def _targets(references: References) -> list[str]:
    return [accepted[0] for accepted in references]


def _macro_f1(references: References, predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of the F1 of every label that is a target or a prediction."""
    from sklearn.metrics import f1_score

    return float(f1_score(_targets(references), list(predictions), average="macro", zero_division=0.0))


def _binary_f1(references: References, predictions: Sequence[str], labels: Sequence[str]) -> float:
    """F1 of the positive label, which is the last of the two."""
    from sklearn.metrics import f1_score

    positive = [labels[-1]]
    return float(f1_score(_targets(references), list(predictions), labels=positive, average="micro", zero_division=0.0))


def _mcc(references: References, predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Matthews' correlation; 0 where the targets or the predictions do not vary."""
    from sklearn.metrics import matthews_corrcoef

    if len(set(predictions)) == 1 or len(set(_targets(references))) == 1:
        return 0.0
    return float(matthews_corrcoef(_targets(references), list(predictions)))


def is_number(text: str) -> bool:
    """Whether a correlation can read a text.

    >>> is_number("3.5"), is_number("three")
    (True, False)
    """
    return not math.isnan(_number(text))


def _number(text: str) -> float:
    """The number that a text says, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _standardised(values: Any) -> Any:
    """Values minus their mean, over their standard deviation (n in the denominator); zeros where they do not vary.

    A prediction that is not a number (NaN) counts as the mean of the others and adds nothing to a correlation.
    """
    import numpy as np

    known = ~np.isnan(values)
    if not known.any() or np.ptp(values[known] / 2) == 0:  # halves, for the span of extreme numbers can overflow
        return np.zeros_like(values)
    scaled = values / np.abs(values[known]).max()
    centred = np.where(known, scaled - scaled[known].mean(), 0.0)
    deviation = np.sqrt((centred**2).mean())
    return centred / deviation if deviation > 0 else np.zeros_like(values)


def _products(references: References, predictions: Sequence[str], ranks: bool = False) -> list[float]:
    """Products of the standardised targets and predictions: their mean is Pearson's r, over ranks Spearman's rho."""
    import numpy as np
    from scipy.stats import rankdata

    sides = [np.array([_number(text) for text in texts]) for texts in (_targets(references), predictions)]
    if ranks:
        sides = [rankdata(side, nan_policy="omit") for side in sides]
    x, y = map(_standardised, sides)
    return [float(product) for product in x * y]


def _rank_products(references: References, predictions: Sequence[str]) -> list[float]:
    return _products(references, predictions, ranks=True)


def _pearson(references: References, predictions: Sequence[str], labels: Sequence[str]) -> float:
    return _mean(_products(references, predictions))


def _spearman(references: References, predictions: Sequence[str], labels: Sequence[str]) -> float:
    return _mean(_rank_products(references, predictions))


def _mean(parts: Sequence[float]) -> float:
    return min(1.0, max(-1.0, math.fsum(parts) / len(parts)))


def _best(compare: Callable[[str, str], float]) -> Callable[[References, Sequence[str]], list[float]]:
    """For every example the best of `compare(accepted, prediction)` over the accepted answers."""

    def parts(references: References, predictions: Sequence[str]) -> list[float]:
        pairs = zip(references, predictions, strict=True)
        return [max(compare(answer, prediction) for answer in accepted) for accepted, prediction in pairs]

    return parts


UNSPACED = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
"""Scripts that put no space between words: each letter, with its marks, is a token of its own."""
_UNSPACED = "".join(rf"\p{{{script}}}" for script in UNSPACED)


@cache
def _letter() -> Any:
    """The pattern of one letter, with its marks, of a script without spaces."""
    import regex

    return regex.compile(rf"[{_UNSPACED}]\p{{M}}*", regex.VERSION1)


@cache
def _word() -> Any:
    """The pattern of a letter of a script without spaces, or of a run of letters, digits and marks of the others."""
    import regex

    begins = rf"[[\p{{L}}\p{{N}}]--[{_UNSPACED}]]"
    goes_on = rf"[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]"
    return regex.compile(rf"[{_UNSPACED}]\p{{M}}*|{begins}{goes_on}*", regex.VERSION1)


def words(text: str) -> list[str]:
    """A text's words in any script: runs of letters, digits and their marks, in lower case.

    Text is brought to the normal form NFKC, and format characters (soft hyphens, joiners) are dropped. In scripts that
    put no space between words (`UNSPACED`) every letter is a word, as is usual for ROUGE in Chinese. On ASCII these are
    the tokens of the package `rouge_score` without its stemmer.

    >>> words("The cat's mat"), words("Über die Bäume"), words("закон подписан"), words("你好，世界")
    (['the', 'cat', 's', 'mat'], ['über', 'die', 'bäume'], ['закон', 'подписан'], ['你', '好', '世', '界'])
    """
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return list(_word().findall(plain.lower()))


def _exact(answer: str, prediction: str) -> float:
    """Equal but for white space and for how accented letters are composed (NFC)."""
    expected, other = (unicodedata.normalize("NFC", text).split() for text in (answer, prediction))
    return float(expected == other)


def normalised(text: str) -> list[str]:
    """A text's words as SQuAD compares them: lower case, without punctuation and the articles a, an, the.

    Beyond SQuAD's own rules, which are of English, punctuation of every script is removed, and the letters of scripts
    without spaces (`UNSPACED`) are words of their own, as in MLQA (Lewis et al. 2020, arXiv 1910.07475). The text is
    brought to the normal form NFKC. On ASCII the words are those of SQuAD's own script.

    >>> normalised("The Law, signed."), normalised("法律。")
    (['law', 'signed'], ['法', '律'])
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    bare = "".join(c for c in plain if c not in string.punctuation and not _silent(c))
    without_articles = re.sub(r"\b(a|an|the)\b", " ", bare)
    return str(_letter().sub(r" \g<0> ", without_articles)).split()


def _silent(character: str) -> bool:
    """Whether a character is punctuation of any script, or a format character, which nobody sees."""
    category = unicodedata.category(character)
    return category.startswith("P") or category == "Cf"


def _token_f1(answer: str, prediction: str) -> float:
    """F1 of the words in common, counted with repetition; two texts without words are equal."""
    expected, predicted = normalised(answer), normalised(prediction)
    common = sum((Counter(expected) & Counter(predicted)).values())
    if not expected or not predicted:
        return float(expected == predicted)
    return 2 * common / (len(expected) + len(predicted))


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())  # its own tokenizer drops all but the letters a to z


class _Words:
    """`words` as the tokenizer that `rouge_score` asks for."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _rouge_l(answer: str, prediction: str) -> float:
    return float(_rouge().score(answer, prediction)["rougeL"].fmeasure)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _chrfs(references: References, predictions: Sequence[str]) -> list[float]:
    """For every example chrF2 against the accepted answer that it is best against."""

    def composed(text: str) -> str:
        return unicodedata.normalize("NFC", text)

    pairs = zip(references, predictions, strict=True)
    return [
        float(_chrf().sentence_score(composed(prediction), list(map(composed, accepted))).score) / 100
        for accepted, prediction in pairs
    ]


def _extracted(extract: Callable[[str], str]) -> Callable[[str, str], float]:
    """Compares what is extracted of two texts; an accepted answer that has nothing to extract is taken whole."""

    def compare(answer: str, predicted: str) -> float:
        return float(same_answer(extract(answer) or answer, extract(predicted)))

    return compare


def _equations(references: References, predictions: Sequence[str]) -> list[float]:
    """For every example whether the prediction is a true equation; the references are not read."""
    return [float(equation_holds(predicted)) for predicted in predictions]


def _codebleu(answer: str, predicted: str) -> float:
    """CodeBLEU of Python code (Ren et al. 2020, arXiv 2009.10297), four equal weights, by the package `codebleu`."""
    try:
        from codebleu import calc_codebleu
    except ImportError:
        raise BadInput(
            "the metric 'codebleu' needs the packages codebleu and tree-sitter-python: pip install codebleu "
            "tree-sitter-python"
        ) from None
    return float(calc_codebleu([answer], [predicted], lang="python", weights=(0.25, 0.25, 0.25, 0.25))["codebleu"])


_PEFT_BENCH = "Belanec et al. 2025, arXiv 2511.21285"
_SQUAD = "Rajpurkar et al. 2016, arXiv 1606.05250"

METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        Metric("accuracy", "labels", _right, source="Wang et al. 2019, GLUE, arXiv 1804.07461"),
        Metric("macro_f1", "labels", _right, _macro_f1, is_mean=False, source="van Rijsbergen 1979; mean over labels"),
        Metric("f1", "labels", _right, _binary_f1, is_mean=False, source="van Rijsbergen 1979"),
        Metric("mcc", "labels", _right, _mcc, is_mean=False, range=(-1.0, 1.0), source="Matthews 1975"),
        Metric("pearson", "numbers", _products, _pearson, is_mean=False, range=(-1.0, 1.0), source="Pearson 1895"),
        Metric(
            "spearman", "numbers", _rank_products, _spearman, is_mean=False, range=(-1.0, 1.0), source="Spearman 1904"
        ),
        Metric("exact_match", "texts", _best(_exact), source=_SQUAD),
        *(
            Metric(f"exact_match_{name}", "texts", _best(_extracted(way)), source=_PEFT_BENCH)
            for name, way in EXTRACTIONS.items()
        ),
        Metric("equation", "texts", _equations, source=f"{_PEFT_BENCH}, on SVAMP"),
        Metric("codebleu", "texts", _best(_codebleu), source="Ren et al. 2020, arXiv 2009.10297"),
        Metric("token_f1", "texts", _best(_token_f1), source=_SQUAD),
        Metric("rouge_l", "texts", _best(_rouge_l), source="Lin 2004, F-measure of one example, then the mean"),
        Metric("chrf", "texts", _chrfs, source="Popović 2015, chrF2 of one example, then the mean"),
    )
}
"""Every metric by name."""
