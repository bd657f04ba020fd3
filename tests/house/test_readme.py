"""The pages are the truth: flags, paths and links exist, commands agree with each other, README's run as printed."""
import bz2
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from tests.conftest import ROOT
from tests.house.test_architecture import SCRIPTS, flags_of
from tests.miniworld import ensure_world, serve
from transformer.modeling import TinyBertForSequenceClassification
from transformer.tasks.table import TASKS, get_task

FILES = [ROOT / "README.md", ROOT / "DEVELOPMENT.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
README = PAGES["README.md"]
SECTIONS = {part.split("\n")[0]: part for part in README.split("\n## ")}


def bash_blocks(text: str) -> list[str]:
    """The code blocks that are to be run."""
    return re.findall(r"^```bash\n(.*?)^```$", text, flags=re.M | re.S)


BLOCKS = bash_blocks(SECTIONS["The reproduction"])
(OWN,) = bash_blocks(SECTIONS["Your own data"])
(EARLIER,) = bash_blocks(SECTIONS["Appendix: an earlier reproduction"])


def spans(text: str) -> list[str]:
    """The texts of code blocks (Python and drawings aside) and between backticks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"^```(?:bash|sh)\n(.*?)^```$", text, re.M | re.S) + re.findall(r"`([^`]+)`", prose)


def commands(text: str) -> list[list[str]]:
    """SCRIPT.py and its flags, of `python SCRIPT.py ...` and `torchrun ... SCRIPT.py ...` at the start of a line."""
    lines = [line for span in spans(text) for line in span.replace("\\\n", " ").splitlines()]
    found = [re.match(r"(?:python|torchrun [^.]*) (\w+\.py.*)", line) for line in lines]
    return [shlex.split(command[1]) for command in found if command]


# --- each page for itself

def test_every_command_is_accepted_by_its_script(calls):
    found = [command for text in PAGES.values() for command in commands(text)]
    assert len(found) >= 45
    found += [call for call in calls("\n".join([*BLOCKS, EARLIER])) if call[0].endswith(".py")]
    assert len(found) >= 95
    for script, *flags in found:
        assert (ROOT / script).is_file(), script
        importlib.import_module(script.removesuffix(".py")).parse_args(flags)  # SystemExit for an unknown flag


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_exists_somewhere(page):
    known = {flag for script in SCRIPTS for names in flags_of(script) for flag in names}
    for path in (ROOT / "reproduce.sh", *(ROOT / "transformer" / name for name in (
                     "tasks/submission.py", "tasks/squad.py", "export/__main__.py")),
                 *(ROOT / "benchmarks").glob("*.py")):
        known |= set(re.findall(r"--\w+", path.read_text(encoding="utf-8")))
    known |= {"--help", "--json",  # WikiExtractor's
              "--logdir",  # TensorBoard's
              "--nproc_per_node", "--nnodes", "--node_rank", "--master_addr"}  # torchrun's
    printed = {flag for span in spans(PAGES[page]) for flag in re.findall(r"(?<![\w-])--\w+", span)}
    assert printed and printed <= known, printed - known


def test_every_path_exists_or_is_made():
    """A word with a slash or a suffix is a path in the kit, or in a folder that git ignores, where the steps write; or
    the code names such a file, and no folder of the kit. Words in capitals stand for others."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    sources = [*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *ROOT.glob("Makefile"), *ROOT.glob("transformer/**/*.py")]
    code = "".join(re.sub(r"[$]?[({](\w+)[)}]", r"\1", path.read_text(encoding="utf-8")) for path in sources)
    folders = [ROOT, ROOT / "benchmarks", ROOT / "tests" / "miniworld"]
    found = {page: [word for span in spans(text) for word in re.findall(r"[\w./{},*+-]+", re.sub(r"\w+:\S*", "", span))
                    if re.search(r"\w/\w|\w\.(py|sh|md|json|jsonl|tsv|txt|toml|yml|pt|png|html|zip|arrays)$", word)]
             for page, text in PAGES.items()}
    assert min(map(len, found.values())) > 5
    unknown = {f"{page}: {word}" for page, words in found.items() for word in words
               if not any((folder / word).exists() for folder in folders)
               and word.removeprefix("./").split("/")[0] not in ignored
               and ((ROOT / word.split("/")[0]).is_dir()
                    or not re.search(rf"(?<![\w.]){re.escape(Path(word).name)}(?!\w)", code))
               and not re.fullmatch(r"[A-Z_/]+", word)}
    assert not unknown


def test_variables_of_reproduce_are_read():
    """NAME of `NAME=VALUE ./reproduce.sh`, and STAGE_FLAGS and STAGE_FLAGS_TASK, in the pages."""
    script = (ROOT / "reproduce.sh").read_text(encoding="utf-8")
    code = [span for text in PAGES.values() for span in spans(text)]
    printed = {name for span in code for line in span.splitlines() if "reproduce.sh" in line
               for name in re.findall(r"\b([A-Z]\w+)=", line)}
    printed |= {name for span in code for name in re.findall(r"\b[A-Z]+_FLAGS(?:_[A-Z0-9]+)?\b", span)}
    assert len(printed) >= 5
    tasks = {task.key.upper() for task in TASKS.values()} | {"OWN"}
    for name in printed:
        stage, _, task = name.partition("_FLAGS_")
        assert not task or task in tasks, name
        assert re.search(rf"\b{stage}_FLAGS_@" if task else rf"\b{name}\b|\badded {stage.removesuffix('_FLAGS')}\b",
                         script), name


def test_links_and_make_targets():
    anchors = {page: {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
                      for title in re.findall(r"^#+ (.*)$", text, re.M)} for page, text in PAGES.items()}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for page, text in PAGES.items():
        links = re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", text)
        assert links
        for target, anchor in links:
            path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors[str(path.relative_to(ROOT))], f"{page}: {anchor}"
        assert {target for span in spans(text) for target in re.findall(r"^make\s+(\w+)", span, re.M)} <= targets
    for page in PAGES:  # the front page leads to all others
        assert page == "README.md" or f"]({page})" in README, page


def test_pages_below_docs_begin_alike():
    """With their title, and links to the front page and the pages for everybody, less the one that they stand on."""
    everybody = {"../README.md": "Front page", "reproduction.md": "Every command", "running.md": "Running",
                 "data.md": "Data", "results.md": "Results"}
    for page, text in PAGES.items():
        if page.startswith("docs/"):
            title, links = text.split("\n\n")[:2]
            assert title.startswith("# ") and " ".join(links.split()) == " · ".join(
                f"[{name}]({target})" for target, name in everybody.items() if target != Path(page).name)


def test_messages_name_sections_that_exist():
    """`(PAGE.md, Title)` in the kit's messages and comments."""
    found = [match for path in ROOT.glob("transformer/**/*.py")
             for match in re.findall(r"\(((?:docs/)?\w+\.md), \"?([^)\"]+)\"?\)", path.read_text(encoding="utf-8"))]
    assert found
    for page, title in found:
        assert re.search(rf"^#+ {re.escape(title)}$", PAGES[page], re.M), (page, title)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page: of its paragraphs and items, not of code, tables and headings."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    prose = re.sub(r"^[|#].*$", "", re.sub(r"\]\([^)]*\)", "]", prose), flags=re.M)
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. )", prose):
        yield from re.split(r"(?<=[.?!])\s+(?=[^a-z])", " ".join(paragraph.split()))


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"DEVELOPMENT.md"}))
def test_sentences_are_short(page):
    found = list(sentences(PAGES[page]))
    assert len(found) > 20
    assert [sentence for sentence in found if len(re.findall(r"[^\s—·]*\w[^\s—·]*", sentence)) > 30] == []


