"""Chinese articles: where their sentences end, which variant is taken, which language a corpus is in."""
from __future__ import annotations

import json
import random
import re
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prepare_data
from tests.conftest import run
from transformer.data.chinese import chinese_lines, resolve_variants
from transformer.data.language import guess_language
from transformer.files import InputError
from transformer.tokenization import SPECIAL_TOKENS


def write_articles(folder: Path, texts: list[str], name: str = "wiki_00") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts),
                               encoding="utf-8")
    return folder


# a | stands where one line ends and the next begins
@pytest.mark.parametrize("marked", [
    "今天下雨。|我们去公园！|你去吗？|他去；|我不去。",
    "他说：“你好。”|然后走了。|她喊：‘快！’|没人应。",
    "「為什麼？」|他問。|『不知道。』|她說：「走吧！」|於是走了。",       # traditional
    "“他说：‘走吧。’”|大家走了。",                                    # quotes within quotes
    "（他走了。）|【完。】|[真的？]|她没走（留下了！）。|（他走了）就这样。",
    "我……|不知道……|“别……”|她说⋯⋯|算了…|好。",
    "真的？！|不会吧！！！|啊?!|好。。。|“走吧！”。|好吧...算了...就这样。",
    "……等等。|“……什么？”|好。 |。。。！",                             # marks go with what follows
    "他问：“为什么？”，没人答。|“谁？”、“哪里？”|都问了；|好。",           # the sentence goes on
    '她说："好。"|"真的？"|我问。|"走吧。|好！"|他笑了。',                # straight quotes open and close alike
    '他念"一？！"、"二。"|"三？"，"四。"|完。',
    "《你好，李焕英！》上映了。|《谁？哪里？》也好。|《没有结束。|好。",
    "圆周率是3.14，人口12,000人。|比分是3:2;|约1…9个。|价为￥5.00元!|好。",
    "见http://a.b/c?x=1;y=2和www.a.b/?q=d!e。|看https://a.b/?中文。|好。",
    "Yahoo! Inc.是公司!|对吗?|用a=b?c:d好;|也用C++;|若x = a ? b : c;|好。",
    "他说Hello! How are you? Fine; thanks.就走。|OK！|Yes？|No。|他来了!|Tom没来?|Jim也没来。",
    "你好!|  他说 ! |  Tom来了！ |",
    "没有任何标点的文字",
    "1. 苹果；|2. 香蕉；|3.梨。|a) 好;|b) 坏",
    "半角｡|全角．|好‼|怎么⁇|完",
])
def test_sentences_end_where_they_should(marked):
    assert list(chinese_lines(marked.replace("|", ""))) == [line.strip() for line in marked.split("|") if line]


def test_the_end_of_a_line_ends_a_sentence():
    poem = "床前明月光，\n疑是地上霜。\r\n舉頭望明月，\u2028低頭思故鄉。\n\n \u3000\n* 一\n* 二"
    assert list(chinese_lines(poem)) == ["床前明月光，", "疑是地上霜。", "舉頭望明月，", "低頭思故鄉。", "* 一", "* 二"]
    assert list(chinese_lines(" \n\u3000")) == []


@pytest.mark.parametrize("marked", [
    "一二三四五六七，一二三四五六七八九十。",                             # 19 characters stay whole
    "一二三四五六七八九，一二三四五六七八九，|一二三四五六七八九、一二三四五六七八九：|一二。",
    "“一二三四五六七八，”一二三四五六七八，|《一二，三四五六七》一二三四五六七八。",
    "一二三四五六七八九十一二三四五|一二三四五六七八九十一二三四五|一二三四五六七八九十一二三四五",
    "一二三四五六七八九十一二|《一二三四五六七八九十》一二三四五六。",      # in the middle would be in the title
    "价12,000元,一二三四五六七八九,时间10:30,|一二三四五六七八九十一二。",
    "This is a long sentence of Latin letters, one |that stands in a Chinese text and is cut where |"
    "there is room for it in each line of instances",
    "https://zh.wikipedia.org/wiki/a,b/cdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
])
def test_long_sentences_take_several_lines(marked):
    assert list(chinese_lines(marked.replace("|", ""))) == [line.strip() for line in marked.split("|")]


