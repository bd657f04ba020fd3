"""What --do_eval and --do_predict write, recomputed; the zip file, against a checker after the GLUE server's format."""
import math
import shutil
import zipfile

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch

from tests.conftest import edit_config, names, run, sentence, train, write_lines
from transformer.checkpoint import load_tokenizer
from transformer.files import read_json
from transformer.modeling import TinyBertForSequenceClassification
from transformer.weights import read_weights, write_bin

TWO, ENTAILED = ("0", "1"), ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
SERVER = {  # file: rows and the predictions that are taken, None for a number from 0 to 5
    "CoLA.tsv": (1063, TWO), "SST-2.tsv": (1821, TWO), "MRPC.tsv": (1725, TWO), "STS-B.tsv": (1379, None),
    "QQP.tsv": (390965, TWO), "MNLI-m.tsv": (9796, THREE), "MNLI-mm.tsv": (9847, THREE), "AX.tsv": (1104, THREE),
    "QNLI.tsv": (5463, ENTAILED), "RTE.tsv": (3000, ENTAILED), "WNLI.tsv": (146, TWO)}
TEST_HEADERS = {
    "CoLA/test": "index\tsentence", "MRPC/test": "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "STS-B/test": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    "diagnostic/diagnostic": "index\tsentence1\tsentence2",
    **{f"MNLI/test_{name}": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
       "sentence1_parse\tsentence2_parse\tsentence1\tsentence2" for name in ("matched", "mismatched")}}
ROWS = 30


def server_takes(name: str, text: str, rows: int) -> None:
    """The published form: a header, then index and prediction between tabs, indices from 0 on."""
    lines = text.split("\n")
    assert lines[0] == "index\tprediction" and lines[-1] == "" and len(lines) == rows + 2, name
    taken = SERVER[name][1]
    for number, line in enumerate(lines[1:-1]):
        index, prediction = line.split("\t")
        assert index == str(number), name
        assert prediction in taken if taken else 0 <= float(prediction) <= 5, name


def texts_of(name: str) -> list[tuple[str, ...]]:
    """The texts of a test set of the tests: one for CoLA, else two."""
    offset = len(name)
    return [(sentence(n + offset),) if name == "CoLA/test" else (sentence(n + offset), sentence(2 * n)) for n in
            range(ROWS)]


def write_test_sets(glue) -> None:
    for name, header in TEST_HEADERS.items():
        lines = [header]
        for index, texts in enumerate(texts_of(name)):
            columns = [str(index)] + [f"x{c}" for c in range(1, header.count("\t") + 1)]
            columns[-len(texts):] = texts
            lines.append("\t".join(columns))
        write_lines(glue / f"{name}.tsv", lines)


def arguments(tiny, task, *flags, student=None) -> list:
    return [*flags, "--task_name", task, "--data_dir", tiny / "glue" / task, "--output_dir", tiny / "results",
            "--student_model", student or tiny / f"student_{task.lower().replace('-', '')}", "--max_seq_length", 24,
            "--do_lower_case", "--no_cuda"]


def answers_of(folder, name: str) -> np.ndarray:
    """Logits of a model for the texts of a test set, one text or pair at a time."""
    model = TinyBertForSequenceClassification.from_pretrained(
        folder, num_labels=len(read_weights(folder)["classifier.bias"])).eval()
    vocab, logits = load_tokenizer(folder, True), []
    for texts in texts_of(name):
        pieces, segments = ["[CLS]"], [0]
        for segment, text in enumerate(texts):
            found = [*vocab.tokenize(text), "[SEP]"]
            pieces += found
            segments += [segment] * len(found)
        ids = torch.tensor([vocab.convert_tokens_to_ids(pieces)])
        with torch.no_grad():
            logits.append(model(ids, torch.tensor([segments]), torch.ones_like(ids))[0][0].numpy())
    return np.array(logits)


def change_classifier(folder, change) -> None:
    state = read_weights(folder)
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = change(state[name])
    write_bin(folder / "pytorch_model.bin", state)


