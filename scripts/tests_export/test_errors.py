"""Wrong input gives one line that says what to do, the right exit status, and no half-written directory."""
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from sluice_export import cli, graph, other, reference, source


def refused(result, status, *parts):
    """The export ended with the status and one line that holds the parts."""
    code, said = result
    line = said.strip().splitlines()[-1]
    assert code == status, said
    assert line.startswith("export_model.py: "), said
    assert "Traceback" not in said
    for part in parts:
        assert part in line, line


def nothing_left(folder):
    """No model directory and no temporary beside it."""
    assert not [p for p in folder.iterdir() if p.name.startswith((".out", "out"))]


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize("name, remedy", [("config.json", "save_pretrained"), ("model.safetensors", "save_pretrained"),
                                          ("tokenizer.json",
                                           "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)")])
def test_a_missing_file(name, remedy, checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    (folder / name).unlink()
    refused(export(folder, tmp_path / "out"), 2, name, "missing", remedy)
    nothing_left(tmp_path)


def test_a_pickle_only(checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(export(folder, tmp_path / "out"), 2, "pytorch_model.bin", "convert it")


class Trap:
    """Whoever unpickles this makes the file."""
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def zipped_pickle(path, trap):
    """As torch.save writes it since 1.6: a zip with the pickle in it, and here also a gigabyte of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", trap)
        with z.open("archive/data/0", "w", force_zip64=True) as f:
            for _ in range(64):
                f.write(bytes(1 << 20))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.pt", "model.pth", "weights.npz",
                                  "tf_model.h5", "flax_model.msgpack", "model.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_what_could_run_code_is_refused_unread(checkpoint, tmp_path, export, monkeypatch, name, form):
    folder = checkpoint("bert-token")
    (folder / "model.safetensors").unlink()
    mark, trap = tmp_path / "ran", pickle.dumps(Trap(str(tmp_path / "ran")))
    if form == "zip":
        zipped_pickle(folder / name, trap)
    else:
        (folder / name).write_bytes(trap)
    pickle.loads(trap)
    assert mark.exists()                    # that the trap works
    mark.unlink()
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open"
                     and str(args[0]).startswith(str(folder)) else None)
    parts = {"pytorch_model.bin": ["a pickle", "convert it"],
             "model.safetensors": ["not a whole safetensors file"]}.get(name, ["model.safetensors is missing",
                     "save_pretrained"])
    refused(export(folder, tmp_path / "out"), 2, *parts)
    assert not mark.exists()
    assert name == "model.safetensors" or str(folder / name) not in opened
    assert str(folder / "config.json") in opened        # that the list is one
    nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["model.zip", "model.tar.gz", "model.safetensors", "pytorch_model.bin"])
def test_an_archive_in_place_of_a_folder(tmp_path, export, name):
    zipped_pickle(tmp_path / name, b"")
    refused(export(tmp_path / name, tmp_path / "out"), 2, name, "is a file", "must be a Hugging Face folder")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_pickle_beside_safetensors_is_not_opened(checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(tmp_path / "ran"))))
    status, said = export(folder, tmp_path / "out")
    assert status == 0, said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


@pytest.mark.parametrize("name", ["../model-00002-of-00002.safetensors", "/etc/passwd", "pytorch_model-00002.bin", 7])
def test_a_shard_that_is_no_safetensors_file_beside_the_index(checkpoint, tmp_path, export, name):
    folder = checkpoint("distilbert-f16-sharded")
    index = folder / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"][next(iter(value["weight_map"]))] = name
    index.write_text(json.dumps(value))
    refused(export(folder, tmp_path / "out"), 2, "not safetensors files beside it")


def test_a_missing_shard(checkpoint, tmp_path, export):
    folder = checkpoint("distilbert-f16-sharded")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(export(folder, tmp_path / "out"), 2, "model-00002-of-00002.safetensors")


def test_a_cut_off_weight_file(checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(export(folder, tmp_path / "out"), 2, "not a whole safetensors file", "download")


def test_no_such_source(tmp_path, export):
    refused(export("./no/such/folder", tmp_path / "out"), 2, "./no/such/folder", "no such folder")


def test_a_hub_id_without_the_client(tmp_path, export, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(export("someone/some-model", tmp_path / "out"), 2, "pip install huggingface_hub")


def test_a_hub_id_that_the_hub_does_not_deliver(tmp_path, export, monkeypatch):
    import huggingface_hub

    def snapshot_download(name, revision=None, allow_patterns=None):
        assert (name, revision) == ("someone/some-model", "abc123")
        raise OSError("404 not found\nlong story")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    refused(export("someone/some-model", tmp_path / "out", "--revision", "abc123"), 2, "someone/some-model",
            "404 not found", "--revision")


def test_a_hub_id_is_fetched_and_named_in_the_manifest(checkpoint, tmp_path, export, monkeypatch):
    import huggingface_hub
    folder = checkpoint("bert-token")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, revision=None,
                        allow_patterns=None: str(folder))
    status, said = export("someone/some-model", tmp_path / "out", "--revision", "abc123")
    assert status == 0, said
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["source"]["id"] == "someone/some-model" and manifest["source"]["revision"] == "abc123"


def test_an_unknown_architecture_names_optimum_and_its_install_line(checkpoint, tmp_path, export, monkeypatch):
    folder = checkpoint("bert-token")
    edit(folder, architectures=["DebertaV2ForTokenClassification"], model_type="deberta-v2")
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    refused(export(folder, tmp_path / "out"), 2, "DebertaV2ForTokenClassification", "optimum", other.INSTALL)
    nothing_left(tmp_path)


def test_an_unknown_architecture_has_no_packed_layout(checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    edit(folder, architectures=["DebertaV2ForTokenClassification"], model_type="deberta-v2")
    refused(export(folder, tmp_path / "out", "--layout", "packed"), 2, "padded layout", "--layout packed")


def fake_optimum(monkeypatch, main_export):
    module = types.ModuleType("optimum.exporters.onnx")
    module.main_export = main_export
    for name in ("optimum", "optimum.exporters"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", module)


def test_what_optimum_exports_is_checked_and_written(checkpoint, tmp_path, export, monkeypatch):
    """optimum itself is too large for this environment: a stand-in writes the padded graph that it would."""
    folder = checkpoint("bert-token")
    real = source.read(folder)
    edit(folder, architectures=["OtherForTokenClassification"], model_type="other")
    asked = {}

    def main_export(name, output, task, device, do_validation):
        asked.update(name=name, task=task)
        model = graph.build(source.encoder(real), real.task, len(real.labels), graph.Plan("padded", "fp32"))
        (Path(output) / "model.onnx").write_bytes(model.SerializeToString())
    fake_optimum(monkeypatch, main_export)
    monkeypatch.setattr(reference, "logits", lambda s, ids: ([reference.numpy_logits(real, row) for row in ids],
                                                             "stand-in"))
    status, said = export(folder, tmp_path / "out")
    assert status == 0, said
    assert asked == {"name": str(folder), "task": "token-classification"}
    m = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (m["layout"], m["precision"], m["architecture"]) == ("padded", "fp32", "OtherForTokenClassification")


def test_an_architecture_that_optimum_refuses(checkpoint, tmp_path, export, monkeypatch):
    folder = checkpoint("bert-token")
    edit(folder, architectures=["OtherForTokenClassification"], model_type="other")

    def main_export(*_, **__):
        raise ValueError("other is not supported\nlong story")
    fake_optimum(monkeypatch, main_export)
    refused(export(folder, tmp_path / "out"), 1, "optimum cannot export OtherForTokenClassification",
            "other is not supported")
    nothing_left(tmp_path)


def test_a_model_without_a_head(checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    edit(folder, architectures=["BertModel"])
    refused(export(folder, tmp_path / "out"), 2, "BertModel", "no sequence- or token-classification head")


def test_a_head_that_the_weights_lack(checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    edit(folder, architectures=["BertForSequenceClassification"])
    refused(export(folder, tmp_path / "out"), 2, "bert.pooler.dense.weight")


def test_labels_that_do_not_match_the_logits(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, id2label={"0": "a", "1": "b"})
    refused(export(folder, tmp_path / "out"), 2, "2 labels", "3 logits", "id2label")
    edit(folder, id2label={"0": "a", "2": "b", "3": "c"})
    refused(export(folder, tmp_path / "out"), 2, "without gaps")


def test_a_tokenizer_of_another_model(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    t = Tokenizer.from_file(str(folder / "tokenizer.json"))
    t.add_tokens(["brandnew"])
    t.save(str(folder / "tokenizer.json"))
    refused(export(folder, tmp_path / "out"), 2, "tokenizer.json", "word embedding", "different models")


def test_another_padding_token(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, pad_token_id=3)
    refused(export(folder, tmp_path / "out"), 2, "pad_token_id is 3", "[PAD]")


def test_a_config_that_is_not_json(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    (folder / "config.json").write_text("{")
    refused(export(folder, tmp_path / "out"), 2, "config.json", "JSON")


@pytest.mark.parametrize("change, part", [
    ({"hidden_act": "mish"}, "mish"), ({"position_embedding_type": "relative_key"}, "relative_key"),
    ({"is_decoder": True}, "is_decoder"), ({"problem_type": "ranking"}, "regression, single_label"),
    ({"num_attention_heads": 5}, "5 attention heads"), ({"hidden_size": 12}, "width 12")])
def test_a_configuration_that_is_not_built(change, part, checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, **change)
    refused(export(folder, tmp_path / "out"), 2, part)


def test_an_existing_directory_is_kept_without_force(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    assert export(folder, tmp_path / "out")[0] == 0
    before = (tmp_path / "out/manifest.json").read_bytes()
    refused(export(folder, tmp_path / "out", "--name", "other"), 2, "exists", "--force")
    assert (tmp_path / "out/manifest.json").read_bytes() == before
    assert export(folder, tmp_path / "out", "--name", "other", "--force")[0] == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["name"] == "other"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bert-sequence", "out"]


def test_force_replaces_nothing_but_model_directories(checkpoint, tmp_path, export):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "letter.txt").write_text("keep me")
    refused(export(checkpoint("bert-sequence"), precious, "--force"), 2, "not a model directory")
    assert (precious / "letter.txt").read_text() == "keep me"


def test_a_missing_parent(checkpoint, tmp_path, export):
    refused(export(checkpoint("bert-sequence"), tmp_path / "a/b"), 2, "mkdir -p")


def test_int8_without_texts(checkpoint, tmp_path, export):
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--precision", "int8"), 2, "--calibration FILE")
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo\n")
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--precision", "int8", "--calibration", few), 2,
            "2 texts", "at least 32")
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--calibration", few), 2, "--precision int8")
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--precision", "int8", "--calibration",
                   tmp_path / "none.txt"), 2, "none.txt", "missing")


def test_texts_without_a_text_column(checkpoint, tmp_path, export):
    for name, content, part in (("a.tsv", "id\tbody\n1\thello\n", "no column text"), ("a.jsonl", '{"body": "x"}\n',
            "a.jsonl:1"), ("a.txt", "\n\n", "no texts"), ("a.iob2", "word without tag\n", "a.iob2:1")):
        (tmp_path / name).write_text(content)
        refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--precision", "int8", "--calibration",
                       tmp_path / name), 2, part)


def test_labels_that_the_model_does_not_know(checkpoint, tmp_path, export):
    (tmp_path / "a.tsv").write_text("label\ttext\nalpha\tx\ndelta\ty\n")
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--labelled", tmp_path / "a.tsv"), 2, "a.tsv:3",
            "delta", "alpha, beta, gamma")
    (tmp_path / "a.iob2").write_text("Ada\tB-person\n")
    refused(export(checkpoint("bert-token"), tmp_path / "out", "--labelled", tmp_path / "a.iob2"), 2, "B-person",
            "B-PER")


def test_a_matrix_that_is_not_there(checkpoint, texts, tmp_path, export):
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--precision", "int8", "--calibration", texts,
                   "--keep-fp32", "l9.f2"), 2, "l9.f2", "l0.qkv", "l1.f2")


@pytest.mark.parametrize("n, part", [("41", "at most 40"), ("2", "3 or more")])
def test_an_impossible_row_length(n, part, checkpoint, tmp_path, export):
    refused(export(checkpoint("bert-sequence"), tmp_path / "out", "--max-tokens", n), 2, part)


def test_wrong_usage_is_status_2(tmp_path, export):
    assert export()[0] == 2
    assert export("a", tmp_path / "out", "--precision", "int4")[0] == 2


@pytest.mark.parametrize("broken", ["gain", "nan"])
def test_a_graph_that_disagrees_with_its_source_is_not_written(broken, checkpoint, tmp_path, export, monkeypatch):
    real = source.encoder

    def encoder(s):
        e = real(s)
        value = np.nan if broken == "nan" else e.layers[1]["ln2"][0][3] + 0.01
        gain = e.layers[1]["ln2"][0].copy()
        gain[3] = value
        e.layers[1]["ln2"] = (gain, e.layers[1]["ln2"][1])
        return e
    monkeypatch.setattr(cli.sources, "encoder", encoder)
    refused(export(checkpoint("bert-token"), tmp_path / "out"), 1, "differ from", "nothing was written")
    nothing_left(tmp_path)


def test_an_int8_export_that_disagrees_is_not_written(checkpoint, texts, tmp_path, export, monkeypatch):
    monkeypatch.setattr(cli.calibrate, "ranges", lambda method, observed: {n: (-0.01, 0.01) for n in observed})
    refused(export(checkpoint("bert-token"), tmp_path / "out", "--precision", "int8", "--calibration", texts,
                   "--keep-fp32", "none"), 1, "agrees with the source on", "less than 98.5 %", "--accept-agreement")
    nothing_left(tmp_path)


def test_auto_keeps_matrices_in_fp32_until_the_answers_agree(checkpoint, texts, tmp_path, export, monkeypatch):
    def ranges(method, observed):
        return {n: (-0.01, 0.01) if n.endswith(("f1", "f2")) else (float(v.min()), float(v.max())) for n,
                v in observed.items()}
    monkeypatch.setattr(cli.calibrate, "ranges", ranges)
    status, said = export(checkpoint("bert-token"), tmp_path / "out", "--precision", "int8", "--calibration", texts,
                          "--accept-agreement", "97")
    assert status == 0, said
    assert json.loads((tmp_path / "out/manifest.json").read_text())["quantization"]["kept_fp32"] == ["l0.f1", "l0.f2",
            "l1.f1", "l1.f2"]


def test_an_interrupted_write_leaves_nothing(checkpoint, tmp_path, export, monkeypatch):
    from sluice_export import folder as rooms

    def fail(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(rooms, "_layout", fail)
    assert export(checkpoint("bert-token"), tmp_path / "out")[0] == 1
    nothing_left(tmp_path)
