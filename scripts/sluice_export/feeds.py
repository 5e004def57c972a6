"""Token ids to the inputs of either layout, and sessions that run them. The worker's Go code builds the same inputs."""
import platform
from pathlib import Path

import numpy as np
import onnxruntime

from .source import TOKEN


def _types(row):
    types = getattr(row, "types", None)
    return np.zeros(len(row), np.int64) if types is None else np.asarray(types, np.int64)


def packed(ids):
    """Inputs of the packed layout for a list of id lists."""
    lengths = np.array([len(x) for x in ids], np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    longest = int(lengths.max())
    slots = np.arange(longest, dtype=np.int64)
    return {
        "input_ids": np.concatenate([np.asarray(x, np.int64) for x in ids]),
        "token_type_ids": np.concatenate([_types(x) for x in ids]),
        "position_ids": np.concatenate([slots[:n] for n in lengths]),
        "pad_idx": starts[:, None] + np.where(slots[None, :] < lengths[:, None], slots[None, :], 0),
        "unpad_idx": np.concatenate([b * longest + slots[:n] for b, n in enumerate(lengths)]),
        "cls_idx": starts,
        "lengths": lengths,
    }


def padded(ids, pad):
    """Inputs of the padded layout; token_type_ids for pairs, and for graphs of other exporters that want them."""
    longest = max(len(x) for x in ids)
    rows = np.full((len(ids), longest), pad, np.int64)
    mask, types = np.zeros_like(rows), np.zeros_like(rows)
    for i, x in enumerate(ids):
        rows[i, :len(x)] = x
        mask[i, :len(x)] = 1
        types[i, :len(x)] = _types(x)
    return {"input_ids": rows, "attention_mask": mask, "token_type_ids": types}


def saturates_int8(machine=None, cpuinfo="/proc/cpuinfo"):
    """Whether this CPU's u8 x s8 products overflow 16 bits: x86 without VNNI. Where the flags cannot be read, yes: that
    costs time only.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = next(line for line in Path(cpuinfo).read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def session(model):
    """A CPU session of a ModelProto, of its bytes or of a file's path. One thread: sums then have one order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Without VNNI (AVX2 only) ONNX Runtime's u8 x s8 product saturates at 16 bits: measured on the bundled models,
    # every row's logits are off, by up to 0.4. x64quantprecision makes it compute exactly there. Where VNNI is present
    # the product is exact without it, and the entry would only take a kernel of half the speed. It acts only at
    # EXTENDED and above (at BASIC it is ignored silently), where the fusion of SkipLayerNormalization has to be kept
    # away: its kernel is slower than Add + LayerNormalization. The worker's sessions are made in the same way
    # (model/ort).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if saturates_int8():
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    data = model.SerializeToString() if hasattr(model, "SerializeToString") else model
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(s, ids, layout, task, pad, batch=16, sort=True):
    """Logits of each text, in order: [L], or [tokens, L] for token-classification.

    sort groups texts of like length, which saves padding; without it batches are cut in the order given.
    """
    order = sorted(range(len(ids)), key=lambda i: len(ids[i])) if sort else range(len(ids))
    order = list(order)
    names = {i.name for i in s.get_inputs()}
    out = [None] * len(ids)
    for at in range(0, len(order), batch):
        chunk = order[at:at + batch]
        rows = [ids[i] for i in chunk]
        feed = packed(rows) if layout == "packed" else padded(rows, pad)
        logits = s.run(["logits"], {k: v for k, v in feed.items() if k in names})[0]
        if task != TOKEN:
            parts = list(logits)
        elif layout == "packed":
            parts = np.split(logits, np.cumsum([len(r) for r in rows])[:-1])
        else:
            parts = [logits[k, :len(r)] for k, r in enumerate(rows)]
        for i, part in zip(chunk, parts):
            out[i] = part
    return out