PIECES = [*"一二三四五 \t\n\u3000\"'“”‘’「」（）()《》。！？；…,.;:!?，、：-x7", "Latin", "12,000", "://", "的" * 30]
ANY_TEXT = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@given(ANY_TEXT)
def test_lines_lose_nothing_but_space(text):
    lines = list(chinese_lines(text))
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(line and line == " ".join(line.split()) for line in lines)


@pytest.mark.parametrize(("text", "resolved"), [
    ("一-{zh-hans:计算机;zh-hant:電腦}-二-{zh-hant:電腦;zh-hans:计算机}-三", "一计算机二计算机三"),
    ("-{zh-cn:软件; zh-tw:軟體; zh-hk:軟件;}-", "软件"),
    ("-{zh-tw:軟體;zh-hk:軟件}-", "軟件"),                               # neither of the two: the last
    ("-{T|zh-hans:甲;zh-hant:乙}--{H|巴士=>zh-cn:公车;巴士=>zh-tw:公車}-", "甲公车"),
    ("-{A;T|zh-cn:甲}--{|zh-hans:乙}--{zh-hans;zh-hant|丙}--{R|丁}-", "甲乙丙丁"),
    ("-{ zh-hans : 甲 ; zh-hant : 乙 }-", "甲"),
    ("-{原样}-，-{a;b:c|d}-，-{}-，-{zh-hans:;zh-hant:乙}-", "原样，a;b:c|d，，"),
    ("-{zh-hans:http://a.b/?c;d;zh-hant:乙}-", "http://a.b/?c;d"),
    ("-{说明;zh-hans:甲;zh-hant:乙}-", "说明;zh-hans:甲;zh-hant:乙"),      # no such markup: all of it stays
    ("-{zh-hans:甲-{zh-hans:乙;zh-hant:丙}-丁;zh-hant:戊}-", "甲乙丁"),
    ("一-{zh-hans:甲;zh-hant:乙", "一-{zh-hans:甲;zh-hant:乙"),
    ("一-{二-{zh-hans:甲;zh-hant:乙}-三", "一-{二甲三"),
    ("一}-二-{三}-四}-", "一}-二三四}-"),
    ("- { 一 } -和{-}", "- { 一 } -和{-}"),
])
def test_variants_are_chosen(text, resolved):
    assert resolve_variants(text) == resolved


@given(st.lists(st.sampled_from(["-{", "}-", "甲", "乙", ";", " "]), max_size=30).map("".join))
def test_markup_that_is_nested_or_does_not_end_loses_no_text(text):
    unmarked = re.compile(r"-\{((?:(?!-\{|\}-).)*)\}-")  # the innermost ones, again and again
    expected = text
    while unmarked.search(expected):
        expected = unmarked.sub(r"\1", expected, count=1)
    assert resolve_variants(text).replace("-{", "").replace("}-", "") == expected.replace("-{", "").replace("}-", "")


def test_flags_without_an_end_take_no_time():
    """Patterns that try every division of the spaces among flags would not come back."""
    text = "-{" + "A   ;  " * 40 + "甲}-"
    assert resolve_variants(text) == text[2:-2]


CHINESE, TRADITIONAL = "今天天气很好，我们去公园吧。", "這是一個繁體中文的句子。"
JAPANESE, THAI = "これは日本語の文章です。カタカナもあります。", "ภาษาไทยไม่มีช่องว่างระหว่างคำ"


@pytest.mark.parametrize(("language", "texts"), [
    ("chinese", [CHINESE]), ("chinese", [TRADITIONAL]), ("chinese", ["", CHINESE, "A few Latin words."]),
    ("chinese", [CHINESE * 20, JAPANESE, "привет"]), ("chinese", [CHINESE, "Россия Москва"]),
    ("chinese", ["ＡＢＣ公司在北京。"]), ("english", ["A sentence.", "Il est né à Orléans. 中文"]), ("english", []),
    ("english", ["12 345 !?"]), ("english", ["Title ひらがな in an English text"]),
    ("russian", ["Это предложение."]), ("greek", ["Αυτή είναι μια πρόταση."]), ("malayalam", ["ഇത് ഒരു വാക്യമാണ്."])])
