"""The source model's own logits, to hold the graph against.

Where transformers and torch are installed, they are the reference. Elsewhere a forward pass in numpy: float64, one text
at a time, straight from Hugging Face's tensor names. It shares no code with graph.py or source.encoder on purpose: a
mistake in reading a checkpoint must not cancel out.
"""
import math

import numpy as np

from .source import TOKEN

_erf = np.vectorize(math.erf, otypes=[np.float64])


def logits(source, ids):
    """(list of [L] or [tokens, L], the name of the reference)."""
    try:
        import torch                    # noqa: F401
        import transformers
    except ImportError:
        return [numpy_logits(source, row) for row in ids], "numpy"
    return transformers_logits(source.folder, source.task, ids), f"transformers {transformers.__version__}"


def transformers_logits(folder, task, ids):
    """Logits of transformers in fp32, one text at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
    kind = AutoModelForTokenClassification if task == TOKEN else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        rows = [{"input_ids": row, "token_type_ids": getattr(row, "types", None)} for row in ids]
        return [model(**{k: torch.tensor([list(v)]) for k, v in row.items() if v}).logits[0].numpy() for row in rows]


def numpy_logits(source, ids):
    """Logits of one row, which may have token types (row.Row): [L], or [tokens, L]."""
    t, config, kind = source.tensors, source.config, source.config["model_type"]
    base = {"xlm-roberta": "roberta", "camembert": "roberta", "data2vec-text": "data2vec_text"}.get(kind, kind)

    def dense(x, name):
        return x @ t[name + ".weight"].astype(np.float64).T + t[name + ".bias"]

    def layer_norm(x, name):
        eps = 1e-12 if kind == "distilbert" else config["layer_norm_eps"]
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * t[name + ".weight"] + t[name + ".bias"]

    def gelu(x):
        return x * 0.5 * (1 + _erf(x / math.sqrt(2)))

    def gelu_tanh(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))

    act = {"gelu": gelu, "gelu_python": gelu, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh,
           "gelu_fast": gelu_tanh,
           "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[config["activation" if kind == "distilbert"
                   else "hidden_act"]]

    n = len(ids)
    emb = base + ".embeddings."
    first = config["pad_token_id"] + 1 if base in ("roberta", "data2vec_text") else 0
    x = t[emb + "word_embeddings.weight"][list(ids)].astype(np.float64) + t[emb + "position_embeddings.weight"][
        first:first + n]
    if kind != "distilbert":
        x = x + t[emb + "token_type_embeddings.weight"][getattr(ids, "types", None) or [0] * n]
    if kind == "ernie" and config["use_task_id"]:
        x = x + t[emb + "task_type_embeddings.weight"][0]
    x = layer_norm(x, emb + "LayerNorm")
    if kind == "electra" and x.shape[-1] != config["hidden_size"]:
        x = dense(x, "electra.embeddings_project")

    if kind == "distilbert":
        count, heads, below = config["n_layers"], config["n_heads"], "distilbert.transformer.layer.%d."
        q, k, v, o, n1, up, down, n2 = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
                                        "sa_layer_norm",
                                        "ffn.lin1", "ffn.lin2", "output_layer_norm")
    else:
        count, heads, below = config["num_hidden_layers"], config["num_attention_heads"], base + ".encoder.layer.%d."
        q, k, v, o, n1, up, down, n2 = ("attention.self.query", "attention.self.key", "attention.self.value",
                                        "attention.output.dense",
                                        "attention.output.LayerNorm", "intermediate.dense", "output.dense",
                                        "output.LayerNorm")
    for i in range(count):
        p = below % i
        mixed = []
        for Q, K, V in zip(*(np.split(dense(x, p + m), heads, axis=-1) for m in (q, k, v))):
            s = Q @ K.T / math.sqrt(Q.shape[-1])
            s = np.exp(s - s.max(-1, keepdims=True))
            mixed.append(s / s.sum(-1, keepdims=True) @ V)
        x = layer_norm(x + dense(np.concatenate(mixed, -1), p + o), p + n1)
        x = layer_norm(x + dense(act(dense(x, p + up)), p + down), p + n2)

    if source.task == TOKEN:
        return dense(x, "classifier")
    if kind in ("bert", "ernie"):
        return dense(np.tanh(dense(x[0], kind + ".pooler.dense")), "classifier")
    if kind == "distilbert":
        return dense(np.maximum(dense(x[0], "pre_classifier"), 0), "classifier")
    middle = dense(x[0], "classifier.dense")
    return dense(gelu(middle) if kind == "electra" else np.tanh(middle), "classifier.out_proj")
