#!/usr/bin/env python3
"""Makes a DistilBERT classifier's checkpoint from an int8 model directory of Sluice: what bench/race/widen.py widens.

    bench/race/unpack.py models/sentiment build/race/source/sentiment-unpacked

An int8 export holds each matrix as bytes with a scale a channel, so what comes back is the checkpoint that it was made
of up to rounding: its answers are nearly those of the original, and its shape, and so its cost, is the same. Factors of
smoothing (scripts/sluice_export/smooth.py) are taken out again where the graph has them as a Mul; those between V and
the output matrix stay, as they cancel. Corrections of biases stay.

Needs numpy, onnx, safetensors and tokenizers.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer

ARCHITECTURE = "DistilBertForSequenceClassification"

# the exporter's names of a layer's parts -> DistilBERT's
LINEAR = {"o": "attention.out_lin", "f1": "ffn.lin1", "f2": "ffn.lin2"}
NORM = {"ln1": "sa_layer_norm", "ln2": "output_layer_norm"}
JOINED = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
HEAD = {"head0": "pre_classifier", "head1": "classifier"}


def linear(held, name, range_of=None):
    """(weight [out, in], bias) of a linear of the graph; the factors of its input's channels are taken out."""
    if name + ".w" in held:
        return held[name + ".w"].T, held[name + ".b"]
    weight = held[name + ".q"].T.astype(np.float32) * held[name + ".s"][:, None]
    return weight * held.get((range_of or name) + ".f", np.float32(1)), held[name + ".b"]


def parts(held, layer):
    """Q, K and V of a layer as (weight, bias) each. A last layer that works on first tokens has them apart."""
    name = f"l{layer}."
    if name + "qkv.b" in held:
        weight, bias = linear(held, name + "qkv")
        return list(zip(np.split(weight, 3), np.split(bias, 3)))
    query = linear(held, name + "q", name + "qkv")
    weight, bias = linear(held, name + "kv", name + "qkv")
    return [query] + list(zip(np.split(weight, 2), np.split(bias, 2)))


def tensors(held, layers):
    """The checkpoint's tensors by their names in transformers."""
    out = {}

    def put(name, weight, bias):
        out[name + ".weight"], out[name + ".bias"] = weight, bias

    out["distilbert.embeddings.word_embeddings.weight"] = held["word.q"].astype(np.float32) * held["word.s"]
    out["distilbert.embeddings.position_embeddings.weight"] = held["position"]
    put("distilbert.embeddings.LayerNorm", held["norm.g"], held["norm.b"])
    for i in range(layers):
        theirs = f"distilbert.transformer.layer.{i}."
        for name, pair in zip(JOINED, parts(held, i)):
            put(theirs + name, *pair)
        for part, name in LINEAR.items():
            put(theirs + name, *linear(held, f"l{i}.{part}"))
        for part, name in NORM.items():
            put(theirs + name, held[f"l{i}.{part}.g"], held[f"l{i}.{part}.b"])
    for part, name in HEAD.items():
        put(name, *linear(held, part))
    return {name: np.ascontiguousarray(a, np.float32) for name, a in sorted(out.items())}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", type=Path, help="model directory of a DistilBERT classifier in int8")
    p.add_argument("directory", type=Path, help="folder to make")
    a = p.parse_args()
    manifest = json.loads((a.model / "manifest.json").read_text())
    if manifest["architecture"] != ARCHITECTURE or manifest["precision"] != "int8":
        sys.exit(f"unpack: {a.model} is {manifest['architecture']} in {manifest['precision']}; only {ARCHITECTURE} in "
                 "int8 is unpacked")
    config = json.loads((a.model / "config.json").read_text())
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(a.model / "model.onnx").graph.initializer}

    a.directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(a.model / "tokenizer.json"))
    words = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    (a.directory / "vocab.txt").write_text("".join(word + "\n" for word, _ in words), encoding="utf-8")
    shutil.copyfile(a.model / "tokenizer.json", a.directory / "tokenizer.json")
    special = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("cls", "mask", "pad", "sep", "unk")}
    uncased = {"tokenizer_class": "DistilBertTokenizer", "model_max_length": manifest["max_tokens"],
               "do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "never_split": None}
    for name, value in (("special_tokens_map.json", special), ("tokenizer_config.json", special | uncased),
                        ("config.json", config | {"dtype": "float32"})):
        (a.directory / name).write_text(json.dumps(value, indent=2) + "\n")
    # Written last: bench/race/prepare.sh takes it as the sign that the folder is complete.
    save_file(tensors(held, config["n_layers"]), a.directory / "model.safetensors", metadata={"format": "pt"})
    print(f"unpack: {a.directory}: {ARCHITECTURE} made of {a.model}", file=sys.stderr)


if __name__ == "__main__":
    main()