def test_the_front_page_is_short():
    assert README.count("\n") <= 350


def test_the_order_of_the_steps():
    order = ["conda env create", "mkdir -p data models", "glove.840B.300d.zip", "download_glue.py",
             "mv glue_data data/",
             "enwiki-latest", "get_bert_models.py", "fix_teacher_layers.py", "finetune_teacher.py",
             "wikiextractor.WikiExtractor", "prepare_data.py", "pregenerate_training_data.py", "general_distill.py",
             "data_augmentation.py", "models/tmp_", "--pred_distill", "--do_eval"]
    script = "\n".join(BLOCKS)
    positions = [script.index(part) for part in order]
    assert positions == sorted(positions)


# --- the pages and reproduce.sh against each other

QUIET = """
set -euo pipefail
conda() { python conda "$@"; }
wget() { python wget "$@"; }
mv() { python mv "$@"; }
"""


@pytest.fixture
def calls(tmp_path):
    """The arguments of each call of python (of conda, wget and mv: with their names) in a script of the shell, which
    does nothing."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/bash\nprintf '%s\\x1f' \"${@//$'\\n'/ }\" >> \"$CALLS\"\necho >> \"$CALLS\"\n")
    python.chmod(0o755)

    def call(script: str) -> list[list[str]]:
        record = tmp_path / "calls"
        record.write_text("")
        run = subprocess.run(["bash", "-c", QUIET + script], cwd=tmp_path, capture_output=True, text=True,
                             stdin=subprocess.DEVNULL,
                             env=os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "CALLS": str(record)})
        assert run.returncode == 0, run.stderr
        return [line.split("\x1f")[:-1] for line in record.read_text().splitlines()]
    return call


COMPARED = ("pregenerate_training_data.py", "general_distill.py", "data_augmentation.py", "task_distill.py")


def canonical(calls: list[list[str]]) -> Counter:
    """What the calls of the long scripts do: (script, its flags with their values), however names are spelled.

    reproduce.sh shares the corpus out to its cores, and keeps evaluations, with answers for the GLUE server, apart.
    """
    found = Counter()
    for script, *words in calls:
        if (name := Path(script).name) not in COMPARED:
            continue
        flags = {}
        for word in words:
            if word.startswith("--"):
                assert word not in flags, f"{word} twice: {words}"
                flags[word] = values = []
            else:
                values.append(word)
        if "--task_name" in flags:
            flags["--task_name"] = [task := get_task(flags["--task_name"][0]).name]
            if "--data_dir" in flags and Path(flags["--data_dir"][0]).name != task:
                flags["--data_dir"][0] += f"/{task}"
        if flags.get("--student_model", [""])[0].endswith("_config"):
            flags["--student_model"] = [Path(folder).name for folder in flags["--student_model"]]
        flags.pop("--num_workers", None)
        if "--do_eval" in flags:
            flags.pop("--do_predict", None)
            flags.pop("--output_dir")
        found[(name, *sorted((flag, *values) for flag, values in flags.items()))] += 1
    return found


def test_the_front_page_the_commands_in_full_and_reproduce_agree(calls):
    front, full = calls("\n".join(BLOCKS)), calls("\n".join(bash_blocks(PAGES["docs/reproduction.md"])))
    loops = canonical(front)
    assert loops.total() == 1 + 1 + 4 + 4 * (1 + 2 * 2) == len(loops)
    assert canonical(full) == loops
    short, same = ([call for call in found if call[0] not in COMPARED] for found in (front, full))
    assert len(short) >= 11 and short == same
    assert canonical(calls(f"bash {shlex.quote(str(ROOT / 'reproduce.sh'))}")) == loops


def test_the_appendix_and_the_earlier_settings_of_reproduce_agree(calls):
    loop = canonical(calls(EARLIER))
    assert loop.total() == 1 + 4 * (1 + 2 * 2) == len(loop)
    shared = canonical(calls("\n".join(block for block in BLOCKS if "task_distill" not in block)))
    shared = {call for call in shared if call[0] != "general_distill.py"}
    whole = canonical(calls(f"bash {shlex.quote(str(ROOT / 'reproduce.sh'))} --settings earlier"))
    assert {*whole} == {*loop, *shared} and whole.total() == len(whole)


def test_the_commands_of_squad_and_reproduce_agree(calls):
    (block,) = bash_blocks(PAGES["docs/squad.md"])
    printed = canonical(calls(block))
    assert printed.total() == 1 + 2 * 2 == len(printed)
    script = shlex.quote(str(ROOT / "reproduce.sh"))
    assert canonical(calls(f"bash {script} --published --tasks squad1")) == printed


def test_the_commands_of_chinese_and_reproduce_agree(calls):
    """Also those of the short scripts, but for tasks that come one by one, and processes."""
    (block,) = bash_blocks(PAGES["docs/chinese.md"])
    page, whole = calls(block), calls(f"bash {shlex.quote(str(ROOT / 'reproduce.sh'))} --language chinese")
    printed = canonical(page)
    assert printed.total() == 1 + 1 + 3 + 4 * (1 + 2 * 2) == len(printed)
    assert canonical(whole) == printed
    assert [call for call in page if call[0] == "wget"] == [["wget", "-c", "-P", "data", call[2]] for call in whole
                                                            if "dumps.wikimedia.org" in " ".join(call)]
    for script in ("get_bert_models.py", "fix_teacher_layers.py", "prepare_data.py", "-m"):
        found = [[words[1:] for words in run if Path(words[0]).name == script] for run in (page, whole)]
        found[1] = [words[:words.index("--num_workers")] if "--num_workers" in words else words for words in found[1]]
        assert found[0] == found[1] and len(found[0]) == 1
    for script in ("download_glue.py", "finetune_teacher.py"):
        (together,), apart = ([words[1:] for words in run if Path(words[0]).name == script] for run in (page, whole))
        assert set(together) == set().union(*apart) and len(apart) == 4 and all(
            len(words) == len(together) - 3 for words in apart)


def rows_of(text: str) -> list[list[str]]:
    """The cells of the tables in a text."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()
            if line.startswith("|") and not re.fullmatch(r"[ |:-]+", line)]


