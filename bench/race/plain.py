#!/usr/bin/env python3
"""The exports that everybody makes, of a Hugging Face folder: torch's ONNX export, and onnxruntime's dynamic int8
quantization of it.

    build/race/transformers/bin/python bench/race/plain.py build/race/source/sentiment-768 \\
        build/race/models/sentiment-768

writes DIR-plain (fp32) and DIR-dynamic (int8, weights per channel), and DIR-simple: fp32 of the same weights from a
forward pass written out, for runtimes that cannot compile what transformers' mask code becomes (bench/peers/bento).
Each has tokenizer.json and config.json.
"""
import shutil
import sys
import warnings
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification


class Simple(torch.nn.Module):
    """DistilBertForSequenceClassification in matrix products, softmax and norms; the mask is added, nothing else."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        m, e = self.model, self.model.distilbert.embeddings
        heads = m.config.n_heads
        positions = torch.cumsum(torch.ones_like(input_ids), 1) - 1
        x = e.LayerNorm(e.word_embeddings(input_ids) + e.position_embeddings(positions))
        rows, tokens, width = x.shape
        mask = (1 - attention_mask.to(x.dtype))[:, None, None, :] * -10000.0

        def split(t):
            return t.reshape(rows, tokens, heads, width // heads).transpose(1, 2)

        for layer in m.distilbert.transformer.layer:
            a = layer.attention
            scores = torch.matmul(split(a.q_lin(x)), split(a.k_lin(x)).transpose(2, 3)) / (width // heads) ** 0.5
            mixed = torch.matmul(torch.softmax(scores + mask, -1), split(a.v_lin(x)))
            x = layer.sa_layer_norm(a.out_lin(mixed.transpose(1, 2).reshape(rows, tokens, width)) + x)
            x = layer.output_layer_norm(layer.ffn.lin2(torch.nn.functional.gelu(layer.ffn.lin1(x))) + x)
        return m.classifier(torch.relu(m.pre_classifier(x[:, 0])))


def main():
    source, base = Path(sys.argv[1]), sys.argv[2]
    plain, dynamic, simple = Path(base + "-plain"), Path(base + "-dynamic"), Path(base + "-simple")
    for folder in (plain, dynamic, simple):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
            shutil.copyfile(source / name, folder / name)
    torch.set_grad_enabled(False)
    model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32,
                                                               attn_implementation="eager").eval()
    rows = torch.ones((2, 16), dtype=torch.long)
    free = {0: "texts", 1: "tokens"}
    warnings.simplefilter("ignore")
    gap = float((Simple(model)(rows, rows) - model(rows, rows).logits).abs().max())
    if not gap < 1e-4:
        sys.exit(f"plain: the logits of the forward pass written out differ from transformers' by {gap:.1e}; "
                 f"transformers' DistilBERT has changed, see Simple")
    for module, folder in ((model, plain), (Simple(model), simple)):
        torch.onnx.export(module, (rows, rows), folder / "model.onnx", input_names=["input_ids", "attention_mask"],
                          output_names=["logits"],
                          dynamic_axes={"input_ids": free, "attention_mask": free, "logits": {0: "texts"}},
                          opset_version=17, dynamo=False)
    # Dynamic, weights per channel: the most accurate of the usual ways on this model
    # (bench/peers/onnxruntime/README.md).
    quantize_dynamic(plain / "model.onnx", dynamic / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)


if __name__ == "__main__":
    main()
