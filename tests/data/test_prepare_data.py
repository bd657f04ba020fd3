"""From extracted articles to one sentence per line."""
from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer, save_punkt_params

import prepare_data
from tests.conftest import ROOT, names, run


def write_articles(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": "1", "url": "", "title": "T", "text": text}) + "\n" for text in texts))


PARAGRAPH = "The first sentence is here. A second one follows it! Does a third\n\none end so? It does."
SENTENCES = ["The first sentence is here.", "A second one follows it!", "Does a third one end so?", "It does."]


def test_prepare_data(tmp_path, script):
    articles = tmp_path / "wiki"
    write_articles(articles / "AB" / "wiki_00", ["Last of all.", "", PARAGRAPH])
    write_articles(articles / "AA" / "wiki_10", ["Third article."])
    write_articles(articles / "AA" / "wiki_09",
                   [PARAGRAPH + "\nUnicode: naïve\u2028中文\u0085end.", "\n \n", "Two\r\nlines."])
    (articles / "AA" / "notes.txt").write_text("not an article")
    out = run(script, "prepare_data", ["--input_dir", articles, "--output_file", tmp_path / "deep" / "out.txt",
                                       "--train_splitter"])
    expected = [[*SENTENCES, "Unicode: naïve 中文 end."], ["Two lines."], ["Third article."], ["Last of all."],
                SENTENCES]
    assert (tmp_path / "deep" / "out.txt").read_bytes() \
        == "\n".join("".join(f"{line}\n" for line in document) for document in expected).encode()
    assert "5 articles, 12 sentences" in out and "skipped 2 articles without text and 0 redirects" in out
    assert "a Punkt model trained on" in out


def test_entities_are_unescaped_once(tmp_path, script):
    """WikiExtractor escapes what it writes, whatever that is; so a line break can come back before a sentence does."""
    write_articles(tmp_path / "wiki" / "wiki_00", ["AT&amp;T says &amp;lt; is &lt;.", "One&nbsp;two&#10;&#10;three."])
    run(script, "prepare_data", ["--input_dir", tmp_path / "wiki", "--output_file", tmp_path / "out.txt",
                                 "--train_splitter"])
    assert (tmp_path / "out.txt").read_text() == "AT&T says &lt; is <.\n\nOne two three.\n"


@pytest.mark.parametrize("text, wanted", [
    ("AT&amp;T &amp;lt; &#65;&#x42;&#X43; &frac12;", "AT&T &lt; ABC \u00bd"),
    ("?x=1&region=5&copy=2 &notit; &copy", "?x=1&region=5&copy=2 &notit; &copy"),  # html.unescape() takes part of each
    ("&nothing; & ; &#; &#x; &#" + "1" * 5000 + ";",) * 2])
def test_whole_entities_alone_are_unescaped(text, wanted):
    assert prepare_data.unescape(text) == wanted


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, refused):
    write_articles(tmp_path / "wiki" / "wiki_00", ["An article."])
    (tmp_path / "file").touch()
    for output, words in ((tmp_path, f"--output_file {tmp_path} is a folder: name the text file to write"),
                          (tmp_path / "file" / "deep" / "out.txt", f"{tmp_path / 'file'} is a file: name a folder")):
        refused("prepare_data", "--input_dir", tmp_path / "nowhere", "--output_file", output, words=(words,))