@pytest.mark.parametrize("task,files,labels", [
    ("CoLA", {"CoLA": "CoLA/test"}, TWO), ("MRPC", {"MRPC": "MRPC/test"}, TWO),
    ("STS-B", {"STS-B": "STS-B/test"}, None),
    ("MNLI", {"MNLI-m": "MNLI/test_matched", "MNLI-mm": "MNLI/test_mismatched", "AX": "diagnostic/diagnostic"}, THREE)])
def test_predictions_for_the_server(task, files, labels, tiny, script):
    write_test_sets(tiny / "glue")
    folder = tiny / f"student_{task.lower().replace('-', '')}"
    logits = torch.from_numpy(answers_of(folder, next(iter(files.values()))))
    factor = 4 / logits.std() if task == "STS-B" else 1  # scores on both sides of the scale, answers of all classes
    change_classifier(folder, lambda tensor: tensor * factor if tensor.dim() == 2 else
                      (tensor - logits.mean(dim=0)) * factor + 2.5)
    if task == "MNLI":  # the model's own order
        edit_config(folder, id2label=dict(enumerate(THREE)))
    out = run(script, "task_distill", arguments(tiny, task, "--do_predict"))
    assert set(names(tiny / "results")) == {f"{name}.tsv" for name in files}
    for name, file in files.items():
        text = (tiny / "results" / f"{name}.tsv").read_text()
        server_takes(f"{name}.tsv", text, ROWS)
        found = [line.split("\t")[1] for line in text.splitlines()[1:]]
        logits = answers_of(folder, file)
        if labels:
            assert found == [labels[column] for column in logits.argmax(axis=1)]
            assert len(set(found)) == len(labels)
        else:
            assert [float(word) for word in found] == pytest.approx(logits[:, 0].clip(0, 5), abs=1e-3)
            assert logits.min() < 0 and logits.max() > 5
        assert f"{name}.tsv: {ROWS} predictions; the GLUE server wants {SERVER[name + '.tsv'][0]}" in out


def test_the_diagnostic_set_may_be_missing_but_no_test_set(tiny, script, refused):
    write_test_sets(tiny / "glue")
    (tiny / "glue" / "diagnostic" / "diagnostic.tsv").unlink()
    out = run(script, "task_distill", arguments(tiny, "MNLI", "--do_predict"))
    assert "no AX.tsv: " in out and "--tasks diagnostic" in out
    assert names(tiny / "results") == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    (tiny / "glue" / "MRPC" / "test.tsv").unlink()
    refused("task_distill", *arguments(tiny, "MRPC", "--do_predict"), words=("test.tsv", "does not exist"))
    refused("task_distill", *arguments(tiny, "MRPC", "--do_predict", "--pred_distill"),
            words=("--do_predict", "--pred_distill"))


@pytest.mark.parametrize("task,sets", [("MRPC", ["dev"]), ("STS-B", ["dev"]),
                                       ("MNLI", ["dev_matched", "dev_mismatched"])])
def test_evaluation_is_told_in_the_folder_of_the_model(task, sets, tiny, script):
    folder = tiny / f"student_{task.lower().replace('-', '')}"
    run(script, "task_distill", arguments(tiny, task, "--do_eval", "--save_predictions"))
    record = read_json(folder / "eval_results.json")
    assert (record["task"], record["model"], record["finished"]) == (task, str(folder), True)
    assert record["counts"] == dict.fromkeys(sets, 24) and record["model_finished"]
    assert record["settings"]["max_seq_length"] == 24 and record["versions"]["torch"] == torch.__version__
    assert record["wall_seconds"] >= 0 and record["started"].startswith("20")
    values = {}
    for name in sets:
        rows = [line.split("\t") for line in (folder / f"eval_predictions_{name}.tsv").read_text().splitlines()]
        columns = dict(zip(rows[0], zip(*rows[1:])))
        labels, predictions = columns["label"], columns["prediction"]
        assert columns["index"] == tuple(map(str, range(24)))
        if task == "STS-B":
            labels, predictions = (np.array(column, float) for column in (labels, predictions))
            values["pearson"] = scipy.stats.pearsonr(labels, predictions).statistic
            values["spearmanr"] = scipy.stats.spearmanr(labels, predictions).statistic
            values["corr"] = (values["pearson"] + values["spearmanr"]) / 2
            continue
        logits = {name.removeprefix("logit_"): np.array(column, float) for name, column in columns.items()
                  if name.startswith("logit_")}
        assert list(predictions) == [max(logits, key=lambda label: logits[label][row]) for row in range(24)]
        values["acc" if not values else "acc_mismatched"] = sklearn.metrics.accuracy_score(labels, predictions)
        if task == "MRPC":
            values["f1"] = sklearn.metrics.f1_score(labels, predictions, pos_label="1")
            values["acc_and_f1"] = (values["acc"] + values["f1"]) / 2
    assert record["values"] == pytest.approx(values, abs=1e-6) and record["metric"] in record["values"]