def test_estimates_are_what_the_command_prints():
    """To renew the table in docs/results.md, and what README has of it: what this command prints."""
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "bench_train.py", "--stages", "hours"],
                         capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    printed = rows_of(run.stdout)
    assert printed == [row for row in rows_of(PAGES["docs/results.md"]) if len(row) == len(printed[0])
                       and row[0] in {row[0] for row in printed}]
    hours = {name: cells for name, *_, small, large, memory, disk in printed
             for cells in [(small, large, memory, disk)]}
    found = {row[0]: row[1:] for row in rows_of(README) if len(row) == 5}
    alone, whole, own = (found[row] for row in found if "four tasks" in row)
    for row, name in ((alone, "all from published students"), (whole, "all")):
        assert row[:3] == [*hours[name][:2], f"{hours[name][2]} GB"]
    assert own[:3] == [f"{few} to {many}" for few, many in zip(hours["all for 4l"][:2], hours["all for 6l"])] + \
        [f"{hours['all for 4l'][2]} to {hours['all for 6l'][2]} GB"]
    assert found["`general_distill.py`"][1:] == [*hours["general_4l+6l"][:2], f"{hours['general_4l+6l'][3]} GB"]
    for row, name in (("intermediate stage", "intermediate_4l+6l"), ("`--pred_distill`, `4l`", "prediction_4l"),
                      ("`--pred_distill`, `6l`", "prediction_6l")):
        for column in (0, 1):
            assert found[row][1 + column].split(", ") == [hours[f"{name}_{task}"][column]
                                                          for task in ("rte", "sst2", "cola", "mrpc")]


