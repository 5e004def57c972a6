"""Tiny checkpoints of every architecture that is built directly: random weights from a seed, tokenizers made here.

The same arguments make the same files on every machine, so only the logits that transformers gives for them are
committed.
"""
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WIDTH, INNER, LAYERS, HEADS, POSITIONS = 16, 32, 2, 4, 40

# name -> (model_type, task head, options)
CASES = {
    "bert-sequence": ("bert", "SequenceClassification", {}),
    "bert-token": ("bert", "TokenClassification", {}),
    "bert-gelu-new": ("bert", "SequenceClassification", {"act": "gelu_new"}),
    "bert-bf16": ("bert", "TokenClassification", {"dtype": "bfloat16"}),
    "distilbert-sequence": ("distilbert", "SequenceClassification", {}),
    "distilbert-token": ("distilbert", "TokenClassification", {}),
    "distilbert-multi-label": ("distilbert", "SequenceClassification", {"problem": "multi_label_classification"}),
    "distilbert-f16-sharded": ("distilbert", "SequenceClassification", {"dtype": "float16", "shards": 2}),
    "roberta-sequence": ("roberta", "SequenceClassification", {}),
    "roberta-token": ("roberta", "TokenClassification", {}),
    "xlm-roberta-sequence": ("xlm-roberta", "SequenceClassification", {}),
    "xlm-roberta-token": ("xlm-roberta", "TokenClassification", {}),
    "camembert-sequence": ("camembert", "SequenceClassification", {}),
    "camembert-token": ("camembert", "TokenClassification", {}),
    "data2vec-sequence": ("data2vec-text", "SequenceClassification", {}),
    "data2vec-token": ("data2vec-text", "TokenClassification", {}),
    "ernie-sequence": ("ernie", "SequenceClassification", {}),
    "ernie-token": ("ernie", "TokenClassification", {"tasks": 3}),
    "bert-regression": ("bert", "SequenceClassification", {"problem": "regression", "labels": ["LABEL_0"]}),
    "roberta-regression": ("roberta", "SequenceClassification", {"problem": "regression",
                           "labels": ["valence", "arousal"]}),
    "electra-sequence": ("electra", "SequenceClassification", {"embedding": 8}),
    "electra-token": ("electra", "TokenClassification", {"embedding": 16}),
}
CLASS = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
         "electra": "Electra", "camembert": "Camembert", "data2vec-text": "Data2VecText", "ernie": "Ernie"}
ROBERTA = {"roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta", "data2vec-text": "data2vec_text"}
LABELS = ["alpha", "beta", "gamma"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = ["a", "the quick brown fox jumps over the lazy dog", "Ada met Charles in London", "two words",
         "çédille and naïve", "1 2 3 4 5 6 7 8 9 10 11 12"]


def labels_of(head, options):
    return options["labels"] if "labels" in options else TAGS if head == "TokenClassification" else LABELS


def make(case, folder):
    """Writes the checkpoint of a case of CASES into a folder; returns the folder."""
    kind, head, options = CASES[case]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, pad = _tokenizer(kind)
    tokenizer.save(str(folder / "tokenizer.json"))
    labels = labels_of(head, options)
    config = {"architectures": [CLASS[kind] + "For" + head], "model_type": kind,
              "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": pad,
              "max_position_embeddings": POSITIONS, "id2label": {str(i): l for i, l in enumerate(labels)},
              "label2id": {l: i for i, l in enumerate(labels)}}
    act = options.get("act", "gelu")
    if kind == "distilbert":
        config |= {"dim": WIDTH, "hidden_dim": INNER, "n_layers": LAYERS, "n_heads": HEADS, "activation": act}
    else:
        config |= {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
                   "num_attention_heads": HEADS, "hidden_act": act,
                   "layer_norm_eps": 1e-5, "type_vocab_size": 1 if kind in ROBERTA else 2}
    if kind == "electra":
        config["embedding_size"] = options["embedding"]
    if options.get("problem"):
        config["problem_type"] = options["problem"]
    if options.get("tasks"):
        config |= {"use_task_id": True, "task_type_vocab_size": options["tasks"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_weights(folder, weights(case, config), options.get("dtype", "float32"), options.get("shards", 1))
    # transformers needs to be told the class; the exporter reads tokenizer.json alone
    special = ("<s>", "</s>", "<pad>") if kind in ROBERTA else ("[CLS]", "[SEP]", "[PAD]")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast",
                                                              "cls_token": special[0], "sep_token": special[1],
                                                              "pad_token": special[2],
                                                              "model_max_length": POSITIONS - 2}))
    return folder