def test_fingerprint_is_of_weights_and_labels(tiny, script):
    folder = tiny / "student_mnli"

    def fingerprint() -> str:
        run(script, "task_distill", arguments(tiny, "MNLI", "--do_eval"))
        return read_json(folder / "eval_results.json")["model_sha256"]

    first = fingerprint()
    assert fingerprint() == first and len(first) == 64
    edit_config(folder, note="nothing follows from it")
    assert fingerprint() == first
    edit_config(folder, id2label=dict(enumerate(THREE)))
    second = fingerprint()
    change_classifier(folder, lambda tensor: tensor * 1.001)
    assert len({first, second, fingerprint()}) == 3


def test_evaluation_of_an_unfinished_model_says_so(tiny, script):
    (tiny / "student_mrpc" / "run.json").write_text('{"finished": false}')
    out = run(script, "task_distill", arguments(tiny, "MRPC", "--do_eval"))
    assert "warning" in out and "student_mrpc is unfinished" in out
    assert read_json(tiny / "student_mrpc" / "eval_results.json")["model_finished"] is False


def test_evaluation_where_the_folder_of_the_model_cannot_be_written(tiny, script):
    (tiny / "student_mrpc" / "eval_results.json").mkdir()  # permissions do not stop everybody
    out = run(script, "task_distill", arguments(tiny, "MRPC", "--do_eval", "--save_predictions"))
    place = tiny / "results" / "student_mrpc"
    assert f"student_mrpc cannot be written (Is a directory): the results are in {place}" in out
    assert names(place) == ["eval_predictions_dev.tsv", "eval_results.json"]
    assert read_json(place / "eval_results.json")["model"] == str(tiny / "student_mrpc")


def test_other_weights_end_what_was_said_of_the_earlier_ones(tiny, script):
    evaluate = arguments(tiny, "MRPC", "--do_eval", student=tiny / "out")
    shutil.copytree(tiny / "student_mrpc", tiny / "out")
    run(script, "task_distill", [*evaluate, "--save_predictions"])
    assert (tiny / "out" / "eval_predictions_dev.tsv").is_file()
    run(script, "task_distill", evaluate)  # of other settings, perhaps
    assert not (tiny / "out" / "eval_predictions_dev.tsv").exists() and (tiny / "out" / "eval_results.json").is_file()
    run(script, "task_distill", train(tiny, pred_distill=True, overwrite_output_dir=True))
    assert not (tiny / "out" / "eval_results.json").exists()


@pytest.mark.parametrize("mode", ["--do_eval", "--do_predict"])
def test_broken_weights_give_no_answer(mode, tiny, refused):
    write_test_sets(tiny / "glue")
    change_classifier(tiny / "student_mrpc", lambda tensor: tensor * math.nan)
    refused("task_distill", *arguments(tiny, "MRPC", mode), words=("not finite", "MRPC"))
    assert not (tiny / "student_mrpc" / "eval_results.json").exists()
    assert not list((tiny / "results").glob("*.tsv"))


SUBMISSION = "transformer.tasks.submission"


def into(tmp_path, *results) -> list:
    return ["--output", tmp_path / "out.zip", "--results", *results]