# --- the front page runs as printed

STAND_INS = r"""
set -euo pipefail
conda() { echo "stand-in for: conda $*"; }
wget() {  # the last argument's file, from the embedded world, into the folder after -P
    local folder=. url=${@: -1}
    while (($# > 1)); do if [[ $1 == -P ]]; then folder=$2; fi; shift; done
    case $url in
        https://nlp.stanford.edu/data/*)
            command python -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' \
                "$WORLD/glove/${url##*/}" "$folder/${url##*/}" ;;
        https://dumps.wikimedia.org/*) cp wiki.xml.bz2 "$folder/${url##*/}" ;;
        *) echo "unknown address $url" >&2; return 1 ;;
    esac
}
PYTHONPATH=$PWD command python "$PREFORK" socket &
trap "kill $!" EXIT
until [[ -S socket ]]; do sleep 0.1; done
started=" "
python() {  # each script starts once as anybody's does; from then on a process that has everything loaded does it
    if [[ $1 != *.py || $started != *" $1 "* ]]; then
        started+="$1 "
        command python "$@"
    else
        command python -S -E "$PREFORK" socket "$@"
    fi
}
"""
PAGES_OF_WIKI = 200  # of the embedded encyclopedia: enough for one batch of 256 instances in an epoch
SMALLER = {  # numbers of the paper in the copy of the kit: file -> what stands there, what is put in its place
    "data_augmentation.py": ("return args.N or 20", "return args.N or 1"),
    "transformer/tasks/task.py": ("intermediate_epochs: int = 20", "intermediate_epochs: int = 1"),
    "transformer/tasks/glue.py": ("intermediate_epochs=50", "intermediate_epochs=2"),
    # or a BERT this small learns nothing of some hundred reviews
    "transformer/tasks/own.py": ("**settings)", "**settings | dict(teacher_learning_rate=3e-4, teacher_batch_size=8))"),
}


