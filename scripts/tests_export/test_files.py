"""Files that people give are read as the worker reads them, or refused in a line."""
import base64
import gzip
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from sluice_export import evaluate, labelled, reference, source, textfile
from sluice_export.errors import ExportError
from test_errors import refused

ROOT = Path(__file__).resolve().parents[2] / "model"
TEXT_CASES = json.loads((ROOT / "textfile/testdata/cases.json").read_text(encoding="utf-8"))
LABELLED_CASES = json.loads((ROOT / "labelled/testdata/cases.json").read_text(encoding="utf-8"))


def says(error, path, want):
    """Whether an error names the file and, where `want` begins with one, the line."""
    m = re.match(r"([0-9]+): (.*)", want, re.S)
    where, words = (f"{path}:{m[1]}: ", m[2]) if m else (str(path), want)
    assert str(error).startswith(where), error
    assert words in str(error), error
    assert "\n" not in str(error)


@pytest.mark.parametrize("case", TEXT_CASES, ids=lambda c: c["name"])
def test_text_files_are_read_as_the_worker_reads_them(case, tmp_path):
    data = base64.b64decode(case["bytes"])
    (tmp_path / "file").write_bytes(gzip.decompress(data) if case.get("packed") else data)
    if "refused" in case:
        with pytest.raises(ExportError) as e:
            textfile.lines(tmp_path / "file")
        says(e.value, tmp_path / "file", case["refused"])
        return
    want = case.get("lines") or [f"line {i} äöü" for i in range(case.get("many", 0))]
    assert textfile.lines(tmp_path / "file") == want


@pytest.mark.parametrize("case", LABELLED_CASES, ids=lambda c: c["name"])
def test_labelled_files_are_read_as_the_worker_reads_them(case, tmp_path):
    path, form, known = tmp_path / case["file"], case["form"], case["known"]
    path.write_bytes(case["content"].encode())

    def read():
        rows = labelled.read(path, form)
        if form == "entities":
            groups = ["PER", "LOC"]
            return [[r.line, r.text, [[groups[labelled.name_of(g, groups)], a, b] for g, a, b in r.truth]]
                    for r in rows]
        out = []
        for r in rows:
            if isinstance(r.truth, labelled.Cell):
                r.truth = r.truth.of(known)
            found = [known[i] for i in labelled.resolve(path, r, known)]
            out.append([r.line, r.text, found if form == "labels" else found[0]])
        return out
    if "refused" in case:
        with pytest.raises(ExportError) as e:
            read()
        says(e.value, path, case["refused"])
    else:
        assert read() == case["rows"]


@pytest.mark.parametrize("data, part", [
    (b"\xff\xfea", "middle of a character"), (b"PK\x03\x04rest", "zip archive"),
    ("größer\n".encode("latin-1"), "iconv"), (b"PAR1\x15\x04", "read_parquet"), (b"a\0b\n", "NUL byte")])
@pytest.mark.parametrize("flags", [("--labelled",), ("--precision", "int8", "--calibration")])
def test_a_file_that_is_no_text_is_refused_in_a_line(data, part, flags, checkpoint, tmp_path, export):
    (tmp_path / "file.tsv").write_bytes(data)
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", *flags, tmp_path / "file.tsv"), 2, "file.tsv", part)


def test_a_folder_and_a_missing_file(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    refused(export(folder, tmp_path / "out", "--labelled", tmp_path), 2, "cannot be read", "directory")
    refused(export(folder, tmp_path / "out", "--labelled", tmp_path / "none"), 2, "none is missing")


def test_compressed_texts_of_utf_16_calibrate(checkpoint, texts, tmp_path, export):
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress(texts.read_text().encode("utf-16")))
    folder, flags = checkpoint("bert-sequence"), ("--precision", "int8", "--accept-agreement", "80", "--name", "x")
    for out, file in (("plain", texts), ("packed", tmp_path / "texts.txt.gz")):
        status, said = export(folder, tmp_path / out, *flags, "--calibration", file)
        assert status == 0, said
    assert (tmp_path / "plain/manifest.json").read_bytes() == (tmp_path / "packed/manifest.json").read_bytes()


@pytest.mark.parametrize("name, content", [
    ("a.tsv", "id\ttext\n1\tone\n2\ttwo, three\n"), ("a.csv", "id,sentence\n1,one\n2,\"two, three\"\n"),
    ("a.jsonl", '{"text": "one"}\n\n{"content": "two, three"}\n'), ("a.txt", "one\n\n two, three \n"),
    ("texts", "one\ntwo, three"), ("a.iob2", "one\tO\n\ntwo,\tB-PER\nthree\tO\n")])
def test_texts_without_labels(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    assert labelled.texts(tmp_path / name) == ["one", "two, three"]


def test_a_text_of_a_number_is_refused(checkpoint, tmp_path, export):
    (tmp_path / "a.jsonl").write_text('{"text": 5}\n')
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--precision", "int8", "--calibration",
                   tmp_path / "a.jsonl"), 2, "a.jsonl:1", "not a string")


