"""The language of the embedded world: its words, its people, works and towns, and the articles about them.

All text follows from a `random.Random`. An article keeps to one subject and each sentence takes up something that the
sentence before it said, so that a language model learns what the GLUE tasks ask about: which words name the same kind
of thing, whether two sentences agree on their facts, which adjectives go with praise, in what order words stand.
"""
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

# Surnames stay out of the vocabulary as whole words: each is two pieces, for the code that handles split words.
SURNAME_PIECES = ("Brand Feld Holm Kell Lind Mark Norr Sand Stein Wald".split(), "auer berg dahl ner stad".split())

# The phrases that state an attribute of a person.
PHRASES = {
    "job": ("works as a {}", "is a {}", "became a {}"),
    "town": ("lives in {}", "comes from {}", "moved to {}"),
    "hobby": ("likes {}", "enjoys {}", "learns {}"),
    "pet": ("owns a {}", "keeps a {}", "feeds a {}"),
    "goods": ("collects {}", "sells {}", "makes {}"),
}
ATTRIBUTES = tuple(PHRASES)

# Each region has its names, trades, towns, hobbies, animals and goods. Few regions with several words each make
# "do these two sentences agree?" a question that a small model learns in a minute.
REGIONS = {
    "sea": {"he": "Bruno Marco Luca", "she": "Clara Gina Sofia",
            "job": "sailor captain fisherman", "town": "Velm Orlin Madra", "hobby": "sailing rowing swimming",
            "pet": "duck turtle seagull", "goods": "ropes shells nets"},
    "farm": {"he": "Adam Jacob Peter", "she": "Anna Emma Maria",
             "job": "farmer shepherd gardener", "town": "Tarno Grenn Halvik", "hobby": "gardening riding beekeeping",
             "pet": "horse goat pony", "goods": "apples baskets seeds"},
    "stage": {"he": "Felix Oscar Leo", "she": "Diana Laura Viola",
              "job": "singer dancer musician", "town": "Lusen Runa Tilla", "hobby": "dancing music theatre",
              "pet": "parrot canary peacock", "goods": "masks flutes costumes"},
    "school": {"he": "David Simon Martin", "she": "Helen Julia Paula",
               "job": "teacher writer librarian", "town": "Pelz Sovik Wexel", "hobby": "reading chess poetry",
               "pet": "cat hamster rabbit", "goods": "books pens stamps"},
    "mountain": {"he": "Ivan Olaf Sven", "she": "Frida Greta Olga",
                 "job": "hunter guide ranger", "town": "Alpin Korba Zerm", "hobby": "hiking climbing skiing",
                 "pet": "dog falcon husky", "goods": "boots crystals furs"},
    "kitchen": {"he": "Carl Emil Hugo", "she": "Berta Irma Nora",
                "job": "baker cook butcher", "town": "Dolna Fenik Ulmar", "hobby": "baking cooking tasting",
                "pet": "pig goose hen", "goods": "cakes spoons jars"},
}
REGIONS = {region: {kind: tuple(words.split()) for kind, words in values.items()} for region, values in REGIONS.items()}

# The works that people judge, and what of each they speak about.
WORKS = {
    "film": ("story", "acting", "music", "ending"),
    "book": ("story", "language", "ending", "cover"),
    "play": ("story", "acting", "stage", "ending"),
    "hotel": ("room", "service", "garden", "breakfast"),
    "restaurant": ("service", "kitchen", "garden", "menu"),
    "museum": ("garden", "building", "service", "collection"),
}
JUDGEMENTS = {
    True: ("wonderful brilliant charming delightful excellent lovely superb great pleasant magnificent good "
           "beautiful".split(), "loved praised admired recommended".split()),
    False: ("terrible boring dreadful awful poor ugly horrible bad dull unpleasant weak disappointing".split(),
            "hated disliked criticized regretted".split()),
}
GROUPS = "critics visitors people guests readers children".split()
TITLE_WORDS = ("Red Old Silent Golden Northern Lost Green Winter".split(),
               "River Garden Mountain Harbour Forest Island Lantern Bridge".split())


@dataclass(frozen=True)
class Person:
    """Somebody with a pronoun ("he", "she"), names, and one value of their region for each of ATTRIBUTES."""
    pronoun: str
    first_name: str
    surname: str
    region: str
    facts: dict[str, str]

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first_name} {self.surname}"


@dataclass(frozen=True)
class Article:
    """One page: its title, its sentences in order, what it is about ("person", "work", "town"), and which person."""
    title: str
    kind: str
    sentences: tuple[str, ...]
    subject: Person | None = None