def test_backup_files_are_passed_over(tmp_path, script, refused):
    flags = ["--input_dir", tmp_path / "wiki", "--output_file", tmp_path / "out.txt", "--train_splitter"]
    for name in ("wiki_00~", "wiki_00.bak", "wiki_00.swp", "wiki_00 (copy)"):
        write_articles(tmp_path / "wiki" / name, ["A copy."])
    refused("prepare_data", *flags, words=("holds no wiki_* files",))
    write_articles(tmp_path / "wiki" / "wiki_00", ["The article."])
    out = run(script, "prepare_data", flags)
    assert (tmp_path / "out.txt").read_text() == "The article.\n"
    assert "passed over 4 backup files" in out and "wiki_00.bak" in out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of extracted files, and what a plain loop makes of it: the output and the counts, last line's words.

    The splitter is trained on the first 20,000 characters. Abbreviations make what it learns there matter.
    """
    rng = random.Random(5)
    words = "dr. approx. no. st. vs. river town old king war music north built held known".split()

    def text() -> str:
        kind = rng.random()
        if kind < 0.1:
            return rng.choice(("", " \n\n", "\u3000"))
        if kind < 0.2:
            return rng.choice(("#REDIRECT [[A. B]]", "#redirect: C", "  # Redirect [[D]]\nMore. Text."))
        sentences = (" ".join(rng.choices(words, k=rng.randint(3, 12))).capitalize() + rng.choice(".!?")
                     for _ in range(rng.randint(1, 30)))
        return "".join(sentence + rng.choice((" ", " ", "\n", "\n\n")) for sentence in sentences)

    folder = tmp_path_factory.mktemp("corpus")
    for name, count in (("AB/wiki_00", 60), ("AA/wiki_10", 1), ("AA/wiki_02", 0), ("AA/wiki_01", 40)):
        write_articles(folder / name, [text() for _ in range(count)])
    write_articles(folder / "AA/wiki_03", ["", "#REDIRECT [[A]]", "", ""])  # parts with nothing to write

    texts = [json.loads(line)["text"] for path in sorted(folder.rglob("wiki_*")) for line in path.open()]
    trainer = PunktTrainer()
    seen = 0
    for text in texts:
        if seen < 20_000:
            trainer.train(text, finalize=False)
            seen += len(text)
    splitter = PunktSentenceTokenizer(trainer.get_params())
    redirects = [text for text in texts if text.replace(" ", "").lower().startswith("#redirect")]
    articles = [text for text in texts if text.strip() and text not in redirects]
    documents = [[" ".join(sentence.split()) for sentence in splitter.tokenize(text)] for text in articles]
    counts = (f"{len(articles)} articles, {sum(map(len, documents)):,} sentences; skipped "
              f"{len(texts) - len(articles) - len(redirects)} articles without text and {len(redirects)} redirects")
    return folder, "\n\n".join("\n".join(lines) for lines in documents) + "\n", counts


@pytest.mark.parametrize(("num_workers", "part_bytes"),
                         [(1, 1), (1, 1000), (1, 20_000), (1, 1 << 20), (2, 5000), (3, 1)])
def test_workers_and_parts_do_not_change_the_result(corpus, tmp_path, script, monkeypatch, num_workers, part_bytes):
    folder, expected, counts = corpus
    monkeypatch.setattr(prepare_data, "SAMPLE_CHARACTERS", 20_000)
    monkeypatch.setattr(prepare_data, "FILE_PART_BYTES", part_bytes)
    out = run(script, "prepare_data", ["--input_dir", folder, "--output_file", tmp_path / "out.txt",
                                       "--train_splitter", "--num_workers", num_workers])
    assert (tmp_path / "out.txt").read_text() == expected
    assert counts in out


def run_prepare_data(tmp_path: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own, with an empty home, and no way to reach a network."""
    command = [sys.executable, str(ROOT / "prepare_data.py"), "--input_dir", "wiki", "--output_file", "out.txt", *flags]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT),
                               "http_proxy": "http://127.0.0.1:9", **environment})


