"""The Chinese part of the embedded world as files: an encyclopedia as a dump, and five tasks as CLUE's archives.

Made-up sentences of a small grammar: each keeps to one topic, the words of which make it one of TNEWS's classes. Labels
follow from the texts. Marks, numbers and Latin words stand in them as in real ones; `-{...}-` in the dump alone.
"""
from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer.fetching.sources import OCNLI_ARCHIVE

from .glue_files import Counts, write_archive
from .wiki import page, write_pages

TOPICS = {  # class of TNEWS -> its name, and the nouns of its sentences; few of its classes have rows
    "100": ("news_story", "传说 神仙 古井"), "103": ("news_sports", "足球 教练 球队"),
    "104": ("news_finance", "银行 基金 利率"), "107": ("news_car", "汽车 轮胎 油门"),
    "109": ("news_tech", "手机 芯片 软件"), "115": ("news_agriculture", "小麦 果园 农民")}
NOUNS = {noun: topic for topic, (_, nouns) in TOPICS.items() for noun in nouns.split()}
TRADITIONAL = {"手机": "手機", "软件": "軟體", "汽车": "汽車", "银行": "銀行"}
MEN, WOMEN = ("王强", "李刚", "赵大山"), ("张丽", "陈芳", "刘小燕")
TOWNS = ("云城", "青石镇", "白水村", "南桥")
LATIN = ("WiFi", "APP", "Vita", "q3")
OPINIONS = ("很好", "不便宜", "让人高兴", "比以前多", "越来越少见")
VERBS = {"喜欢": "讨厌", "买下": "卖掉", "打开": "关上", "相信": "怀疑"}  # and what they are the opposite of
COUNTS = {"TNEWS": Counts(64, 32, 16), "OCNLI": Counts(200, 64, 16), "AFQMC": Counts(48, 32, 12),
          "CSL": Counts(32, 24, 12), "CLUEWSC2020": Counts(48, 32, 12)}
UNDECIDED = 3  # rows of OCNLI's train and dev files, each, on which people did not agree


@dataclass(frozen=True)
class Article:
    """A page: its title and its paragraphs, sentences in order."""
    title: str
    paragraphs: tuple[tuple[str, ...], ...]


def person(rng: random.Random) -> str:
    """A name."""
    return rng.choice(MEN + WOMEN)


def sentence(rng: random.Random, topic: str) -> str:
    """A sentence, or two in quotes, with two or three nouns of a topic, and no others."""
    a, b, c = rng.sample(TOPICS[topic][1].split(), 3)
    who, town, latin, opinion = person(rng), rng.choice(TOWNS), rng.choice(LATIN), rng.choice(OPINIONS)
    number, price = f"{rng.randint(2, 99)},{rng.randint(100, 999)}", f"{rng.randint(1, 99)}.{rng.randint(1, 9)}"
    return rng.choice((
        f"{town}的{a}{opinion}，{b}也一样。",
        f"{who}在{town}看见了{a}和{b}，觉得{opinion}！",
        f"{who}说：“{a}{opinion}。你知道{b}吗？”",
        f"{latin}公司的{a}只要{price}元，{b}要{number}元。",
        f"关于{a}，{who}写了《{b}和{c}》，后来{town}的人都说这本书{opinion}，连{latin}也用上了。",
        f"今年{town}有{number}个{a}；{b}呢？没有人知道……",
        f"{a}（也叫{latin}）{opinion}，{who}却只想要{b}，{c}就留给{person(rng)}了。"))


def articles(rng: random.Random, count: int) -> Iterator[Article]:
    """`count` articles with titles that all differ, of 8 to 14 sentences."""
    for number in range(count):
        noun = rng.choice(list(NOUNS))
        sentences = [sentence(rng, NOUNS[noun]) for _ in range(rng.randint(8, 14))]
        half = len(sentences) // 2
        yield Article(f"{noun}（{number}）", (tuple(sentences[:half]), tuple(sentences[half:])))


def wikitext(rng: random.Random, article: Article) -> str:
    """The source of an article: some words linked, or as they are written in two regions, a footnote, a category."""
    def marked(text: str) -> str:
        for noun in NOUNS:
            if noun in text and rng.random() < 0.4:
                other = TRADITIONAL.get(noun)
                markup = f"[[{noun}]]" if not other else rng.choice((
                    f"-{{zh-hans:{noun};zh-hant:{other}}}-", f"-{{zh-tw:{other}; zh-cn:{noun}; zh-hk:{other};}}-",
                    f"-{{T|zh-hant:{other};zh-hans:{noun}}}-", f"-{{{noun}}}-"))
                text = text.replace(noun, markup, 1)
        return text + ("<ref>《编年》第7页。</ref>" if rng.random() < 0.1 else "")

    first, *rest = ("".join(map(marked, sentences)) for sentences in article.paragraphs)
    return "\n".join([f"'''条目'''：{first}", "== 其他 ==", *rest, "[[Category:条目]]"])


def write_dump(path: Path, rng: random.Random, written: list[Article]) -> None:
    """A .xml.bz2 dump of articles, and a redirect."""
    pages = [page(number, article.title, 0, wikitext(rng, article)) for number, article in enumerate(written, 1)]
    target = written[0].title
    write_pages(path, [*pages, page(len(pages) + 1, "旧名", 0, f"#重定向 [[{target}]]", target)], "zh")


# --- tasks: a row, with its label, in the official keys

Row = dict[str, Any]


