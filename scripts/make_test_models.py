#!/usr/bin/env python3
"""Makes the small ONNX files of model/ort/testdata, all from seeds: the same run gives the same bytes.

    scripts/make_test_models.py        (needs what is pinned in scripts/requirements.txt)

tiny_LAYOUT_TASK_PRECISION.onnx: encoders with two layers and random weights, built by the exporter's own graph builder;
layouts of one task and precision share their weights. TASK is cls (3 labels) or tok (5 labels); 40 words, 48 positions.

toy_*.onnx: tables instead of models, so that a test knows every number. 40 words, 3 labels; the logits of token v are
v, v/2, -v; those of word 39 are NaN.
    toy_packed_cls, toy_packed_tok   token's logits + (0, position, 0), gathered to [B,S] and back; cls: of the first
                                     token, + (0, 0, length)
    toy_padded_cls                   sum of the tokens' logits under the mask + (0, 0, sum of token types)
    toy_padded_half                  the same as fp16, with int32 inputs
    toy_padded_tok                   the tokens' logits
    toy_padded_loop                  as toy_padded_cls, after 10^12 rounds of a loop if a text begins with word 38
    toy_odd_input, toy_fixed_shape, toy_two_outputs   what cannot be served
"""
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "scripts" / "tests_export"))
import tiny_models  # noqa: E402
from sluice_export import cli, graph  # noqa: E402
from sluice_export.source import TOKEN, Encoder  # noqa: E402

OUT = ROOT / "model/ort/testdata"
WORDS, POSITIONS = 40, 48


def encoder(rng, labels, first_only):
    """A random encoder; matrices are large enough that positions and neighbours matter to the logits."""
    width, inner = 16, 32
    dense = lambda rows, columns: ((rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32),
                                   rng.normal(scale=0.1, size=rows).astype(np.float32))
    norm = lambda: (rng.normal(1, 0.1, width).astype(np.float32), rng.normal(0, 0.1, width).astype(np.float32))
    layer = lambda: dict(q=dense(width, width), k=dense(width, width), v=dense(width, width), o=dense(width, width),
                         ln1=norm(),
                         f1=dense(inner, width), f2=dense(width, inner), ln2=norm())
    head = [(*dense(width, width), "tanh")] if first_only else []
    return Encoder(width=width, heads=2, eps=1e-12, activation="gelu",
                   word=rng.normal(size=(WORDS, width)).astype(np.float32),
                   position=rng.normal(scale=0.5, size=(POSITIONS, width)).astype(np.float32), norm=norm(),
                   project=None,
                   layers=[layer(), layer()], head=head + [(*dense(labels, width), None)])


def tiny():
    for short, task, labels in (("cls", "text-classification", 3), ("tok", TOKEN, 5)):
        e = encoder(np.random.default_rng(20261124), labels, short == "cls")
        ranges = {name: (-4.0, 4.0) for name in graph.linears(e)}
        for layout in ("padded", "packed"):
            for precision in ("fp32", "int8"):
                plan = graph.Plan(layout, precision, ranges if precision == "int8" else {})
                save(graph.build(e, task, labels, plan), OUT / f"tiny_{layout}_{short}_{precision}.onnx")
        for precision in ("fp32", "int8"):
            plan = graph.Plan("padded", precision, ranges if precision == "int8" else {}, ops="standard")
            save(graph.build(e, task, labels, plan), OUT / f"tiny_standard_{short}_{precision}.onnx")


class Toy:
    """A graph in the making."""

    def __init__(self, name, ids=TensorProto.INT64):
        self.name, self.ids, self.nodes, self.constants, self.inputs = name, ids, [], {}, []
        word = np.arange(WORDS, dtype=np.float32)
        table = np.stack([word, word / 2, -word], 1)
        table[WORDS - 1] = np.nan
        self.table = self.const("table", table)

    def const(self, name, value):
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def op(self, kind, *inputs, **attributes):
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def input(self, name, *shape, kind=None):
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.ids, list(shape)))
        return name

    def save(self, logits, *shape, kind=TensorProto.FLOAT, names=("logits",)):
        for name in names:
            self.nodes.append(helper.make_node("Identity", [logits], [name]))
        outputs = [helper.make_tensor_value_info(name, kind, list(shape)) for name in names]
        g = helper.make_graph(self.nodes, self.name, self.inputs, outputs, list(self.constants.values()))
        save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
             OUT / f"{self.name}.onnx")


