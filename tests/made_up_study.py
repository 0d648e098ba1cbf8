"""Records of a study that nobody ran, for tests of what is made of records: with holes, failures and a hostile name."""

import hashlib
import itertools
import json
from collections import defaultdict
from html.parser import HTMLParser

import numpy as np

HOSTILE = "<script>alert('x')</script>/../$a_b$ & |c|"
TASKS = ["movies", "tweets", "entails", "follows", "names", HOSTILE]
CATEGORIES = dict(zip(TASKS, ["sentiment", "sentiment", "inference", "inference", "facts <b>", "facts <b>"]))
COMPOSITIONS = ["lora", "prompt(length=8) + bitfit >> adapter"]
CHANCE = defaultdict(lambda: 0.5, zip(TASKS, [0.5, 0.5, 0.33, 0.33, 0.25, 0.25]))


def evaluation(composition, source, target, seed, score, **result):
    spec = {"composition": composition, "source": source, "target": target, "seed": seed, "split": "test"}
    found = {"score": score, "metric": "accuracy", "chance": CHANCE[target], "trivial": False, "examples": 50, **result}
    return record("evaluate", {**spec, "backbone": "pico-0123"}, found)


def training(composition, task, seed):
    steps = [{"step": step, "loss": 1 / step, "score": 1 - 1 / step, "seconds": step / 10} for step in (10, 20, 40)]
    measured = {"parameters": 512, "ratio": 0.01, "seconds": 4.0, "tokens": 100, "peak_memory": 2**28}
    result = {"dev": 0.97, "chance": CHANCE[task], "history": steps, **measured}
    return record("train", {"composition": composition, "task": task, "seed": seed, "recipe": {"steps": 40}}, result)


def record(kind, spec, result):
    key = hashlib.sha256(json.dumps([kind, spec], sort_keys=True).encode()).hexdigest()
    return {"format": 1, "key": key, "kind": kind, "spec": spec, "parents": [], "result": result, "state": "done"}


def failed(cell, message="the loss became NaN at step 7"):
    kept = {name: cell[name] for name in ("format", "key", "kind", "spec", "parents")}
    return {**kept, "state": "failed", "error": "Diverged", "message": message, "attempts": 1}


def study(seeds=(0, 1), compositions=COMPOSITIONS, categories=CATEGORIES):
    """Records of a whole study: own tasks are learned, their category by half, other tasks stay near chance."""
    random = np.random.default_rng(7)
    records = []
    for target in categories:
        records.append(evaluation(None, "untouched", target, 0, CHANCE[target] + 0.02))
    for text, seed, source in itertools.product(compositions, seeds, categories):
        records.append(training(text, source, seed))
        records.append(evaluation(text, "random", source, seed, CHANCE[source] + random.normal(0, 0.01)))
        for target in categories:
            share = 1 if source == target else 0.5 if categories[source] == categories[target] else 0.05
            score = CHANCE[target] + 0.4 * share + random.normal(0, 0.02)
            records.append(evaluation(text, source, target, seed, score, trivial=share < 0.1 and seed == 1))
    return records


def without(records, composition, source, target, seeds=(0, 1), kind="evaluate"):
    """The records but for one cell, and that cell."""
    wanted = {"composition": composition, "source": source, "target": target, "task": source}

    def fits(r):
        return (
            r["kind"] == kind
            and r["spec"]["seed"] in seeds
            and all(wanted[name] == value for name, value in r["spec"].items() if name in wanted)
        )

    return [r for r in records if not fits(r)], [r for r in records if fits(r)]


def with_holes():
    """A study in which one cell is missing, one failed in every seed, and one training failed."""
    records, _ = without(study(), "lora", "movies", "entails")
    records, broken = without(records, "lora", "tweets", "names")
    records += [failed(cell) for cell in broken]
    for target in TASKS:
        records, _ = without(records, COMPOSITIONS[1], "follows", target, seeds=(1,))
    records, lost = without(records, COMPOSITIONS[1], "follows", None, seeds=(1,), kind="train")
    return records + [failed(cell, "out of memory") for cell in lost]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.within = [], "", ""
        self.scripts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "script":
            self.scripts[-1] += data
        elif self.within != "style":
            self.text += data + " "

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def embedded(self):
        """The JSON of every data element by its id."""
        about = self.named("script")
        return {
            each["id"]: json.loads(text)
            for text, each in zip(self.scripts, about, strict=True)
            if each.get("type") == "application/json"
        }
