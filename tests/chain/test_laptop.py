"""reproduce.sh --size laptop and --articles, with a stand-in for python."""
import importlib
import json
import re
import shlex
import sys

import pytest

import get_bert_models
from tests.chain.test_reproduce import PYTHON, caller, flags
from tests.conftest import PIECES, ROOT, edit_config, write_lines
from transformer.checkpoint import save_model
from transformer.config import BertConfig
from transformer.modeling import BertModel

TEACHER = "google/bert_uncased_L-6_H-256_A-4"
FOLDER = "models/bert_uncased_L-6_H-256_A-4"


@pytest.fixture
def reproduce(tmp_path):
    """Call reproduce.sh with a stand-in for python, which answers as the kit which folder a BERT comes into."""
    knows = f'if [[ "$*" == *"transformer.planning --bert"* ]]; then exec {shlex.quote(sys.executable)} "$@"; fi\n'
    return caller(tmp_path, PYTHON.replace("\n", f"\n{knows}", 1))


def test_all_steps_take_the_small_models(reproduce):
    """From the first articles to the scores; one teacher for all, both students together; and all is done once."""
    run, calls = reproduce("--size", "laptop")
    assert run.returncode == 0, run.stderr
    named = r"import fetch|import unzip|fetching\.wikipedia|\w+\.py|WikiExtractor"
    assert [re.search(named, call)[0] for call in calls] == [
        "import fetch", "import unzip", *["download_glue.py"] * 4, "fetching.wikipedia", "get_bert_models.py",
        "fix_teacher_layers.py", *["finetune_teacher.py"] * 4, "WikiExtractor", "prepare_data.py",
        "pregenerate_training_data.py", "general_distill.py", *["data_augmentation.py"] * 4,
        *["task_distill.py"] * 20]
    glove, unpack, *_ = calls
    assert "nlp.stanford.edu/data/glove.6B.zip data/glove.6B.zip" in glove
    assert unpack.endswith(" data/glove.6B.zip data/glove.6B.50d.txt")
    dump = flags(calls[6])
    assert dump["--articles"] == "500" and "https://dumps.wikimedia.org/enwiki/latest/enwiki-latest-" in calls[6]
    assert calls[13].split()[2] == dump["--output_file"] == "data/enwiki-latest-pages-articles-first-500.xml"
    assert calls[7].endswith(f"--models {TEACHER}") and calls[8].endswith(f" {FOLDER}")
    for script, flag in (("finetune_teacher", "--model"), ("pregenerate_training_data", "--bert_model"),
                         ("general_distill", "--teacher_model"), ("data_augmentation", "--pretrained_bert_model")):
        assert {flags(call)[flag] for call in calls if script in call} == {FOLDER}
    assert {flags(call)["--glove_embs"] for call in calls if "data_augmentation" in call} == {"data/glove.6B.50d.txt"}
    general = flags(calls[16])
    assert general["--student_model"] == "docs/laptop/tinybert_2l_config docs/laptop/tinybert_3l_config"
    assert general["--output_dir"] == "models/distilled_tinybert_2l models/distilled_tinybert_3l"
    assert not any("bert-base-uncased" in call or "--do_lower_case" in call for call in calls)
    run, calls = reproduce("--size", "laptop")
    assert run.returncode == 0 and not calls


def test_the_settings_are_taken_by_the_scripts(reproduce, tmp_path):
    """Every flag by the parser of its script; the last of two equal ones counts."""
    run, calls = reproduce("--size", "laptop", "--students", "3l", INTERMEDIATE_FLAGS_RTE="--num_train_epochs 7")
    assert run.returncode == 0, run.stderr
    epochs = {}
    for call in calls:
        script, *given = call.split()
        if script == "-m" and given[0].startswith("transformer."):
            script, *given = given
        elif not script.endswith(".py"):
            continue
        args = importlib.import_module(script.removesuffix(".py")).parse_args(given)
        if script.endswith("general_distill.py"):
            assert (args.max_seq_length, args.train_batch_size, args.learning_rate, args.eval_step) == (
                64, 32, 1e-3, 500)
        if script.endswith("pregenerate_training_data.py"):
            assert args.max_seq_len == 64
        if script.endswith("data_augmentation.py"):
            assert args.N == (1 if args.task_name == "SST-2" else 5)
        if script.endswith("finetune_teacher.py"):
            assert (args.learning_rate, args.num_train_epochs) == ((1e-4, 2) if "SST-2" in args.tasks else (3e-5, 8))
        if script.endswith("task_distill.py") and not args.do_eval:
            assert args.learning_rate == 3e-4
            assert args.skip_teacher_check == (args.task_name != "SST-2")
            epochs[args.task_name, args.pred_distill] = args.num_train_epochs
    assert epochs == {("RTE", False): 7, ("RTE", True): 2, ("MRPC", False): 1, ("MRPC", True): 2,
                      ("CoLA", False): 2, ("CoLA", True): 2, ("SST-2", False): 0.5, ("SST-2", True): 0.5}


