"""What is in a model directory, and that the figures printed are right."""
import hashlib
import json

import numpy as np
import pytest

from sluice_export import evaluate, feeds, golden, source


def test_the_manifest_describes_the_directory(checkpoint, tmp_path, export):
    folder = checkpoint("roberta-token")
    status, said = export(folder, tmp_path / "out", "--license", "MIT", "--max-tokens", "30")
    assert status == 0, said
    out = tmp_path / "out"
    m = json.loads((out / "manifest.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "manifest.json", "model.onnx", "tokenizer.json"]
    for name in ("model.onnx", "tokenizer.json", "config.json"):
        data = (out / name).read_bytes()
        assert m["files"][name] == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert {k: m[k] for k in ("format_version", "name", "task", "architecture", "layout", "precision", "max_tokens",
                              "pad_token_id", "license", "quantization")} == {
        "format_version": 1, "name": "out", "task": "token-classification",
        "architecture": "RobertaForTokenClassification", "layout": "packed", "precision": "fp32",
        "max_tokens": 30, "pad_token_id": 1, "license": "MIT", "quantization": None}
    assert m["source"]["id"] == "roberta-token"
    assert m["source"]["files"]["model.safetensors"] == hashlib.sha256(
        (folder / "model.safetensors").read_bytes()).hexdigest()
    session = feeds.session(str(out / "model.onnx"))
    assert m["golden"]["texts"]
    for t in m["golden"]["texts"]:
        assert t["text"] in golden.TEXTS
        got = feeds.run(session, [t["input_ids"]], "packed", "token-classification", 1)[0]
        assert np.abs(got - np.array(t["logits"])).max() < 1e-5
        assert len(t["input_ids"]) <= 30


def test_int8_says_how_it_was_calibrated(checkpoint, texts, tmp_path, export):
    status, said = export(checkpoint("bert-token"), tmp_path / "out", "--precision", "int8", "--calibration", texts,
                          "--accept-agreement", "80", "--keep-fp32", "ffn2,l0.o")
    assert status == 0, said
    q = json.loads((tmp_path / "out/manifest.json").read_text())["quantization"]
    assert (q["method"], q["texts"], q["kept_fp32"]) == ("static-u8s8", 100, ["l0.f2", "l0.o", "l1.f2"])
    assert q["calibration"] in ("least-squares", "least-squares-apart", "minmax", "percentile")
    used = texts.read_text().split("\n")[::2]
    assert q["texts_sha256"] == hashlib.sha256("\n".join(used).encode()).hexdigest()


def test_padding_and_truncation_in_tokenizer_json_are_switched_off(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["padding"] = {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                       "pad_type_id": 0, "pad_token": "[PAD]"}
    spec["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert export(folder, tmp_path / "out")[0] == 0
    written = json.loads((tmp_path / "out/tokenizer.json").read_text())
    assert written["padding"] is None and written["truncation"] is None


def test_labelled_texts_are_scored_for_source_and_export(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    s = source.read(folder)
    from sluice_export import reference
    texts = ["the fox", "two words", "london", "1 2 3", "ada", "zebra over the dog"]
    said = [s.labels[int(reference.numpy_logits(s, s.tokenizer.encode(t).ids).argmax())] for t in texts]
    wrong = {"alpha": "beta", "beta": "gamma", "gamma": "alpha"}
    (tmp_path / "l.tsv").write_text("label\ttext\n" + "".join(f"{wrong[l] if i < 2 else l}\t{t}\n" for i,
                                                              (l, t) in enumerate(zip(said, texts))))
    status, err = export(folder, tmp_path / "out", "--labelled", tmp_path / "l.tsv")
    assert status == 0, err
    assert "accuracy on 6 labelled texts: source 66.67 %, export 66.67 %" in err
    e = json.loads((tmp_path / "out/manifest.json").read_text())["evaluation"]
    assert e["source"]["accuracy"] == e["export"]["accuracy"] == 0.6667 and e["agreement"] == 1.0


@pytest.mark.parametrize("truth, said, want", [
    (["B-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"], 1.0),
    (["B-PER", "I-PER", "O"], ["B-PER", "O", "O"], 0.0),                    # a part is not the entity
    # one entity of two words is neither of the two
    (["B-PER", "B-PER"], ["B-PER", "I-PER"], 0.0),
    (["B-PER", "O", "B-LOC"], ["B-PER", "O", "O"], 2 / 3),                  # precision 1, recall 1/2
    # an I- without a B- begins an entity, as conlleval counts
    (["B-PER", "O"], ["I-PER", "O"], 1.0),
    (["B-PER", "I-LOC"], ["B-PER", "B-LOC"], 1.0),
])
def test_entity_f1(truth, said, want):
    assert evaluate.entity_f1([truth], [said])["entity_f1"] == pytest.approx(want)


def test_words_take_the_tag_of_their_first_token(checkpoint):
    s = source.read(checkpoint("roberta-token"))
    text = "ab c dd"
    e = s.tokenizer.encode(text)
    rows = np.zeros((len(e.ids), 5), np.float32)
    for i, token in enumerate(e.tokens):
        rows[i, {"a": 1, "b": 2, "c": 3, "d": 4}.get(token.lstrip("Ġ"), 0)] = 1
    # the byte-level tokens of the blanks stand before their words and belong to none
    assert evaluate.word_tags(s, text, e, rows, [0, 3, 5]) == ["B-PER", "B-LOC", "I-LOC"]
