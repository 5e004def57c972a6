"""config.json is read as transformers' configuration classes read it, and whatever is wrong with it is one sentence."""
import json
import logging
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

import tiny_models
from sluice_export import config as configs, reference, source
from sluice_export.errors import ExportError
from test_errors import edit, nothing_left, refused

sys.path.append(str(Path(__file__).resolve().parent.parent))
import make_config_defaults  # noqa: E402

SEQUENCE = {"bert": "bert-sequence", "camembert": "camembert-sequence", "data2vec-text": "data2vec-sequence",
            "distilbert": "distilbert-sequence", "electra": "electra-sequence", "ernie": "ernie-sequence",
            "roberta": "roberta-sequence", "xlm-roberta": "xlm-roberta-sequence"}
ODD = {"null": None, "a string": "7", "negative": -1, "a fraction": 2.5, "a list": [1], "an object": {"a": 1},
       "huge": 10 ** 30, "large": 10 ** 9, "true": True, "NaN": math.nan, "infinite": math.inf, "a float": 3.0,
       "zero": 0, "empty": "", "nested": {"0": {"1": [2]}}}
DISTIL = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
          "layer_norm_eps", "type_vocab_size", "embedding_size"}


def keys_of(kind):
    """The keys that are read of a family's config.json."""
    return [k for k in configs.KEYS if not (kind != "distilbert" and k in ("dim", "n_layers", "n_heads", "hidden_dim",
            "activation") or kind == "distilbert" and k in DISTIL - {"hidden_size"} or kind != "electra" and
            k == "embedding_size" or kind != "ernie" and k in ("use_task_id", "task_type_vocab_size"))]


def theirs(raw):
    """transformers' configuration of a config.json, or None where it refuses it."""
    if raw.get("num_labels") == 10 ** 30 or raw.get("num_labels") == 10 ** 9:
        return None                     # a name for each, until memory ends
    try:
        return transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    except Exception:                   # whatever its validators raise
        return None


def test_the_table_of_defaults_is_that_of_transformers():
    for kind in configs.FAMILIES:
        whole = transformers.CONFIG_MAPPING[kind]()
        assert whole.model_type == kind
        for key, value in configs.DEFAULTS[kind].items():
            got = getattr(whole, key)
            assert (got, type(got)) == (value, type(value)), (kind, key)
        sizes = {"num_attention_heads", "num_hidden_layers", "n_heads", "n_layers", "hidden_size", "dim", "hidden_act",
                 "activation", "layer_norm_eps", "pad_token_id", "is_decoder", "add_cross_attention", "use_task_id"}
        missing = {k for k in sizes & set(whole.to_dict()) if k not in configs.DEFAULTS[kind]}
        assert not missing, (kind, missing)


