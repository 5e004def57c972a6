#!/usr/bin/env python3
"""Asks transformers' configuration classes what they take where config.json does not say it, and how they read values
that are odd.

Writes model/config_defaults.json, which the worker reads, and model/testdata/config_cases.json, which its tests hold it
against. Needs transformers, and no torch. scripts/tests_export/test_config.py holds both files against the installed
transformers.
"""
import json
import logging
import math
from pathlib import Path

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as SEQUENCE,
                                                    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES as TOKEN)

MODEL = Path(__file__).resolve().parent.parent / "model"
BUILT = {"bert": "Bert", "camembert": "Camembert", "data2vec-text": "Data2VecText", "distilbert": "DistilBert",
         "electra": "Electra", "ernie": "Ernie", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
KEYS = ("model_type", "architectures", "problem_type", "id2label", "num_labels", "max_position_embeddings",
        "pad_token_id", "vocab_size")
MISSING = object()
ODD = {"missing": MISSING, "null": None, "a string": "7", "negative": -1, "a fraction": 2.5, "a list": [1],
       "an object": {"a": 1}, "huge": 10 ** 30, "true": True, "NaN": math.nan, "a float": 3.0, "zero": 0,
       "empty": "", "nested": {"0": {"1": [2]}}, "infinite": -math.inf}


def defaults():
    """model type -> what its configuration class has for the keys that the worker needs."""
    out = {}
    for kind in sorted(SEQUENCE.keys() | TOKEN.keys()):
        config = CONFIG_MAPPING[kind]()
        out[kind] = {k: v for k, least in (("pad_token_id", 0), ("max_position_embeddings", 1), ("type_vocab_size", 0))
                     if isinstance(v := getattr(config, k, None), int) and v >= least}    # XLNet has -1 for none
    return {kind: values for kind, values in out.items() if values}


def read(config):
    """What transformers makes of a config.json, or None where it refuses it."""
    if config.get("num_labels") == ODD["huge"]:
        return None         # it makes a name for each of them, until memory ends
    try:
        c = CONFIG_MAPPING[config.get("model_type") or "bert"].from_dict(config)
        if not isinstance(c.problem_type or "", str):
            return None         # it goes through, and means nothing
        if max(c.pad_token_id or 0, c.max_position_embeddings, c.vocab_size) >= 2 ** 31:
            return None         # no tensor has so many
        labels = [str(c.id2label[i]) for i in range(c.num_labels)]
        return {"labels": labels, "problem_type": c.problem_type or "", "pad_token_id": c.pad_token_id,
                "max_position_embeddings": c.max_position_embeddings, "vocab_size": c.vocab_size}
    except Exception:       # whatever its validators raise
        return None


def cases():
    """Every key that the worker reads, written oddly, in every family that is built directly."""
    for kind, name in BUILT.items():
        whole = {"model_type": kind, "architectures": [name + "ForSequenceClassification"],
                 "id2label": {"0": "no", "1": "yes"}, "max_position_embeddings": 40, "vocab_size": 99,
                 "pad_token_id": 3, "problem_type": "single_label_classification"}
        for key in KEYS:
            for how, value in ODD.items():
                config = {k: v for k, v in whole.items() if k != key}
                if key == "num_labels":
                    config.pop("id2label")
                if value is not MISSING:
                    config[key] = value
                asked = dict(config, model_type=kind) if key == "model_type" else config
                yield {"key": key, "how": how, "config": config, "reads": read(asked)}
    for table in ({"0": 1, "1": 2}, {"0": True, "1": False}, {"0": 1.0, "1": 0.5}, {"0": 1e16, "1": 1e-05},
                  {"0": None}, {"1": "b", "0": "a"}, {"00": "a", "1": "b"}, {"+0": "a"}, {"0": "a", "2": "b"}, {},
                  {"x": "a"}, {"0": "a", "00": "b"}, {"0": 123456789012345678901234567890}, {"0": "\ud83d"}):
        config = {"model_type": "bert", "id2label": table, "architectures": ["BertForSequenceClassification"]}
        yield {"key": "id2label", "how": json.dumps(table), "config": config, "reads": read(config)}


def written(value):
    return json.dumps(value, sort_keys=True)


def main():
    (MODEL / "config_defaults.json").write_text(
        "{\n" + ",\n".join(f'  "{k}": {written(v)}' for k, v in defaults().items()) + "\n}\n")
    (MODEL / "testdata/config_cases.json").write_text("[\n" + ",\n".join(
        json.dumps({"key": c["key"], "how": c["how"], "config": json.dumps(c["config"]), "reads": c["reads"]})
        for c in cases()) + "\n]\n")


if __name__ == "__main__":
    logging.disable()
    main()