def copy_kit(folder: Path) -> None:
    """The kit with tiny students and smaller numbers."""
    for path in [*ROOT.glob("*.py"), ROOT / "requirements.txt", ROOT / "environment.yml"]:
        shutil.copy(path, folder)
    for part in ("transformer", "tests/miniworld"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "__init__.py", folder / "tests")
    for name, (old, new) in SMALLER.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name}: {old}"
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")
    for student, layers in (("tinybert_4l_config", 1), ("tinybert_6l_config", 2)):
        config = json.loads((ROOT / "tests" / "miniworld" / student / "config.json").read_text())
        (folder / student).mkdir()
        (folder / student / "config.json").write_text(json.dumps(
            config | {"num_hidden_layers": layers, "hidden_size": 16, "intermediate_size": 32}))


@pytest.mark.readme
def test_the_front_page_runs_as_printed(tmp_path):
    """All bash blocks in order, the five lines of Python, one's own data, then the appendix in the place of what it
    stands for."""
    copy_kit(tmp_path)
    world = ensure_world(ROOT / ".cache" / "miniworld")
    pages = bz2.decompress((world / "wiki" / "wiki.xml.bz2").read_bytes()).split(b"  <page>")
    (tmp_path / "wiki.xml.bz2").write_bytes(bz2.compress(b"  <page>".join(pages[:PAGES_OF_WIKI]) + b"</mediawiki>\n"))
    (lines,) = re.findall(r"^```python\n(.*?)^```$", README, flags=re.M | re.S)
    assert lines.count("\n") == 5
    (tmp_path / "five_lines.py").write_text(lines)
    blocks = [*BLOCKS, f"python five_lines.py\n{OWN}\nmkdir paper\nmv tmp models/*distilled* paper\n", EARLIER]
    script = STAND_INS + "".join(f"\n: block {number}\n{block}" for number, block in enumerate(blocks))
    with serve(world) as base:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "WORLD": base,
            "PREFORK": str(ROOT / "tests" / "miniworld" / "prefork.py"), "HF_ENDPOINT": base,
            "GLUE_BASE": f"{base}/nano/glue/data",
            "SENTEVAL_BASE": f"{base}/nano/senteval/senteval_data", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
                             stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    for folder in (tmp_path / "paper" / "tmp", tmp_path / "tmp"):
        results = (folder / "eval_results.txt").read_text()
        for student in ("4l", "6l"):
            for task in ("rte", "cola", "sst2", "mrpc"):
                assert results.count(f"models/distilled_tinybert_{student}_{task} *****") == 1
    exported = tmp_path / "models" / "reviews_for_others"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(exported).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(exported)("the film is great", return_tensors="pt")
    ours = TinyBertForSequenceClassification.from_pretrained(
        tmp_path / "paper" / "distilled_tinybert_4l_reviews", num_labels=3).eval()(*inputs.values())[0]
    assert torch.allclose(model(**inputs).logits, ours, atol=1e-6)
    assert set(model.config.label2id) == {"film", "hotel", "museum"}
    label, no, yes = re.search(r"^([01]) \[\[(\S+), (\S+)\]\]$", run.stdout, re.M).groups()
    assert int(label) == (float(yes) > float(no)) and float(yes) + float(no) == pytest.approx(1)
    epochs = [json.loads((folder / "tmp_distilled_tinybert_6l_cola" / "run.json").read_text())
              ["settings"]["num_train_epochs"] for folder in (tmp_path / "paper", tmp_path / "models")]
    assert epochs == [2, 10]  # the paper's 50 for CoLA, made smaller above, and what the appendix prints