def test_architectures_are_those_of_transformers():
    from transformers.models.auto.modeling_auto import (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
                                                        MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    for kind, (_, name) in configs.FAMILIES.items():
        assert MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[kind] == name + "ForSequenceClassification"
        assert MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES[kind] == name + "ForTokenClassification"
    assert configs.DISTIL_NAMES.items() <= transformers.DistilBertConfig.attribute_map.items()


def test_the_worker_has_the_defaults_and_readings_of_transformers():
    """What scripts/make_config_defaults.py wrote is what it would write now."""
    model = make_config_defaults.MODEL
    logging.disable()
    try:
        assert json.loads((model / "config_defaults.json").read_text()) == make_config_defaults.defaults()
        committed = json.loads((model / "testdata/config_cases.json").read_text())
        assert [c["reads"] for c in committed] == [c["reads"] for c in make_config_defaults.cases()]
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    return {kind: tiny_models.make(case, base / kind) for kind, case in SEQUENCE.items()}


@pytest.mark.parametrize("how", ["missing", *ODD])
@pytest.mark.parametrize("kind", SEQUENCE)
def test_every_key_is_read_as_transformers_reads_it_or_refused_in_a_sentence(kind, how, folders):
    path = folders[kind] / "config.json"
    whole = path.read_text()
    try:
        for key in keys_of(kind):
            raw = json.loads(whole)
            raw.pop(key, None)
            if key == "num_labels":
                raw.pop("id2label"), raw.pop("label2id")
            if how != "missing":
                raw[key] = ODD[how]
            path.write_text(json.dumps(raw))
            try:
                s = source.read(folders[kind])
                reference.numpy_logits(s, [2, 4, 3])
            except ExportError as e:
                assert e.code == 2 and "\n" not in str(e) and str(folders[kind]) in str(e), (key, e)
                assert not re.search("expected|object has no|not subscriptable|NoneType", str(e)), (key, e)
                continue
            as_theirs = theirs({k: v for k, v in raw.items() if v is not None} | {"model_type": kind})
            assert as_theirs is not None, f"{key}: transformers refuses it"
            for k, v in s.config.items():
                if k not in ("architectures", "id2label", "num_labels", "position_embedding_type", "pruned_heads",
                             "problem_type"):
                    assert getattr(as_theirs, k) == v, (key, k)
            assert s.labels == [as_theirs.id2label[i] for i in range(as_theirs.num_labels)], key
    finally:
        path.write_text(whole)


def test_the_field_cases(checkpoint, tmp_path, export):
    """What people met: a key missing or null ended in a traceback."""
    for case in ("roberta-sequence", "xlm-roberta-token", "camembert-token"):
        for how in ("missing", None):
            folder = checkpoint(case)
            raw = json.loads((folder / "config.json").read_text())
            del raw["pad_token_id"]
            (folder / "config.json").write_text(json.dumps(raw if how == "missing" else raw | {"pad_token_id": None}))
            status, said = export(folder, tmp_path / "out", "--force")
            assert status == 0, said
            assert json.loads((tmp_path / "out/manifest.json").read_text())["pad_token_id"] == 1
    folder = checkpoint("bert-sequence")
    edit(folder, num_hidden_layers=None)
    refused(export(folder, tmp_path / "no"), 2, "num_hidden_layers is 12 (transformers' default", "hold 2 layers")
    folder = checkpoint("distilbert-sequence")
    edit(folder, n_heads=None)
    refused(export(folder, tmp_path / "no"), 2, "n_heads (12 (transformers' default")
    folder = checkpoint("bert-sequence")
    for key in ("position_embedding_type", "layer_norm_eps", "problem_type", "pruned_heads"):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | {key: None}))
        assert export(folder, tmp_path / "out", "--force")[0] == 0, key
    (folder / "tokenizer_config.json").write_text('{"model_max_length": "512"}')
    refused(export(folder, tmp_path / "no"), 2, "tokenizer_config.json", "model_max_length is \"512\"",
            "number of tokens")