def packed(name, tokens):
    t = Toy(name)
    x = t.op("Gather", t.table, t.input("input_ids", "t"))
    axis = t.const("axis", np.array([1], np.int64))
    column = lambda n: t.const(f"column{n}", np.eye(3, dtype=np.float32)[n:n + 1])
    position = t.op("Unsqueeze", t.op("Cast", t.input("position_ids", "t"), to=TensorProto.FLOAT), axis)
    x = t.op("Add", x, t.op("Mul", position, column(1)))
    x = t.op("Gather", x, t.input("pad_idx", "b", "s"))                                      # [B,S,3]
    x = t.op("Gather", t.op("Reshape", x, t.const("flat", np.array([-1, 3], np.int64))), t.input("unpad_idx", "t"))
    length = t.op("Unsqueeze", t.op("Cast", t.input("lengths", "b", kind=TensorProto.INT32), to=TensorProto.FLOAT),
                  axis)
    if tokens:
        # lengths are an input of every packed graph: used here for nothing, by an empty slice of a sum
        zero = t.op("Mul", t.op("ReduceSum", length, keepdims=0), t.const("zero", np.float32(0)))
        return t.save(t.op("Add", x, zero), "t", 3)
    x = t.op("Gather", x, t.input("cls_idx", "b"))
    t.save(t.op("Add", x, t.op("Mul", length, column(2))), "b", 3)


def masked_sum(t, types=True):
    """[B,3]: the tokens' logits summed under the mask, NaN where a text holds the last word."""
    axis, last = t.const("axis", np.array([1], np.int64)), t.const("last", np.array([-1], np.int64))
    x = t.op("Gather", t.table, t.input("input_ids", "b", "s"))
    mask = t.op("Unsqueeze", t.op("Cast", t.input("attention_mask", "b", "s"), to=TensorProto.FLOAT), last)
    x = t.op("ReduceSum", t.op("Mul", x, mask), axis, keepdims=0)
    if types:
        sums = t.op("ReduceSum", t.op("Cast", t.input("token_type_ids", "b", "s"), to=TensorProto.FLOAT), axis,
                    keepdims=1)
        x = t.op("Add", x, t.op("Mul", sums, t.const("third", np.array([[0, 0, 1]], np.float32))))
    return x


def endless(t, logits):
    """Adds zero to the logits in a loop, 10^12 times if any text begins with word 38, else once."""
    first = t.op("Gather", "input_ids", t.const("zeroth", np.int64(0)), axis=1)
    some = t.op("ReduceMax", t.op("Cast", t.op("Equal", first, t.const("word", np.int64(WORDS - 2))),
                                  to=TensorProto.INT64), keepdims=0)
    rounds = t.op("Add", t.op("Mul", some, t.const("many", np.int64(10**12))), t.const("one", np.int64(1)))
    value = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["x", "nothing"], ["y"])], "round",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, ["b", 3])],
        [value("go_on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(np.zeros((1, 3), np.float32), "nothing")])
    return t.op("Loop", rounds, t.const("true", np.array(True)), logits, body=body)


def toys():
    packed("toy_packed_cls", tokens=False)
    packed("toy_packed_tok", tokens=True)
    t = Toy("toy_padded_cls")
    t.save(masked_sum(t), "b", 3)
    t = Toy("toy_padded_half", ids=TensorProto.INT32)
    t.save(t.op("Cast", masked_sum(t), to=TensorProto.FLOAT16), "b", 3, kind=TensorProto.FLOAT16)
    t = Toy("toy_padded_loop")
    t.save(endless(t, masked_sum(t)), "b", 3)
    t = Toy("toy_padded_tok")
    ids = t.op("Gather", t.table, t.input("input_ids", "b", "s"))
    mask = t.op("Unsqueeze", t.op("Cast", t.input("attention_mask", "b", "s"), to=TensorProto.FLOAT),
                t.const("last", np.array([-1], np.int64)))
    t.save(t.op("Mul", ids, mask), "b", "s", 3)
    t = Toy("toy_odd_input")
    x = masked_sum(t)
    t.save(t.op("Add", x, t.op("Cast", t.input("pixel_values", "b", 3), to=TensorProto.FLOAT)), "b", 3)
    t = Toy("toy_fixed_shape")
    x = t.op("Gather", t.table, t.input("input_ids", 1, 16))
    mask = t.op("Unsqueeze", t.op("Cast", t.input("attention_mask", 1, 16), to=TensorProto.FLOAT),
                t.const("last", np.array([-1], np.int64)))
    t.save(t.op("ReduceSum", t.op("Mul", x, mask), t.const("axis", np.array([1], np.int64)), keepdims=0), 1, 3)
    t = Toy("toy_two_outputs")
    t.save(masked_sum(t), "b", 3, names=("last_hidden_state", "pooler_output"))


def pairs():
    """pairs/: a whole model directory for pairs of texts, by the exporter; its golden rows are transformers' own."""
    with tempfile.TemporaryDirectory() as place:
        folder = tiny_models.make("bert-sequence", Path(place) / "pairs")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 38}')
        shutil.rmtree(OUT / "pairs", ignore_errors=True)
        if cli.main([str(folder), str(OUT / "pairs"), "--pairs", "--license", "CC0-1.0"]):
            sys.exit("the exporter refused the model of pairs")


OUT.mkdir(parents=True, exist_ok=True)
tiny()
toys()
pairs()
print("\n".join(f"{f.stat().st_size:8d} {f.name}" for f in sorted(OUT.glob("*.onnx"))))