def test_the_language_is_guessed_by_letters(language, texts, capsys):
    assert guess_language(texts) == language
    said = capsys.readouterr().out
    if any(character.isalpha() for text in texts for character in text):
        assert re.fullmatch(fr"Language: {language.title()}, since \d+% of the letters of a sample, by bytes, are \w+; "
                            r"--language names another\n", said)
    else:
        assert said == ""


@pytest.mark.parametrize(("text", "share"), [
    ("abcd 中", "57% of the letters of a sample, by bytes, are Latin"),         # 4 of 4 + 3
    ("中文 abc!", "67% of the letters of a sample, by bytes, are Chinese"),     # 6 of 6 + 3
    ("жук ж 12 a", "89% of the letters of a sample, by bytes, are Cyrillic"),   # 8 of 8 + 1
    ("한국 ab", "75% of the letters of a sample, by bytes, are Hangul")])        # 6 of 6 + 2
def test_how_many_letters_are_of_the_language_is_told(text, share, capsys):
    told = ""
    try:
        guess_language([text])
    except InputError as error:
        told = str(error)
    assert share in capsys.readouterr().out + told


@pytest.mark.parametrize(("text", "words"), [
    (JAPANESE, ("Hiragana", "Japanese cannot be split", "dictionary", "--language")),
    ("日本国憲法の条文と国会の議決", ("Japanese cannot be split",)),          # most letters are Chinese ones
    (THAI, ("Thai cannot be split", "without a mark")), ("한국어 문장입니다.", ("Hangul", "nothing to split")),
    ("هذه جملة.", ("Arabic", "nothing to split"))])
def test_languages_that_cannot_be_split_are_refused(text, words):
    with pytest.raises(InputError) as error:
        guess_language([text])
    for word in words:
        assert word in str(error.value)


def prepare(tmp_path: Path, script, *flags, folder: str = "wiki") -> tuple[str, list[list[str]]]:
    """What the script prints, and the lines of each article that it writes."""
    out = run(script, "prepare_data", ["--input_dir", tmp_path / folder, "--output_file", tmp_path / "out.txt", *flags])
    text = (tmp_path / "out.txt").read_text(encoding="utf-8")
    return out, [document.strip("\n").split("\n") for document in text.split("\n\n")]


def test_prepare_data_of_chinese(tmp_path, script):
    write_articles(tmp_path / "wiki", ["-{T|zh-hans:数学;zh-hant:數學}-\n數學用&lt;符号&gt;。“好？”\n历史。", "",
                                       "#重定向 [[数学]]", "#REDIRECT [[数学]]", "第二。篇!"])
    out, documents = prepare(tmp_path, script)
    assert documents == [["数学", "數學用<符号>。", "“好？”", "历史。"], ["第二。", "篇!"]]
    assert out.count("Language: Chinese, since") == 1 and "Punkt" not in out and "punkt" not in out
    assert "2 articles, 6 sentences; skipped 1 articles without text and 2 redirects" in out
    for flags, number in ((("--language", "chinese"), 4), (("--language", "english", "--train_splitter"), 1)):
        out, documents = prepare(tmp_path, script, *flags)
        assert len(documents[0]) == number and "Language:" not in out


def test_the_sample_is_taken_all_over_the_corpus(tmp_path, script):
    write_articles(tmp_path / "wiki", ["An article in English, as it happens."] * 200)
    for number in range(1, 40):
        write_articles(tmp_path / "wiki", [CHINESE] * 60, f"wiki_{number:02}")
    out, _ = prepare(tmp_path, script)
    assert "Language: Chinese" in out


def test_languages_are_refused_by_the_script(tmp_path, script, refused):
    write_articles(tmp_path / "wiki", [JAPANESE])
    command = ("prepare_data", "--input_dir", tmp_path / "wiki", "--output_file", tmp_path / "out.txt")
    refused(*command, words=("Japanese cannot be split", "Hiragana"))
    refused(*command, "--language", "thai", words=("--language", "Thai cannot be split", "without a mark"))
    refused(*command, "--language", "chinese", "--train_splitter", words=("--train_splitter", "drop it"))
    refused(*command, "--language", "english", "--simplified", words=("--simplified is for Chinese", "drop it"))
    assert not (tmp_path / "out.txt").exists()
    _, documents = prepare(tmp_path, script, "--language", "chinese")
    assert documents == [["これは日本語の文章です。", "カタカナもあります。"]]