def test_the_students_are_alike_but_for_their_layers():
    """And leave heads and vocabulary to the teacher, whichever it is."""
    configs = {size: json.loads((ROOT / f"docs/laptop/tinybert_{size}_config/config.json").read_text())
               for size in ("2l", "3l")}
    assert configs["2l"] | {"num_hidden_layers": 3} == configs["3l"]
    assert configs["2l"].pop("num_hidden_layers") == 2
    assert not {"num_attention_heads", "vocab_size"} & set(configs["2l"])
    assert all(configs["2l"]["hidden_size"] % heads == 0 for heads in (2, 4, 8, 12))  # Google's, MiniLM's


@pytest.mark.parametrize("name", ["own BERT", "org/tiny-bert/", "org/tiny-bert@v1/x", "rte"])
def test_another_teacher(name, reproduce, tmp_path, monkeypatch):
    """A repository, with a revision, a known name, or a folder behind a link; in the folder that get_bert_models.py
    makes of it."""
    if name == "own BERT":
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        BertConfig(40, 24, 6, 12, 48).to_json_file(tmp_path / "elsewhere" / name / "config.json")
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / name)
        name = "link"
    run, calls = reproduce("--size", "laptop", "--teacher", name, "--tasks", "rte", "--students", "2l")
    assert run.returncode == 0, run.stderr
    name = name.removesuffix("/")
    monkeypatch.chdir(tmp_path)
    folder, = get_bert_models.parse_args(["--models", name]).models
    assert next(call for call in calls if "get_bert_models" in call).endswith(f" --models {name}")
    asked = [call for call in calls if re.search("fix_teacher|finetune|pregenerate|general_distill|augmentation", call)]
    assert len(asked) == 5 and all(f" models/{folder}" in call for call in asked)
    run, calls = reproduce("--size", "laptop", "--tasks", "rte", "--students", "2l")
    assert run.returncode == 2 and f"--size laptop --teacher {name} --articles 500: give that" in run.stderr


def test_a_teacher_that_cannot_be_one_is_refused_before_all_else(reproduce, tmp_path):
    """By its name, its layers, its heads, its lack of a masked LM, its place: nothing is fetched, nothing written."""
    def refused(words: str, *argv: str) -> None:
        run, calls = reproduce("--size", "laptop", "--tasks", "rte", *argv)
        assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1, run.stderr
        assert [call for call in calls if "transformer.planning" not in call] == []
        assert not (tmp_path / "results").exists()

    refused("unknown model 'nosuch'", "--teacher", "nosuch")
    refused("the teacher's 4 layers are no multiple of the student's 3", "--teacher", TEACHER.replace("L-6", "L-4"))
    config = BertConfig(len(PIECES), 24, 6, 4, 48)
    for place in ("own", "models/own"):
        save_model(BertModel(config), tmp_path / place, write_lines(tmp_path / "vocab.txt", PIECES))
    refused("own has no masked-LM head", "--teacher", "own")
    refused("lies in models/, where the steps write", "--teacher", "models/own", "--no_augmentation")
    edit_config(tmp_path / "own", num_hidden_layers=5)
    refused("5 layers are no multiple of the student's 2", "--teacher", "own", "--no_augmentation")
    edit_config(tmp_path / "own", model_type="gpt2")
    refused("own", "--teacher", "own", "--no_augmentation")


