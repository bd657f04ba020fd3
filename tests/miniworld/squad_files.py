"""SQuAD in the language of the embedded world: passages about two people, and questions about what they do.

v2.0 has the questions of v1.1 under the same ids, and others that their passage does not answer, as SQuAD itself has.
"""
from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .glue_files import Counts
from .language import ATTRIBUTES, PHRASES, REGIONS, TITLE_WORDS, WORKS, Person, judge, make_person, state

PASSAGES_SHARE = 0.3  # passages of a file, by the rows that a file of GLUE has
PASSAGES = 5          # of an article
ANNOTATORS = 3        # who answer a question of a dev set
# How to ask for an attribute of a person, with the verb of the passage. A model as small as this one learns in half a
# minute to find which of three words a passage has, and whether it has one, and not in minutes what a verb points at.
CHOICE = "Which of {}, {} and {} is it that {} {}?"
OPEN_SHARE = 0.1
OPEN = {
    "town": "Which town is it that {} {}?",
    "hobby": "What is it that {} {}?",
    "pet": "Which animal is it that {} {}?",
    "goods": "What can people buy that {} {}?",
}


def make_passage(rng: random.Random) -> tuple[str, list[tuple[Person, list[str]]]]:
    """A passage: a sentence about each of two people from different regions, sometimes one about a work; and the people
    with the attributes that it tells of each, all of them different. Some of them have two sorts of goods."""
    attributes = rng.sample(ATTRIBUTES, 4)
    people = [(make_person(rng, region), told)
              for region, told in zip(rng.sample(list(REGIONS), 2), (attributes[:2], attributes[2:]))]
    for person, _ in people:
        goods = rng.sample(REGIONS[person.region]["goods"], rng.choice((1,) * 7 + (2,)))
        person.facts["goods"] = " and ".join(goods)
    sentences = [state(rng, person, told, person.name) for person, told in people]
    if rng.random() < 0.3:
        sentences.insert(rng.randrange(3), judge(rng, rng.choice(list(WORKS)), rng.random() < 0.5))
    passage = rng.choice((*" " * 8, "  ", "\n")).join(sentences)
    return " " * (rng.random() < 0.02) + passage, people  # SQuAD's, too, have stray spaces


def make_questions(rng: random.Random, context: str, people: list[tuple[Person, list[str]]]
                   ) -> Iterator[tuple[str, str, bool]]:
    """All questions about a passage: each with the words that answer it, or seem to, and whether they do.

    They only seem to where the question is which of three things Anna sells, and it is a fourth, or which animal she
    feeds, and the passage tells which one she owns. Where it tells of no animal, it is a name that seems to answer.
    """
    def ask(person: Person, phrase: str, *choice: str) -> str:
        verb = phrase.removesuffix("{}").removesuffix("a ").rstrip()
        words = (*rng.sample(choice, len(choice)), person.first_name, verb)
        return (CHOICE if choice else OPEN[attribute]).format(*words) + " " * (rng.random() < 0.03)

    told_of = {attribute: person for person, told in people for attribute in told}
    for attribute in OPEN:
        is_open = rng.random() < OPEN_SHARE
        if attribute not in told_of:
            person, _ = rng.choice(people)
            if is_open:
                yield ask(person, rng.choice(PHRASES[attribute])), person.name, False
            continue
        person = told_of[attribute]
        fact = person.facts[attribute]
        used, = (phrase for phrase in PHRASES[attribute] if phrase.format(fact) in context)
        if is_open or " and " in fact:
            yield ask(person, used), fact, True
            yield ask(person, rng.choice([phrase for phrase in PHRASES[attribute] if phrase != used])), fact, False
            continue
        others = rng.sample([word for values in REGIONS.values() for word in values[attribute] if word != fact], 5)
        yield ask(person, used, fact, *others[:2]), fact, True
        yield ask(person, used, *others[2:]), fact, False


def find_answer(context: str, words: str, article: bool) -> dict[str, Any]:
    """The one place of whole `words` in a passage, with the article before them where there is one that is wanted."""
    place, = re.finditer(rf"{'(?:a )?' * article}\b{re.escape(words)}\b", context)
    return {"text": place.group(), "answer_start": place.start()}


def make_paragraph(rng: random.Random, annotators: int) -> dict[str, Any]:
    """A passage as v2.0 has it, half as many questions without an answer as with one among its questions."""
    context, people = make_passage(rng)
    asked = list(make_questions(rng, context, people))
    answered = [question for question in asked if question[2]]
    wrong = [question for question in asked if not question[2]]
    chosen = answered + rng.sample(wrong, min(len(wrong), len(answered) // 2 + rng.randrange(len(answered) % 2 + 1)))
    rows = []
    for text, words, answers in rng.sample(chosen, len(chosen)):
        # the first annotator takes what all do in training; others may take the article, too
        found = [find_answer(context, words, article=number > 0 and rng.random() < 0.5)
                 for number in range(annotators)]
        rows.append({"question": text, "id": f"{rng.getrandbits(96):024x}", "answers": found if answers else [],
                     "is_impossible": not answers} | ({} if answers else {"plausible_answers": found[:1]}))
    return {"qas": rows, "context": context}


def without_impossible(paragraph: dict[str, Any]) -> dict[str, Any]:
    """A paragraph of v2.0 as v1.1 has it."""
    return {"context": paragraph["context"],
            "qas": [{name: question[name] for name in ("answers", "question", "id")}
                    for question in paragraph["qas"] if not question["is_impossible"]]}


def write_squad(folder: Path, seed: int, counts: Counts) -> None:
    """The train and dev files of both versions under `folder`, in the paths of the official host."""
    rng = random.Random(f"{seed} SQuAD")
    target = folder / "squad" / "dataset"
    target.mkdir(parents=True, exist_ok=True)
    for name, rows, annotators in (("train", counts.train, 1), ("dev", counts.dev, ANNOTATORS)):
        paragraphs = [make_paragraph(rng, annotators) for _ in range(int(PASSAGES_SHARE * rows))]
        titles = [f"The_{rng.choice(TITLE_WORDS[0])}_{rng.choice(TITLE_WORDS[1])}_({first})"
                  for first in range(0, len(paragraphs), PASSAGES)]
        for file, version, parts in (("v1.1", "1.1", list(map(without_impossible, paragraphs))),
                                     ("v2.0", "v2.0", paragraphs)):
            data = [{"title": title, "paragraphs": parts[number * PASSAGES:(number + 1) * PASSAGES]}
                    for number, title in enumerate(titles)]
            (target / f"{name}-{file}.json").write_text(json.dumps({"version": version, "data": data}), newline="\n")