def weights(case, config):
    """name -> float32 array under Hugging Face's names."""
    kind, head, options = CASES[case]
    rng = np.random.default_rng(sum(case.encode()))
    out = {}

    def dense(name, rows, columns):
        out[name + ".weight"] = rng.normal(0, 0.3, (rows, columns)).astype(np.float32)
        out[name + ".bias"] = rng.normal(0, 0.2, rows).astype(np.float32)

    def norm(name, width):
        out[name + ".weight"] = rng.normal(1, 0.1, width).astype(np.float32)
        out[name + ".bias"] = rng.normal(0, 0.1, width).astype(np.float32)

    def table(name, rows, width):
        out[name + ".weight"] = rng.normal(0, 0.5, (rows, width)).astype(np.float32)

    base = ROBERTA.get(kind, kind)
    first = options.get("embedding", WIDTH)
    table(base + ".embeddings.word_embeddings", config["vocab_size"], first)
    table(base + ".embeddings.position_embeddings", POSITIONS, first)
    if kind != "distilbert":
        table(base + ".embeddings.token_type_embeddings", config["type_vocab_size"], first)
    if options.get("tasks"):
        table(base + ".embeddings.task_type_embeddings", options["tasks"], first)
    norm(base + ".embeddings.LayerNorm", first)
    if kind == "electra" and first != WIDTH:
        dense("electra.embeddings_project", WIDTH, first)
    for i in range(LAYERS):
        if kind == "distilbert":
            p = f"distilbert.transformer.layer.{i}."
            for m in ("q_lin", "k_lin", "v_lin", "out_lin"):
                dense(p + "attention." + m, WIDTH, WIDTH)
            norm(p + "sa_layer_norm", WIDTH)
            dense(p + "ffn.lin1", INNER, WIDTH)
            dense(p + "ffn.lin2", WIDTH, INNER)
            norm(p + "output_layer_norm", WIDTH)
        else:
            p = f"{base}.encoder.layer.{i}."
            for m in ("self.query", "self.key", "self.value", "output.dense"):
                dense(p + "attention." + m, WIDTH, WIDTH)
            norm(p + "attention.output.LayerNorm", WIDTH)
            dense(p + "intermediate.dense", INNER, WIDTH)
            dense(p + "output.dense", WIDTH, INNER)
            norm(p + "output.LayerNorm", WIDTH)
    n = len(labels_of(head, options))
    if head == "TokenClassification":
        dense("classifier", n, WIDTH)
    elif kind in ("bert", "ernie"):
        dense(kind + ".pooler.dense", WIDTH, WIDTH)
        dense("classifier", n, WIDTH)
    elif kind == "distilbert":
        dense("pre_classifier", WIDTH, WIDTH)
        dense("classifier", n, WIDTH)
    else:
        dense("classifier.dense", WIDTH, WIDTH)
        dense("classifier.out_proj", n, WIDTH)
    return out


def save_weights(folder, tensors, dtype="float32", shards=1):
    """model.safetensors, or `shards` files with an index, in one of float32, float16, bfloat16."""
    def file(part):
        # the format: length of the header (u64), JSON header, data
        header, raw = {"__metadata__": {"format": "pt"}}, b""
        for n, a in part.items():
            bits = (a.astype(np.float32).view(np.uint32) >> 16).astype("<u2") if dtype == "bfloat16" else a.astype(
                {"float32": "<f4", "float16": "<f2"}[dtype])
            header[n] = {"dtype": {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype],
                         "shape": list(a.shape), "data_offsets": [len(raw), len(raw) + bits.nbytes]}
            raw += bits.tobytes()
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + raw

    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    if shards == 1:
        (folder / "model.safetensors").write_bytes(file(tensors))
        return
    where = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: a for j, (n, a) in enumerate(tensors.items()) if j % shards == i}
        (folder / name).write_bytes(file(part))
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def _tokenizer(kind):
    """(a small tokenizer of the family's usual sort, its padding id)."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    if kind in ("roberta", "data2vec-text"):
        vocabulary = {t: i for i,
                      t in enumerate(["<s>", "<pad>", "</s>", "<unk>"] + sorted(pre_tokenizers.ByteLevel.alphabet()))}
        t = Tokenizer(models.BPE(vocabulary, []))
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False,
                                                        add_prefix_space=False)
        t.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
        return t, 1
    if kind in ("xlm-roberta", "camembert"):
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁two"] + list(letters) + list("ACL")
        t = Tokenizer(models.Unigram([(p, -float(i % 7)) for i, p in enumerate(pieces)], 3, False))
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
        t.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
        return t, 1
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "two", "words", "london"] + list(letters) + ["##" + c
            for c in letters]
    t = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2),
            ("[SEP]", 3)])
    t.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return t, 0