def prediction_lines(name: str, rows: int) -> list[str]:
    labels = SERVER[name][1]
    return ["index\tprediction", *(f"{n}\t{labels[n % len(labels)] if labels else n % 11 / 2}" for n in range(rows))]


@pytest.mark.parametrize("given", [["RTE.tsv", "STS-B.tsv", "MNLI-mm.tsv"], sorted(SERVER)], ids=["three", "all"])
def test_zip_file_has_what_the_server_wants(given, script, tmp_path):
    for name in given:
        write_lines(tmp_path / "results" / f"4l_{name.lower()}" / name, prediction_lines(name, SERVER[name][0]))
    out = run(script, SUBMISSION, into(tmp_path, tmp_path / "results", tmp_path / "results" / f"4l_{given[0].lower()}"))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.testzip() is None and sorted(archive.namelist()) == sorted(SERVER)
        for name, (rows, _) in SERVER.items():
            text = archive.read(name).decode()
            server_takes(name, text, rows)
            if name in given:
                assert text.splitlines() == prediction_lines(name, rows)
            else:
                assert len({line.split("\t")[1] for line in text.splitlines()[1:]}) == 1
                assert f"{name}: no predictions, so as in the server's sample: {rows} rows" in out
    assert out.count("no predictions") == len(SERVER) - len(given)


@pytest.mark.parametrize("name,change,words", [
    ("RTE.tsv", lambda lines: lines[1:], "line 1: '0\\tentailment', expected the header"),
    ("RTE.tsv", lambda lines: [lines[0].upper(), *lines[1:]], "line 1: "),
    ("RTE.tsv", lambda lines: lines[:-1], "2999 predictions, the GLUE server wants 3000"),
    ("RTE.tsv", lambda lines: [*lines, "3000\tentailment"], "3001 predictions"),
    ("RTE.tsv", lambda lines: [*lines[:5], *lines[6:], "2999\tentailment"], "line 6: index '5', expected 4"),
    ("RTE.tsv", lambda lines: [lines[0], "0\t1", *lines[2:]], "line 2: prediction '1', expected one of entailment"),
    ("RTE.tsv", lambda lines: [lines[0], "0", *lines[2:]], "line 2: prediction ''"),
    ("RTE.tsv", lambda lines: [*lines[:9], "", *lines[9:]], "line 10: index ''"),
    ("RTE.tsv", lambda lines: [], "0 predictions"),
    ("CoLA.tsv", lambda lines: [lines[0], "0\t0.0", *lines[2:]], "line 2: prediction '0.0', expected one of 0, 1"),
    *(("STS-B.tsv", lambda lines, word=word: [lines[0], f"0\t{word}", *lines[2:]], "expected a number from 0 to 5")
      for word in ("5.001", "-0.1", "nan", "inf", "much"))])
def test_files_that_the_server_would_refuse(name, change, words, refused, tmp_path):
    write_lines(tmp_path / "results" / name, change(prediction_lines(name, SERVER[name][0])))
    refused(SUBMISSION, *into(tmp_path, tmp_path / "results"), words=(words, name))
    assert not (tmp_path / "out.zip").exists()


def test_which_files_are_taken(script, refused, tmp_path):
    write_lines(tmp_path / "results" / "4l_rte" / "RTE.tsv", prediction_lines("RTE.tsv", 7))
    write_lines(tmp_path / "results" / "6l_rte" / "RTE.tsv", prediction_lines("RTE.tsv", 7))
    (tmp_path / "results" / "4l_cola").mkdir()
    for folders, words in (("results", "one student"), ("results/4l_cola", "no predictions"),
                           ("none", "does not exist"), ("results/4l_rte", "the GLUE server wants 3000")):
        refused(SUBMISSION, *into(tmp_path, tmp_path / folders), words=(words,))
    assert not (tmp_path / "out.zip").exists()
    assert "7 predictions" in run(script, SUBMISSION, into(tmp_path, tmp_path / "results" / "4l_rte", "--any_rows"))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        server_takes("RTE.tsv", archive.read("RTE.tsv").decode(), 7)