def test_punkt_model_out_of_reach(tmp_path):
    write_articles(tmp_path / "wiki" / "wiki_00", [PARAGRAPH])
    done = run_prepare_data(tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "warning: punkt_tab cannot be had" in done.stdout and "trained on" in done.stdout
    assert (tmp_path / "out.txt").read_text().splitlines() == SENTENCES


@pytest.mark.parametrize(("language", "flags"), [("english", []), ("german", ["--language", "german"])])
def test_punkt_model_installed(tmp_path, language, flags):
    write_articles(tmp_path / "wiki" / "wiki_00", [PARAGRAPH])
    # A stand-in for punkt_tab, of which one can tell that it was used: to it "here." is an abbreviation.
    trainer = PunktTrainer()
    trainer.train(PARAGRAPH)
    params = trainer.get_params()
    params.abbrev_types.add("here")
    params.ortho_context.clear()
    folder = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / language
    folder.mkdir(parents=True)
    save_punkt_params(params, folder)
    done = run_prepare_data(tmp_path, *flags, "--num_workers", "2", NLTK_DATA=str(tmp_path / "nltk_data"))
    assert done.returncode == 0 and done.stderr == ""
    assert f"NLTK's punkt_tab for {language.title()}" in done.stdout
    assert (tmp_path / "out.txt").read_text().splitlines() == [" ".join(SENTENCES[:2]), *SENTENCES[2:]]


def test_bad_extracted_files(tmp_path, refused):
    output = tmp_path / "out.txt"
    output.write_text("precious")
    arguments = ["--input_dir", tmp_path / "wiki", "--output_file", output, "--train_splitter"]
    good = b'{"text": "One sentence. Another."}\n'

    def refuse(content: bytes | None, *words: str) -> None:
        if content is not None:
            (tmp_path / "wiki" / "AA" / "wiki_00").write_bytes(content)
        refused("prepare_data", *arguments, words=words)
        assert output.read_text() == "precious"
        assert set(names(tmp_path)) <= {"wiki", "out.txt"}

    refuse(None, "wiki does not exist", "WikiExtractor")
    (tmp_path / "wiki" / "AA").mkdir(parents=True)
    refuse(None, "holds no wiki_* files", "WikiExtractor")
    refuse(good + b'<doc id="12">\n', "wiki_00, line 2", "--json")
    for cut in (good[:20], '{"text": "é'.encode()[:-1]):  # in the middle of a character
        refuse(good + cut, "wiki_00, line 2", "the extraction was killed", "run WikiExtractor again")
    refuse(good + b'{"text": 1\n' + good, "wiki_00, line 2", "not a JSON object")
    for line in (b'{"title": "x"}', b"[1]", b'"text"', b'{"text": null}', b'{"text": "\\ud800"}', b"3"):
        refuse(good + line, "wiki_00, line 2", "field `text`")
    refuse(good + b'{"text": "caf\xe9"}\n', "wiki_00, line 2", "UTF-8")
    refuse(b'{"text": ""}\n{"text": " \\n "}\n{"text": "#REDIRECT [[A]]"}\n', "none of the 3 articles")
    refuse(b"", "none of the 0 articles")
    (tmp_path / "wiki" / "AA" / "wiki_00.bz2").write_bytes(b"BZh9")
    refuse(good, "wiki_00.bz2", "--compress")


@pytest.mark.parametrize(("num_workers", "bad"),
                         [(1, b"<doc>\n"), (1, b'{"text": "\xff"}\n'), (2, b'{"text": 1}\n')])
def test_bad_line_in_a_later_part(tmp_path, refused, monkeypatch, num_workers, bad):
    good = b'{"text": "One sentence."}\n'
    monkeypatch.setattr(prepare_data, "SAMPLE_CHARACTERS", 1)  # or training would meet the line first
    monkeypatch.setattr(prepare_data, "FILE_PART_BYTES", 3 * len(good))
    write_articles(tmp_path / "wiki" / "wiki_00", ["Another file."])
    (tmp_path / "wiki" / "wiki_01").write_bytes(7 * good + bad + 9 * good)  # in the third part of its file
    refused("prepare_data", "--input_dir", tmp_path / "wiki", "--output_file", tmp_path / "out.txt", "--train_splitter",
            "--num_workers", num_workers, words=("wiki_01, line 8: ",))
    assert names(tmp_path) == ["wiki"]


def test_unknown_language(refused):
    refused("prepare_data", "--language", "klingon", words=("--language", "klingon", "german"))