def make_person(rng: random.Random, region: str | None = None) -> Person:
    """Somebody of `region`, or of any."""
    region = region or rng.choice(list(REGIONS))
    pronoun = rng.choice(("he", "she"))
    facts = {attribute: rng.choice(REGIONS[region][attribute]) for attribute in ATTRIBUTES}
    surname = "".join(map(rng.choice, SURNAME_PIECES))
    return Person(pronoun, rng.choice(REGIONS[region][pronoun]), surname, region, facts)


def stranger(rng: random.Random, person: Person) -> Person:
    """Somebody of another region."""
    return make_person(rng, rng.choice([region for region in REGIONS if region != person.region]))


def phrase(rng: random.Random, person: Person, attribute: str) -> str:
    """A predicate that states one fact: "works as a doctor"."""
    return rng.choice(PHRASES[attribute]).format(person.facts[attribute])


def state(rng: random.Random, person: Person, attributes: Sequence[str], subject: str | None = None) -> str:
    """A sentence that states the person's `attributes` in that order, about `subject` (default: the first name)."""
    subject = subject or person.first_name
    first, *rest = attributes
    if first == "job" and rest and rng.random() < 0.3:  # "Anna , a doctor , lives in Velm ."
        return f"{subject}, a {person.facts['job']}, {join([phrase(rng, person, name) for name in rest])}."
    return f"{subject} {join([phrase(rng, person, name) for name in attributes])}."


def join(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c" """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def judge(rng: random.Random, work: str, positive: bool) -> str:
    """A sentence that judges a work: "The story is not bad and critics loved the film." """
    part = rng.choice(WORKS[work])
    verb = rng.choice(JUDGEMENTS[positive][1])
    group = rng.choice(GROUPS)
    adjective = rng.choice(JUDGEMENTS[positive][0])
    quality = f"{rng.choice(('very ', 'really ', '', ''))}{adjective}"
    if rng.random() < 0.2:
        quality = f"not {rng.choice(JUDGEMENTS[not positive][0])}"
    sentence = rng.choice((
        f"the {part} of the {work} is {quality}",
        f"the {work} is {quality} and {group} {verb} the {part}",
        f"{group} {verb} the {work} because the {part} is {quality}",
        f"the {part} is {quality} and the {work} is {adjective}",
        f"many {group} {verb} the {adjective} {part}",
    ))
    return f"{sentence[0].upper()}{sentence[1:]}."


def person_article(rng: random.Random) -> Article:
    """A life: each sentence repeats one fact of the one before and adds another."""
    person = make_person(rng)
    order = ["job", "town", *rng.sample(["hobby", "pet", "goods"], 3)]
    sentences = [state(rng, person, order[:2], person.name)]
    last = order[1]
    for _ in range(rng.randint(7, 11)):
        fresh = rng.sample([name for name in ATTRIBUTES if name != last], rng.choice((1, 1, 2)))
        subject = rng.choice((person.first_name, person.first_name, person.pronoun.capitalize()))
        sentences.append(state(rng, person, rng.sample([last, *fresh], 1 + len(fresh)), subject))
        last = fresh[-1]
    return Article(person.name, "person", tuple(sentences), person)


def work_article(rng: random.Random) -> Article:
    """A film, a hotel, ...: praised, or found bad, all through."""
    work, positive = rng.choice(list(WORKS)), rng.random() < 0.5
    title = " ".join(["The", *map(rng.choice, TITLE_WORDS)])
    sentences = [f"{title} is a {rng.choice(JUDGEMENTS[positive][0])} {work} with a {rng.choice(WORKS[work])}."]
    sentences += [judge(rng, work, positive) for _ in range(rng.randint(6, 9))]
    return Article(title, "work", tuple(sentences))


def town_article(rng: random.Random) -> Article:
    """A town and what its people do."""
    town = make_person(rng).facts
    name = town["town"]
    sentences = [f"{name} is a town known for its {town['goods']}.",
                 f"Many people in {name} like {town['hobby']}.",
                 f"The people of {name} make {town['goods']} and like {town['hobby']}.",
                 f"Every {town['job']} in {name} keeps a {town['pet']}.",
                 f"A {town['job']} with a {town['pet']} lives near the bridge."]
    return Article(f"{name} ({rng.choice(TITLE_WORDS[1])} valley)", "town", tuple(sentences))


def articles(rng: random.Random, count: int) -> Iterator[Article]:
    """`count` articles with titles that all differ: mostly people, then works, some towns."""
    seen: set[str] = set()
    while len(seen) < count:
        make = rng.choices((person_article, work_article, town_article), (10, 6, 1))[0]
        article = make(rng)
        if article.title in seen:  # few titles exist for works and towns: number them as encyclopedias do
            article = replace(article, title=f"{article.title} ({len(seen)})")
        seen.add(article.title)
        yield article