@pytest.mark.parametrize(("num_workers", "part_bytes"), [(1, 1), (1, 1 << 20), (2, 700), (3, 1)])
def test_workers_and_parts_do_not_change_the_result(tmp_path, script, monkeypatch, num_workers, part_bytes):
    rng = random.Random(7)
    texts, expected = [], []
    for number in range(60):
        sentences = ["".join(rng.choices("天地人山水", k=rng.randint(1, 15))) + rng.choice(["。", "！”", "……", "？"])
                     for _ in range(number % 7)]
        texts.append("".join(sentence + rng.choice(("", "", "\n", " ")) for sentence in sentences))
        expected += [sentences] * bool(sentences)
    write_articles(tmp_path / "wiki", texts[:20], "wiki_00")
    write_articles(tmp_path / "wiki", texts[20:], "wiki_01")
    monkeypatch.setattr(prepare_data, "FILE_PART_BYTES", part_bytes)
    _, documents = prepare(tmp_path, script, "--num_workers", num_workers)
    assert documents == expected


def test_simplified_needs_opencc(tmp_path, refused, monkeypatch):
    write_articles(tmp_path / "wiki", [TRADITIONAL])
    monkeypatch.setitem(sys.modules, "opencc", None)  # as if it were not installed
    refused("prepare_data", "--input_dir", tmp_path / "wiki", "--output_file", tmp_path / "out.txt", "--simplified",
            words=("--simplified needs OpenCC", "pip install opencc"))


def test_simplified_converts_what_is_left_of_the_markup(tmp_path, script, monkeypatch):
    seen = []

    class Converter:
        def __init__(self, config: str):
            assert config == "t2s"

        def convert(self, text: str) -> str:
            seen.append(text)
            return text.replace("漢", "汉")

    monkeypatch.setitem(sys.modules, "opencc", types.SimpleNamespace(OpenCC=Converter))
    write_articles(tmp_path / "wiki", ["漢字。-{zh-tw:漢;zh-hk:港}-。"])
    _, documents = prepare(tmp_path, script, "--simplified")
    assert documents == [["汉字。", "港。"]] and seen == ["漢字。港。"]


def test_simplified_with_opencc(tmp_path, script):
    pytest.importorskip("opencc")
    write_articles(tmp_path / "wiki", [TRADITIONAL, "乾隆皇帝頭髮發財。"])
    _, documents = prepare(tmp_path, script, "--simplified", "--num_workers", "2")
    assert documents == [["这是一个繁体中文的句子。"], ["乾隆皇帝头发发财。"]]


def test_nearly_all_of_a_corpus_is_in_instances(tmp_path, script):
    """Every character of the corpus stands at one place, so that instances tell which of them they hold.

    Random second halves do not count: they are there for the first half's sake.
    """
    rng = random.Random(3)
    characters = [chr(code) for code in range(0x4E00, 0xA000)]
    own, texts = iter(characters), []
    for _ in range(20):
        sentences = []
        for _ in range(24):  # of 40 characters on average, as in Wikipedia
            clauses = ["".join(next(own) for _ in range(rng.randint(3, 17))) for _ in range(rng.randint(1, 7))]
            sentences.append("，".join(clauses) + rng.choice("。。。！？；"))
        texts.append("".join(sentences))
    wanted = set("".join(texts)) & set(characters)
    write_articles(tmp_path / "wiki", texts)
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL_TOKENS, *"。！？；，.", *characters]) + "\n", encoding="utf-8")

    def share(folder: str, *flags: str) -> float:
        """Of the corpus's characters, those in instances of their own article; mean of three epochs."""
        prepare(tmp_path, script, *flags)
        run(script, "pregenerate_training_data", [
            "--train_corpus", tmp_path / "out.txt", "--bert_model", vocab, "--do_lower_case", "--output_dir",
            tmp_path / folder])
        held = 0
        for epoch in range(3):
            found = set()
            for line in (tmp_path / folder / f"epoch_{epoch}.json").open(encoding="utf-8"):
                instance = json.loads(line)
                end = instance["segment_ids"].index(1) if instance["is_random_next"] else None
                found.update(instance["tokens"][:end])
            held += len(found & wanted)
        return held / 3 / len(wanted)

    assert share("as_chinese") >= 0.95
    assert share("as_english", "--language", "english", "--train_splitter") < 0.2  # which finds no end in them
