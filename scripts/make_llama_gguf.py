#!/usr/bin/env python3
"""Write a tiny llama model with random weights as GGUF, for tests of the protocol: make_llama_gguf.py FILE

Vocabulary: a SentencePiece one of every byte, so every text can be said. The weights are random but for one dimension:
it is the same for every token, so that its row in the output layer is a bias. The bias makes the model stop at once
where it may say anything, and makes it brief where a grammar holds it to a form: a short number, then the end.
"""

import sys

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, INNER, CONTEXT = 2, 64, 4, 128, 2048
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "


def main(path: str) -> None:
    rng = np.random.default_rng(7)
    tokens = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % b for b in range(256)]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256

    w = gguf.GGUFWriter(path, "llama")
    w.add_name("tiny-random")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(INNER)
    w.add_head_count(HEADS)
    w.add_head_count_kv(HEADS)
    w.add_rope_dimension_count(WIDTH // HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(tokens))
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * len(tokens))
    w.add_token_types([int(t) for t in types])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_chat_template(TEMPLATE)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, 0.02, (rows, columns)).astype(np.float32)

    embedding = matrix(len(tokens), WIDTH)
    embedding[:, 0] = 1
    output = matrix(len(tokens), WIDTH)
    output[:, 0] = 0
    output[2, 0] = 2.0  # the end, wherever it may be
    for char, bias in {"}": 1.5, ",": 1.4, '"': 1.3, "0": 1.0, "1": 0.5}.items():
        output[3 + ord(char), 0] = bias
    w.add_tensor("token_embd.weight", embedding)
    for i in range(LAYERS):
        w.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            w.add_tensor(f"blk.{i}.{name}.weight", matrix(WIDTH, WIDTH))
        w.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(WIDTH, np.float32))
        w.add_tensor(f"blk.{i}.ffn_gate.weight", matrix(INNER, WIDTH))
        w.add_tensor(f"blk.{i}.ffn_up.weight", matrix(INNER, WIDTH))
        w.add_tensor(f"blk.{i}.ffn_down.weight", matrix(WIDTH, INNER))
    w.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    w.add_tensor("output.weight", output)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
