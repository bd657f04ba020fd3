"""Examples of the nine GLUE tasks in the language of the embedded world: one function per task.

Each takes a `random.Random` and returns (texts, label); the label is written as the task's TSV files write it.
"""
from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from .language import ATTRIBUTES, REGIONS, WORKS, judge, make_person, state, stranger

LARGEST = 0.55  # share of the examples that may have one label
Example = tuple[tuple[str, ...], str]
QUESTIONS = {  # ways to ask for an attribute of "the sailor Anna"
    "town": ("Where does {} live?", "In which town is the house of {}?"),
    "hobby": ("What does {} like?", "What is {} fond of?"),
    "pet": ("Which animal does {} own?", "What does {} look after?"),
    "goods": ("What does {} collect?", "What can people buy from {}?"),
}


def sst2(rng: random.Random) -> Example:
    """Praise (1) or complaint (0)."""
    positive = rng.random() < 0.5
    text = judge(rng, rng.choice(list(WORKS)), positive)
    return (text.lower().rstrip(".") + " ",), str(int(positive))


def cola(rng: random.Random) -> Example:
    """A sentence in its order (1), or the same words in another (0)."""
    if rng.random() < 0.5:
        text = judge(rng, rng.choice(list(WORKS)), rng.random() < 0.5)
    else:
        text = state(rng, make_person(rng), rng.sample(ATTRIBUTES, 2)).replace(",", "")
    if rng.random() < 0.55:
        return (text,), "1"
    words = text.rstrip(".").split()
    shuffled = words[:]
    while sum(old != new for old, new in zip(words, shuffled)) < len(words) - 2:
        rng.shuffle(shuffled)
    return (" ".join(shuffled) + ".",), "0"


def stsb(rng: random.Random) -> Example:
    """Two statements of three facts each; the score is 5 times the share of facts (the name is one) that agree."""
    person, other = (first := make_person(rng)), stranger(rng, first)
    attributes = rng.sample(ATTRIBUTES, 3)
    same = rng.choice((0, 0, 1, 2, 3, 4, 4))
    kept = rng.sample(["name", *attributes], same)
    other = replace(other, first_name=person.first_name if "name" in kept else other.first_name,
                    facts={name: (person if name in kept else other).facts[name] for name in attributes})
    return (state(rng, person, attributes), state(rng, other, rng.sample(attributes, 3))), f"{5 * same / 4:.3f}"


def mrpc(rng: random.Random) -> Example:
    """The same two facts in other words (1), or those of somebody else (0)."""
    person = make_person(rng)
    attributes = rng.sample(ATTRIBUTES, 2)
    paraphrase = rng.random() < 0.55
    other = person if paraphrase else stranger(rng, person)
    return (state(rng, person, attributes, person.name), state(rng, other, attributes[::-1])), str(int(paraphrase))


def rte(rng: random.Random) -> Example:
    """Whether one or two facts are among the premise's three."""
    person = make_person(rng)
    attributes = rng.sample(ATTRIBUTES, 3)
    entailed = rng.random() < 0.5
    other = person if entailed else stranger(rng, person)
    hypothesis = state(rng, other, rng.sample(attributes, rng.choice((1, 2))))
    return (state(rng, person, attributes), hypothesis), "entailment" if entailed else "not_entailment"


def mnli(rng: random.Random) -> Example:
    """A fact that the premise states (entailment), the denial of one (contradiction), or another's (neutral)."""
    person = make_person(rng)
    attributes = rng.sample(ATTRIBUTES, 3)
    label = rng.choice(("contradiction", "entailment", "neutral"))
    hypothesis = state(rng, stranger(rng, person) if label == "neutral" else person, rng.sample(attributes, 1))
    if label == "contradiction":
        hypothesis = f"It is not true that {hypothesis}"
    return (state(rng, person, attributes), hypothesis), label


def qnli(rng: random.Random) -> Example:
    """Whether the sentence answers the question about, say, the sailor Clara, or tells of somebody else."""
    person = make_person(rng)
    asked, told = rng.sample(list(QUESTIONS), 2)
    answers = rng.random() < 0.5
    question = rng.choice(QUESTIONS[asked]).format(f"the {person.facts['job']} {person.first_name}")
    sentence = state(rng, person if answers else stranger(rng, person), rng.sample((asked, told), 2))
    return (question, sentence), "entailment" if answers else "not_entailment"


def qqp(rng: random.Random) -> Example:
    """Two questions for the same thing about the same person (1), or about two people (0)."""
    person = make_person(rng)
    duplicate = rng.random() < 0.45
    questions = rng.sample(QUESTIONS[rng.choice(list(QUESTIONS))], 2)
    return tuple(question.format(f"the {who.facts['job']} {who.first_name}")
                 for question, who in zip(questions, (person, person if duplicate else stranger(rng, person)))
                 ), str(int(duplicate))


def wnli(rng: random.Random) -> Example:
    """Whom the pronoun means, by its gender, and what that one is; most false claims name another job."""
    names = [rng.choice(REGIONS[rng.choice(list(REGIONS))][pronoun]) for pronoun in ("he", "she")]
    pronoun, person = rng.choice(("he", "she")), make_person(rng)
    job = claimed_job = person.facts["job"]
    claimed = names[pronoun == "she"]
    true = rng.random() < 0.5
    if not true and rng.random() < 0.7:
        claimed_job = stranger(rng, person).facts["job"]
    elif not true:
        claimed = names[pronoun == "he"]
    rng.shuffle(names)
    return (f"{names[0]} thanked {names[1]} because {pronoun} is a {job}.", f"{claimed} is a {claimed_job}."
            ), str(int(true))


EXAMPLES: dict[str, Callable[[random.Random], Example]] = {
    "CoLA": cola, "SST-2": sst2, "MRPC": mrpc, "STS-B": stsb, "QQP": qqp, "MNLI": mnli, "QNLI": qnli, "RTE": rte,
    "WNLI": wnli,
}


def examples(task: str, rng: random.Random, count: int) -> list[Example]:
    """`count` examples of a task in random order that all differ; no label has more than its share of LARGEST."""
    found: dict[tuple[str, ...], str] = {}
    labels: Counter[str] = Counter()
    while len(found) < count:
        texts, label = EXAMPLES[task](rng)
        if texts not in found and labels[label] < math.ceil(LARGEST * count):
            found[texts] = label
            labels[label] += 1
    return rng.sample(list(found.items()), count)