def test_a_teacher_without_a_masked_lm(reproduce, tmp_path):
    """Nothing is augmented then, and so nothing of word vectors fetched."""
    save_model(BertModel(BertConfig(len(PIECES), 24, 6, 4, 48)), tmp_path / "own",
               write_lines(tmp_path / "vocab.txt", PIECES))
    argv = "--size", "laptop", "--teacher", "own", "--tasks", "rte", "--students", "3l", "--no_augmentation"
    run, calls = reproduce(*argv)
    assert run.returncode == 0, run.stderr
    assert not any(word in call for call in calls for word in ("glove", "data_augmentation", "--aug_train"))
    run, _ = reproduce(*argv[:-1], "--list")
    assert "own has no masked-LM head" in run.stderr and "or give --no_augmentation" in run.stderr


def test_ablations_and_seeds(reproduce):
    """General students of their own and task distillation in folders of their own, as at full size."""
    run, calls = reproduce("--size", "laptop", "--tasks", "sst2", "--ablation", "full,no_trm,no_gd", "--seeds", "1,2")
    assert run.returncode == 0, run.stderr
    general = [flags(call) for call in calls if "general_distill" in call]
    assert [call.get("--without") for call in general] == [None, "attn hidn"]
    assert general[1]["--output_dir"].split()[1] == "models/runs/no_trm/distilled_tinybert_3l"
    students = [flags(call)["--student_model"].split()[0] for call in calls if "--from_scratch" in call]
    assert students == ["docs/laptop/tinybert_2l_config"] * 2
    assert calls[-1].endswith("report.py")
    evaluations = [call for call in calls if "--do_eval" in call]
    assert len(evaluations) == 3 * 2 * 2 and flags(evaluations[0])["--output_dir"] == "results/runs/full/seed_1/2l_sst2"


@pytest.mark.parametrize(("argv", "words"), [
    (["--size", "small"], "unknown size small: full or laptop"),
    (["--size"], "--size needs a value"),
    (["--size", "laptop", "--tasks", "RTE,MNLI"], "task MNLI has no settings for --size laptop: RTE SST-2 CoLA MRPC"),
    (["--size", "laptop", "--students", "4l"], "unknown student 4l: 2l or 3l"),
    (["--students", "3l"], "unknown student 3l: 4l or 6l"),
    (["--size", "laptop", "--published"], "--published takes students whose teacher is BERT-base"),
    (["--size", "laptop", "--task_dir", "x"], "--task_dir --published takes students whose teacher is BERT-base"),
    (["--size", "laptop", "--search"], "--search tries the paper's rates, which are a tenth of those of --size laptop"),
    (["--size", "laptop", "--language", "chinese"], "--size laptop has settings of its own, for English"),
    (["--size", "laptop", "--settings", "earlier"], "--size laptop has settings of its own, for English"),
    (["--teacher", TEACHER], "add --task_dir or that, or drop it"),
    (["--articles", "none"], "--articles none is not a whole number above 0"),
    (["--articles", "0"], "--articles 0 is not a whole number above 0"),
    (["--articles", "9", "--published"], "--articles is for Wikipedia, which --published and --task_dir leave out")])
def test_what_it_is_not_for(argv, words, reproduce):
    run, calls = reproduce(*argv)
    assert run.returncode == 2 and words in run.stderr and len(run.stderr.splitlines()) == 1 and not calls


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_the_first_articles_at_full_size(language, reproduce):
    """The full models and settings; what was made of them is not taken for all of Wikipedia."""
    wiki = {"english": "enwiki", "chinese": "zhwiki"}[language]
    task = {"english": "RTE", "chinese": "TNEWS"}[language]
    argv = "--language", language, "--tasks", task, "--students", "4l"
    run, calls = reproduce(*argv, "--articles", "1000000")
    assert run.returncode == 0, run.stderr
    dump = next(call for call in calls if "fetching.wikipedia" in call)
    target = f"data/{wiki}-latest-pages-articles-first-1000000.xml"
    assert flags(dump)["--output_file"] == target
    assert any(call.split()[2:3] == [target] for call in calls if "WikiExtractor" in call)
    assert flags(next(call for call in calls if "general_distill" in call)).keys() & {"--max_seq_length"} == set()
    for more in ((), ("--articles", "7")):
        run, calls = reproduce(*argv, *more)
        assert run.returncode == 2 and "--articles 1000000: give that, or go to another folder" in run.stderr
