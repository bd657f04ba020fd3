"""README.md and DEVELOPMENT.md are the truth: flags, paths and links exist, and README's commands run as printed."""
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from miniworld import ensure_world, serve
from test_architecture import SCRIPTS, flags_of

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": TEXT, "DEVELOPMENT.md": (ROOT / "DEVELOPMENT.md").read_text(encoding="utf-8")}
STEPS = TEXT.split("\n## Reproduction, step by step\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", STEPS, flags=re.M | re.S)


def spans(text: str) -> list[str]:
    """The texts of code blocks (Python and drawings aside) and between backticks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"^```(?:bash|sh)\n(.*?)^```$", text, re.M | re.S) + re.findall(r"`([^`]+)`", prose)


def commands(text: str) -> list[list[str]]:
    """SCRIPT.py and its flags, of `python SCRIPT.py ...` and `torchrun ... SCRIPT.py ...`."""
    lines = [line for span in spans(text) for line in span.replace("\\\n", " ").splitlines()]
    found = [re.match(r"(?:python|torchrun [^.]*) (\w+\.py.*)", line) for line in lines]
    return [shlex.split(command[1]) for command in found if command]


def test_every_command_is_accepted_by_its_script():
    found = [command for text in PAGES.values() for command in commands(text)]
    assert len(found) >= 30
    for script, *flags in found:
        assert (ROOT / script).is_file(), script
        importlib.import_module(script.removesuffix(".py")).parse_args(flags)  # SystemExit for an unknown flag


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_exists_somewhere(page):
    known = {flag for script in SCRIPTS for names in flags_of(script) for flag in names}
    for path in (ROOT / "reproduce.sh", ROOT / "transformer/tasks/submission.py", *(ROOT / "benchmarks").glob("*.py")):
        known |= set(re.findall(r"--\w+", path.read_text(encoding="utf-8")))
    known |= {"--help", "--json",  # WikiExtractor's
              "--nproc_per_node", "--nnodes", "--node_rank", "--master_addr"}  # torchrun's
    printed = {flag for span in spans(PAGES[page]) for flag in re.findall(r"(?<![\w-])--\w+", span)}
    assert len(printed) > 5 and printed <= known, printed - known


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
    assert min(map(len, found.values())) > 20
    unknown = {f"{page}: {word}" for page, words in found.items() for word in words
               if not any((folder / word).exists() for folder in folders)
               and word.removeprefix("./").split("/")[0] not in ignored
               and ((ROOT / word.split("/")[0]).is_dir()
                    or not re.search(rf"(?<![\w.]){re.escape(Path(word).name)}(?!\w)", code))
               and not re.fullmatch(r"[A-Z_/]+", word)}
    assert not unknown


def test_links_and_make_targets():
    anchors = {page: {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
                      for title in re.findall(r"^#+ (.*)$", text, re.M)} for page, text in PAGES.items()}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", text):
            assert (ROOT / target).exists(), target
            assert not anchor or anchor in anchors[target or page], anchor
        assert {target for span in spans(text) for target in re.findall(r"^make\s+(\w+)", span, re.M)} <= targets


def test_the_order_of_the_steps():
    order = ["conda env create", "mkdir -p data models", "glove.840B.300d.zip", "download_glue.py",
             "mv glue_data data/",
             "wikiextractor.WikiExtractor", "prepare_data.py", "get_bert_models.py", "pregenerate_training_data.py",
             "tinybert_4l_config", "tinybert_6l_config", "data_augmentation.py", "fix_teacher_layers.py",
             "finetune_teacher.py", "models/tmp_distilled_tinybert_4l_rte", "--pred_distill", "--do_eval"]
    script = "\n".join(BLOCKS)
    positions = [script.index(part) for part in order]
    assert positions == sorted(positions)
    assert script.count("--do_eval --") == 8 and script.count("--pred_distill") == 8


STAND_INS = r"""
set -euo pipefail
conda() { echo "stand-in for: conda $*"; }
wget() {  # the last argument's file, from the embedded world, into the folder after -P
    local folder=. url=${@: -1}
    while (($# > 1)); do if [[ $1 == -P ]]; then folder=$2; fi; shift; done
    case $url in
        https://nlp.stanford.edu/data/*) source=$WORLD/glove/${url##*/} ;;
        https://dumps.wikimedia.org/*) source=$WORLD/wiki/wiki.xml.bz2 ;;
        *) echo "unknown address $url" >&2; return 1 ;;
    esac
    python -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' "$source" "$folder/${url##*/}"
}
"""


@pytest.mark.readme
def test_the_readme_runs_as_printed(tmp_path):
    """All bash blocks in order, in a copy of the kit whose student configs are tiny and whose hosts are local."""
    for path in [*ROOT.glob("*.py"), ROOT / "requirements.txt", ROOT / "environment.yml"]:
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "transformer", tmp_path / "transformer")
    for student, layers in (("tinybert_4l_config", 1), ("tinybert_6l_config", 2)):
        config = json.loads((ROOT / "tests" / "miniworld" / student / "config.json").read_text())
        (tmp_path / student).mkdir()
        (tmp_path / student / "config.json").write_text(json.dumps(
            config | {"num_hidden_layers": layers, "hidden_size": 16, "intermediate_size": 32}))
    script = tmp_path / "readme.sh"
    script.write_text(STAND_INS + "".join(f"\n: block {n}\n{block}" for n, block in enumerate(BLOCKS)))
    with serve(ensure_world(ROOT / ".cache" / "miniworld")) as base:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "WORLD": base,
            "HF_ENDPOINT": base, "GLUE_BASE": f"{base}/nano/glue/data",
            "SENTEVAL_BASE": f"{base}/nano/senteval/senteval_data", "OMP_NUM_THREADS": "2"}
        run = subprocess.run(["bash", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
                             stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    results = (tmp_path / "tmp" / "eval_results.txt").read_text()
    for student in ("4l", "6l"):
        for task in ("rte", "cola", "sst2", "mrpc"):
            assert f"models/distilled_tinybert_{student}_{task} *****" in results