def tnews(rng: random.Random) -> Row:
    """A headline: its class is the topic of its nouns."""
    topic = rng.choice(list(TOPICS))
    a, b = rng.sample(TOPICS[topic][1].split(), 2)
    who, town, latin, opinion = person(rng), rng.choice(TOWNS), rng.choice(LATIN), rng.choice(OPINIONS)
    text = rng.choice((f"{town}{a}{opinion}，{b}呢？", f"{who}：“{a}和{b}{opinion}”",
                       f"{latin}的{a}只要{rng.randint(10, 99) / 10}元！", f"{a}{opinion}，{who}说{b}也一样"))
    return {"label": topic, "label_desc": TOPICS[topic][0], "sentence": text,
            "keywords": ",".join(noun for noun in NOUNS if noun in text)}


def afqmc(rng: random.Random) -> Row:
    """Two questions: 1 where they ask for the same of the same."""
    (verb, noun), other = ((rng.choice(list(VERBS)), rng.choice(list(NOUNS))) for _ in range(2))
    same = rng.random() < 0.4
    second = (verb, noun) if same else other
    return {"sentence1": f"怎么{verb}{noun}", "sentence2": f"请问如何{second[0]}“{second[1]}”呢？",
            "label": str(int(second == (verb, noun)))}


def ocnli(rng: random.Random) -> Row:
    """What somebody does: that somebody does it follows, the opposite does not, of what may be nothing is known."""
    verb, (noun, other), who, town = rng.choice(list(VERBS)), rng.sample(list(NOUNS), 2), person(rng), rng.choice(TOWNS)
    hypothesis, label = rng.choice(((f"有人{verb}{noun}", "entailment"), (f"{who}{VERBS[verb]}{noun}", "contradiction"),
                                    (f"{who}可能去过{rng.choice(TOWNS)}的{other}", "neutral")))
    premise = f"{who}在{town}{verb}{noun}，用了{rng.choice(LATIN)}。"
    return {"level": rng.choice(("easy", "medium", "hard")), "sentence1": premise, "sentence2": hypothesis,
            "label": label, "label0": label, **{f"label{number}": None for number in range(1, 5)}, "genre": "lit",
            "prem_id": f"lit_{rng.randrange(900)}"}


def csl(rng: random.Random) -> Row:
    """An abstract and keywords: 1 where all stand in it."""
    *inside, outside = rng.sample(list(NOUNS), 4)
    a, b, c = inside
    true = rng.random() < 0.5
    abstract = f"为了解{a}与{b}的关系，本文研究了{c}，提出一种\t新方法。准确率为{rng.randint(600, 999) / 10}％。"
    return {"abst": abstract, "keyword": rng.sample(inside, 2) + ([] if true else [outside]), "label": str(int(true))}


def wsc(rng: random.Random) -> Row:
    """A pronoun and a name: true where the pronoun is of the name's gender."""
    names = [rng.choice(MEN), rng.choice(WOMEN)]
    rng.shuffle(names)
    pronoun, name = rng.choice("他她"), rng.choice(names)
    text = f"{names[0]}在{rng.choice(TOWNS)}遇见{names[1]}，因为{pronoun}想要{rng.choice(list(NOUNS))}。"
    return {"target": {"span2_index": text.index(pronoun), "span1_index": text.index(name), "span1_text": name,
                       "span2_text": pronoun}, "text": text, "label": str((name in MEN) == (pronoun == "他")).lower()}


TASKS: dict[str, Callable[[random.Random], Row]] = {
    "TNEWS": tnews, "OCNLI": ocnli, "AFQMC": afqmc, "CSL": csl, "CLUEWSC2020": wsc}


def task_files(name: str, rng: random.Random) -> dict[str, list[Row]]:
    """Rows of a task's files, by their names: those of the test set have ids, which do not count up, and no labels."""
    counts, files = COUNTS[name], {}
    for part, count in (("train", counts.train), ("dev", counts.dev), ("test", counts.test)):
        rows = [TASKS[name](rng) for _ in range(count)]
        if part == "test":
            ids = rng.sample(range(3 * count), count)
            rows = [{"id": number, **{key: value for key, value in row.items() if not key.startswith("label")}}
                    for number, row in zip(ids, rows)]
        elif name == "OCNLI":
            for row in rng.sample(rows, UNDECIDED):
                row["label"] = "-"
        files[f"{part}.json"] = rows
    return files


def json_lines(rows: list[Row]) -> str:
    """A row a line, as CLUE's files are."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def write_tasks(folder: Path, seed: int) -> None:
    """The archives of all five, under `folder` in the paths of the official hosts."""
    for name in TASKS:
        files = {file: json_lines(rows) for file, rows in task_files(name, random.Random(f"{seed} {name}")).items()}
        path = folder / "clue" / f"{name.lower()}_public.zip"
        if name == "TNEWS":
            files["labels.json"] = json_lines([{"label": label, "label_desc": topic}
                                               for label, (topic, _) in TOPICS.items()])
        if name == "OCNLI":
            path, top = folder / "ocnli" / OCNLI_ARCHIVE, f"OCNLI-{OCNLI_ARCHIVE.removesuffix('.zip')}"
            files = {f"{top}/data/ocnli/{file.replace('train', 'train.50k')}": text for file, text in files.items()}
            files |= {f"{top}/data/ocnli/train.3k.json": "", f"{top}/README.md": "# OCNLI\n"}
        write_archive(path, files)