@pytest.mark.parametrize("value", ["512", [512], {}, True])
def test_a_model_max_length_that_is_no_number(value, checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    refused(export(folder, tmp_path / "out"), 2, "model_max_length is")


@pytest.mark.parametrize("text, part", [
    ("[" * 100_000, "nested too deeply"), ('{"a": ' * 100_000, "nested too deeply"), ("{", "JSON"), ("[1]", "not [1]"),
    ("null", "not null"), ("\"a\"", "JSON object"), ('{"vocab_size": ' + "9" * 5000 + "}", "JSON"), ("\xff", "JSON")])
def test_a_file_that_is_no_object(text, part, checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    (folder / "config.json").write_text(text)
    refused(export(folder, tmp_path / "out"), 2, "config.json", part)
    nothing_left(tmp_path)


def test_encodings_of_config_json(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text, encoding="utf-8-sig")
    assert export(folder, tmp_path / "out")[0] == 0
    (folder / "config.json").write_text(text, encoding="utf-16")
    refused(export(folder, tmp_path / "no"), 2, "config.json is not UTF-8")


@pytest.mark.parametrize("case, change", [
    ("distilbert-sequence", {"dim": None, "n_layers": None, "n_heads": None, "hidden_size": 16, "num_hidden_layers": 2,
                             "num_attention_heads": 4}),
    ("distilbert-sequence", {"hidden_size": 16, "dim": 768}), ("roberta-token", {"model_type": None}),
    ("camembert-sequence", {"model_type": None}), ("xlm-roberta-sequence", {"architectures": [
        "RobertaForSequenceClassification"]}), ("electra-token", {"embedding_size": None})])
def test_names_that_transformers_knows_too(case, change, checkpoint, tmp_path, export):
    folder = checkpoint(case)
    plain = [reference.numpy_logits(source.read(folder), [2, 5, 6, 3])]
    edit(folder, **change)
    assert (reference.numpy_logits(source.read(folder), [2, 5, 6, 3]) == plain[0]).all()
    assert export(folder, tmp_path / "out")[0] == 0


@pytest.mark.parametrize("table, part", [
    ({"0": None, "1": "b", "2": "c"}, 'id2label["0"] is null'), ({"0": ["a"], "1": "b", "2": "c"}, 'is ["a"]'),
    ({}, "gaps"), ({"0": "a", "00": "b", "1": "c"}, "each once"), ({"a": "0"}, "must map numbers to names"),
    (["a"], "must map numbers"), ({"0": math.inf, "1": "b", "2": "c"}, "is Infinity")])
def test_label_tables_that_are_none(table, part, checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, id2label=table)
    refused(export(folder, tmp_path / "out"), 2, "id2label", part)


def test_labels_that_are_no_strings_are_named_as_python_prints_them(tmp_path):
    for values in ([1, 2], [True, False], [1.0, 0.5], [1e16, 1e-05]):
        config = {"id2label": {str(i): v for i, v in enumerate(values)}}
        assert configs.labels(tmp_path, config) == [str(v) for v in values]


@pytest.mark.parametrize("change, part", [
    ({"vocab_size": 7}, "vocab_size 7 does not go with bert.embeddings.word_embeddings.weight"),
    ({"max_position_embeddings": 64}, "max_position_embeddings 64 does not go with"), ({"type_vocab_size": 1},
     "type_vocab_size 1 does not"), ({"intermediate_size": 64}, "intermediate_size 64 does not"), ({"num_labels": 2},
     "num_labels is 2 but id2label names 3"), ({"problem_type": "regresion"}, "problem_type is \"regresion\""),
    ({"pad_token_id": 999}, "pad_token_id is 999"), ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but")])
def test_what_contradicts_the_weights(change, part, checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, **change)
    refused(export(folder, tmp_path / "out"), 2, part)


def test_positions_that_a_padding_id_leaves(checkpoint, tmp_path, export):
    folder = checkpoint("roberta-sequence")
    edit(folder, pad_token_id=39)
    refused(export(folder, tmp_path / "out"), 2, "leaves 0 positions behind pad_token_id 39")


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_tags_have_no_problem_type(problem, checkpoint, tmp_path, export):
    folder = checkpoint("bert-token")
    edit(folder, problem_type=problem)
    refused(export(folder, tmp_path / "out"), 2, problem, "goes with sequence classification")


def test_a_projection_that_transformers_has_no_use_for(checkpoint):
    """ElectraModel projects embeddings only where their width is another than that of the layers."""
    folder = checkpoint("electra-token")
    config = json.loads((folder / "config.json").read_text())
    assert config["embedding_size"] == config["hidden_size"]
    before = reference.numpy_logits(source.read(folder), [2, 5, 6, 3])
    tensors = tiny_models.weights("electra-token", config)
    width = config["hidden_size"]
    tensors |= {"electra.embeddings_project.weight": np.eye(width, dtype=np.float32) * 2,
                "electra.embeddings_project.bias": np.ones(width, np.float32)}
    tiny_models.save_weights(folder, tensors)
    s = source.read(folder)
    assert source.encoder(s).project is None
    assert (reference.numpy_logits(s, [2, 5, 6, 3]) == before).all()


def test_an_architecture_of_another_model_type(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, model_type="roberta")
    refused(export(folder, tmp_path / "out"), 2, 'model_type is "roberta"', 'is of model_type "bert"')
