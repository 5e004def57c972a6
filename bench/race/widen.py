#!/usr/bin/env python3
"""Widens a trained 6 x 384 DistilBERT classifier exactly to 6 x 768, DistilBERT-base's shape: the race's model.

    bench/race/widen.py build/race/source/sentiment build/race/source/sentiment-768
    bench/race/widen.py build/race/source/sentiment build/race/source/ner-768 --task ner --layers 12

Every channel is there twice, next to itself. Then all of the network computes pairs of equal values:
  - embeddings, norms' gains and biases: repeated. The mean and the variance over pairs are those of the singles.
  - matrices: rows repeated, columns repeated and halved, as each input now comes twice.
  - attention: heads stay 12, each twice as wide, since the pairs lie side by side. A product q.k is twice as large
    and is divided by sqrt(64) instead of sqrt(32), so the query is scaled by sqrt(1/2): 2 * sqrt(1/2) / sqrt(64) = 1 /
    sqrt(32).
The logits are those of the small model up to rounding (--check prints the largest difference), so the answers are real
and the cost is that of a model of this shape: kernels do not know that numbers come in pairs.

--task ner writes a BERT-base shape with a token head instead (layers repeated until there are --layers, the head's
weights drawn from a fixed seed). Its answers have no meaning: it is there for its cost alone.

Needs numpy and safetensors.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
NER_LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")

# DistilBERT's names of a layer's parts -> BERT's
BERT_NAMES = {"attention.q_lin": "attention.self.query", "attention.k_lin": "attention.self.key",
              "attention.v_lin": "attention.self.value",
              "attention.out_lin": "attention.output.dense", "sa_layer_norm": "attention.output.LayerNorm",
              "ffn.lin1": "intermediate.dense",
              "ffn.lin2": "output.dense", "output_layer_norm": "output.LayerNorm"}


def twice(a, axis):
    """Each entry along the axis, followed by itself."""
    return np.repeat(a, 2, axis=axis)


def widen(name, a):
    """The tensor of this name for the network whose channels are doubled."""
    if "embeddings" in name and a.ndim == 2:                # [words or positions, channels]
        return twice(a, 1)
    if a.ndim == 1:                                         # biases, gains
        a = a if name == "classifier.bias" else twice(a, 0)
    elif name == "classifier.weight":                       # its rows are labels
        a = twice(a, 1) / 2
    else:
        a = twice(twice(a, 0), 1) / 2
    return a * np.float32(np.sqrt(0.5)) if ".q_lin." in name else a


def sentiment(small, config):
    """Tensors and configuration of the DistilBERT classifier."""
    config = dict(config, dim=2 * config["dim"], hidden_dim=2 * config["hidden_dim"], dtype="float32")
    return {n: widen(n, a) for n, a in small.items()}, config


def ner(small, config, layers):
    """Tensors and configuration of a BERT token classifier made of the same layers, repeated."""
    out = {}
    for name, a in small.items():
        if name.startswith("distilbert.embeddings."):
            out[name.replace("distilbert.", "bert.", 1)] = widen(name, a)
    width = 2 * config["dim"]
    out["bert.embeddings.token_type_embeddings.weight"] = np.zeros((2, width), np.float32)
    for i in range(layers):
        for part, theirs in BERT_NAMES.items():
            for kind in ("weight", "bias"):
                name = f"distilbert.transformer.layer.{i % config['n_layers']}.{part}.{kind}"
                out[f"bert.encoder.layer.{i}.{theirs}.{kind}"] = widen(name, small[name])
    draw = np.random.default_rng(17)
    out["classifier.weight"] = draw.normal(0, 0.02, (len(NER_LABELS), width)).astype(np.float32)
    out["classifier.bias"] = np.zeros(len(NER_LABELS), np.float32)
    return out, {
        "architectures": ["BertForTokenClassification"], "model_type": "bert", "hidden_size": width,
        "intermediate_size": 2 * config["hidden_dim"],
        "num_hidden_layers": layers, "num_attention_heads": config["n_heads"], "hidden_act": config["activation"],
        "layer_norm_eps": 1e-12,
        "vocab_size": config["vocab_size"], "type_vocab_size": 2,
        "max_position_embeddings": config["max_position_embeddings"], "pad_token_id": config["pad_token_id"],
        "id2label": {str(i): l for i, l in enumerate(NER_LABELS)}, "label2id": {l: i for i, l in enumerate(NER_LABELS)},
        "dtype": "float32"}


def check(before, after):
    """Prints the largest difference of logits on texts that the exporter keeps as its golden ones; fails above 1e-5 of
    the largest logit.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
    from sluice_export import golden, reference, source
    small, wide = source.read(str(before)), source.read(str(after))
    rows = [small.tokenizer.encode(t).ids for t in golden.TEXTS]
    pairs = [(reference.numpy_logits(small, r), reference.numpy_logits(wide, r)) for r in rows]
    gap = max(float(np.abs(a - b).max()) for a, b in pairs)
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    print(f"widen: {len(rows)} texts, logits up to {largest:.2f}, largest difference between small and wide {gap:.1e}",
          file=sys.stderr)
    return gap <= 1e-5 * max(1.0, largest)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("source", type=Path, help="Hugging Face folder of a DistilBERT classifier")
    p.add_argument("directory", type=Path, help="folder to make")
    p.add_argument("--task", choices=("sentiment", "ner"), default="sentiment", help="ner: BERT's names, a token head "
                   "without meaning (default %(default)s)")
    p.add_argument("--layers", type=int, help="ner: layers to make by repeating (default: as many as there are)")
    p.add_argument("--check", action="store_true", help="sentiment: compare logits with the source's (needs the export "
                                                        "script's packages)")
    a = p.parse_args()
    config = json.loads((a.source / "config.json").read_text())
    if config.get("architectures") != ["DistilBertForSequenceClassification"]:
        sys.exit(f"widen: {a.source / 'config.json'} is not a DistilBertForSequenceClassification; only that "
                 f"is widened")
    if a.task == "sentiment" and (a.layers or config["n_layers"]) != config["n_layers"]:
        sys.exit("widen: --layers goes with --task ner; a classifier with other layers would give other answers")
    config = {k: v for k, v in config.items() if v is not None}     # "eos_token_id": null stops some loaders
    small = {n: t.astype(np.float32) for n, t in load_file(a.source / "model.safetensors").items()}
    tensors, config = sentiment(small, config) if a.task == "sentiment" else ner(small, config, a.layers
            or config["n_layers"])

    a.directory.mkdir(parents=True, exist_ok=True)
    save_file({n: np.ascontiguousarray(t) for n, t in sorted(tensors.items())}, a.directory / "model.safetensors",
              metadata={"format": "pt"})
    (a.directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(a.source / name, a.directory / name)
    count = sum(t.size for t in tensors.values())
    print(f"widen: {a.directory}: {config['architectures'][0]}, {count / 1e6:.1f} M parameters", file=sys.stderr)
    if a.check and a.task == "sentiment" and not check(a.source, a.directory):
        sys.exit("widen: the logits differ by more than 1e-5: this is a fault of widen.py or of the checkpoint")


if __name__ == "__main__":
    main()