def test_entities_in_characters_are_tags_of_words(checkpoint, tmp_path):
    rows = [{"text": "Zoë Kowalska, of Rome.", "entities": [
        {"entity_group": "PER", "start": 0, "end": 12}, {"entity_group": "LOC", "start": 17, "end": 21}]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    got = evaluate.read_labelled(tmp_path / "a.jsonl", source.read(checkpoint("bert-token")))
    assert got.truth == [["B-PER", "I-PER", "O", "B-LOC"]] and list(got.starts[0]) == [0, 4, 14, 17]


def test_one_output_that_is_a_probability_is_right_or_wrong_by_itself(checkpoint, tmp_path, export):
    """transformers takes the sigmoid of a single output; the largest of one logit would always be the only label."""
    import test_errors
    import tiny_models
    folder = checkpoint("bert-regression")
    test_errors.edit(folder, problem_type=None, id2label={"0": "spam"})
    (tmp_path / "a.jsonl").write_text('{"text": "fox", "labels": ["spam"]}\n{"text": "fox", "labels": []}\n')
    status, said = export(folder, tmp_path / "out", "--labelled", tmp_path / "a.jsonl")
    assert status == 0, said
    assert "accuracy on 2 labelled texts: source 50.00 %" in said
    assert tiny_models.CASES["bert-regression"][2]["labels"] == ["LABEL_0"]


# -- regression

def regression(export, checkpoint, tmp_path, case, *flags):
    folder = checkpoint(case)
    status, said = export(folder, tmp_path / "out", *flags)
    assert status == 0, said
    return source.read(folder), json.loads((tmp_path / "out/manifest.json").read_text()), said


def test_a_regression_is_judged_by_its_values(checkpoint, texts, tmp_path, export):
    s = source.read(checkpoint("roberta-regression"))
    s.tokenizer.enable_truncation(s.max_tokens)
    said = [[float(x) for x in reference.numpy_logits(s, s.tokenizer.encode(t).ids)]
            for t in texts.read_text().split("\n")[:20]]
    rng = np.random.default_rng(1)
    truth = [[v + rng.normal(0, 0.2) for v in row] for row in said]
    with open(tmp_path / "l.csv", "w") as f:
        f.write("text,label\n")
        for t, row in zip(texts.read_text().split("\n"), truth):
            f.write(f'{t},"{row[0]!r}, {row[1]!r}"\n')
    s, manifest, err = regression(export, checkpoint, tmp_path, "roberta-regression", "--labelled", tmp_path / "l.csv")
    e = manifest["evaluation"]["export"]
    mse = statistics.fmean((a - b) ** 2 for x, y in zip(truth, said) for a, b in zip(x, y))
    assert e["mse"] == pytest.approx(mse, rel=1e-3)
    each = [statistics.correlation([r[i] for r in truth], [r[i] for r in said]) for i in (0, 1)]
    assert [e["valence_pearson"], e["arousal_pearson"]] == pytest.approx(each, rel=1e-3)
    assert e["pearson"] == pytest.approx(sum(each) / 2, rel=1e-3)
    ranks = [[sorted(column).index(v) for v in column] for column in ([r[1] for r in truth], [r[1] for r in said])]
    assert e["arousal_spearman"] == pytest.approx(statistics.correlation(*ranks), rel=1e-3)
    assert "regression" in err and "spearman on 20 labelled texts: source 0." in err
    assert manifest["evaluation"]["agreement"] == 1.0 and "max_dp" not in manifest["evaluation"]


def test_a_regression_has_raw_values_in_its_golden_rows(checkpoint, tmp_path, export):
    _, manifest, _ = regression(export, checkpoint, tmp_path, "bert-regression")
    assert all(len(t["logits"]) == 1 and len(t["logits"][0]) == 1 for t in manifest["golden"]["texts"])
    assert json.loads((tmp_path / "out/config.json").read_text())["problem_type"] == "regression"


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_regression_in_other_precisions(precision, checkpoint, texts, tmp_path, export):
    more = ("--calibration", texts, "--accept-agreement", "80") if precision == "int8" else ()
    _, manifest, said = regression(export, checkpoint, tmp_path, "roberta-regression", "--precision", precision, *more)
    assert manifest["precision"] == precision
    if precision == "int8":
        assert "of the values' variance kept" in said and manifest["evaluation"]["mean_difference"] > 0


@pytest.mark.parametrize("name, content, part", [
    ("a.tsv", "label\ttext\nhigh\tx\n", "a.tsv:2: the label is \"high\"; write a number"),
    ("a.tsv", "label\ttext\nnan\tx\n", "a.tsv:2: the label is"),
    ("a.tsv", "label\ttext\n\tx\n", "a.tsv:2: the label is"),
    ("a.jsonl", '{"text": "x", "label": "high"}\n', "a.jsonl:1: the label is \"high\""),
    ("a.jsonl", '{"text": "x", "label": true}\n', "a.jsonl:1: the label is true"),
    ("a.jsonl", '{"text": "x", "label": NaN}\n', "a.jsonl:1: the label is NaN"),
    ("a.jsonl", '{"text": "x", "label": [1, 2]}\n', "a.jsonl:1: has 2 values, and the model gives 1")])
def test_values_that_are_none(name, content, part, checkpoint, tmp_path, export):
    (tmp_path / name).write_text(content)
    refused(export(checkpoint("bert-regression"), tmp_path / "out", "--labelled", tmp_path / name), 2, part)


def test_correlations():
    figures = evaluate.regression_figures(["v"], np.array([[1.0], [2], [2], [4]]), np.array([[10.0], [30], [20], [30]]))
    # ranks 1, 2.5, 2.5, 4 and 1, 3.5, 2, 3.5
    assert figures["spearman"] == pytest.approx(statistics.correlation([1, 2.5, 2.5, 4], [1, 3.5, 2, 3.5]))
    assert figures["pearson"] == pytest.approx(statistics.correlation([1, 2, 2, 4], [10, 30, 20, 30]))
    assert figures["mse"] == pytest.approx((81 + 784 + 324 + 676) / 4)
    constant = evaluate.regression_figures(["v"], np.array([[1.0], [2]]), np.array([[3.0], [3]]))
    assert constant == {"mse": 2.5}
