"""README.md is the truth: every flag it prints exists, every link leads somewhere, and its commands run as printed."""
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

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = TEXT.split("\n## Reproduction, step by step\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", STEPS, flags=re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """SCRIPT.py and its flags, of `python SCRIPT.py ...` and `torchrun ... SCRIPT.py ...` in code blocks, backticks."""
    code = re.findall(r"^```(?:bash|sh)\n(.*?)^```$", text, flags=re.M | re.S) + re.findall(r"`([^`\n]+)`", text)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    found = [re.match(r"(?:python|torchrun [^.]*) (\w+\.py.*)", line) for line in lines]
    return [shlex.split(command[1]) for command in found if command]


def test_every_command_is_accepted_by_its_script():
    found = commands(TEXT)
    assert len(found) >= 30
    for script, *flags in found:
        assert (ROOT / script).is_file(), script
        importlib.import_module(script.removesuffix(".py")).parse_args(flags)  # SystemExit for an unknown flag


def test_every_flag_exists_somewhere():
    shell = (ROOT / "reproduce.sh").read_text()
    helps = {path.name: subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True).stdout
             for path in ROOT.glob("*.py")}
    assert len(helps) == 10
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    submission = (ROOT / "transformer" / "submission.py").read_text()
    known = {*re.findall(r"--\w+", shell + benchmarks + submission + "".join(helps.values())),
             "--json",  # WikiExtractor's
             "--nproc_per_node", "--nnodes", "--node_rank", "--master_addr"}  # torchrun's
    spans = re.findall(r"`([^`\n]+)`", TEXT) + re.findall(r"^```.*?^```$", TEXT, re.M | re.S)
    printed = {flag for span in spans for flag in re.findall(r"(?<![\w-])--\w+", span)}
    assert len(printed) > 30 and printed <= known, printed - known


def test_links_and_make_targets():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    titles = re.findall(r"^#+ (.*)$", TEXT, re.M)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make (\w+)", TEXT, re.M)) | set(re.findall(r"`make (\w+)`", TEXT)) <= targets


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
