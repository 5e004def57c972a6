"""The ONNX graph of an encoder with its head, node by node, without torch.

Layouts (B texts, S longest text, T tokens of all texts end to end):
  padded  input_ids[B,S], attention_mask[B,S]
  packed  input_ids[T], position_ids[T] (from 0 in each text), pad_idx[B,S] (row of T for every slot; slots beyond a text
          repeat its first row), unpad_idx[T] (= b*S+s), cls_idx[B] (first rows; text-classification only), lengths[B] (i32)
Output: logits, f32: [B,L]; for token-classification [B,S,L] (padded) or [T,L] (packed).

Only attention needs texts apart, so the packed graph pads just around it and does all other work on real tokens.
For text-classification the last layer works on the first token of each text only: nothing else reaches the head.

Choices that were measured (models/MODELS.md): com.microsoft.MultiHeadAttention; Add + LayerNormalization, as the fused
SkipLayerNormalization is 13-30 % slower on CPU; exact Gelu, as FastGelu moves logits by 1e-3 and gains nothing.

int8 is static, u8 activations times s8 weights with one scale a channel, the bias folded in (MatMulIntegerToFloat): the
only form whose answers do not depend on batch neighbours. Attention, norms and the head stay fp32.
"""
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .source import TOKEN

CONTRIB = "com.microsoft"
OPSET = 20          # the first with Gelu
IR_VERSION = 10     # what ONNX Runtime 1.18 and later read


@dataclass
class Plan:
    """What is to be built."""
    layout: str                 # padded | packed
    precision: str              # fp32 | fp16 | int8
    ranges: dict = field(default_factory=dict)     # int8: linear name -> (low, high) of its input
    keep_fp32: frozenset = frozenset()             # int8: linear names that stay fp32
    watch: bool = False         # calibration: the input of every linear becomes an output named watch:<linear>


def linears(encoder):
    """Names of the matrices that int8 may hold, in order: l0.qkv, l0.o, l0.f1, l0.f2, l1.qkv, ..."""
    return [f"l{i}.{m}" for i in range(len(encoder.layers)) for m in ("qkv", "o", "f1", "f2")]


def build(encoder, task, labels, plan):
    """An onnx.ModelProto. labels: number of logits. The same arguments give the same bytes."""
    return _Builder(encoder, task, labels, plan).model()


def jitter(model, seed, size=1e-6):
    """A copy of a ModelProto whose norms' biases carry noise of the given size: how far rounding alone may move its answers.

    An int8 graph rounds activations to 255 steps, so a sum that another CPU adds up in another order can land on the next
    step, and the layers after it multiply that. Noise of one millionth is a little more than what CPUs differ by.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(seed)
    for t in copy.graph.initializer:
        if t.name == "norm.b" or t.name.endswith((".ln1.b", ".ln2.b")):
            value = numpy_helper.to_array(t)
            t.CopyFrom(numpy_helper.from_array((value + rng.normal(0, size, value.shape)).astype(value.dtype), t.name))
    return copy


class _Builder:
    def __init__(self, encoder, task, labels, plan):
        self.e, self.task, self.labels, self.plan = encoder, task, labels, plan
        self.packed = plan.layout == "packed"
        self.float = np.float16 if plan.precision == "fp16" else np.float32
        self.nodes, self.constants, self.watched = [], {}, {}
        self.count = 0

    # -- pieces

    def const(self, name, value):
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def ints(self, *values):
        return self.const("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def weight(self, name, value):
        return self.const(name, np.asarray(value, self.float))

    def op(self, kind, inputs, outputs=1, domain="", **attributes):
        self.count += 1
        name = f"{kind}_{self.count}"
        names = outputs if isinstance(outputs, list) else [name if outputs == 1 else f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def norm(self, x, name, pair):
        return self.op("LayerNormalization", [x, self.weight(name + ".g", pair[0]), self.weight(name + ".b", pair[1])], epsilon=float(self.e.eps), axis=-1)

    def activate(self, x, kind):
        if kind == "gelu":
            return self.op("Gelu", [x])
        if kind == "gelu_tanh":
            return self.op("Gelu", [x], approximate="tanh")
        return self.op({"relu": "Relu", "tanh": "Tanh"}[kind], [x])

    def linear(self, x, name, weight, bias, range_of=None):
        """x weight^T + bias, in int8 where the plan has a range for the name. range_of: the linear whose input this one shares."""
        key = range_of or name
        if self.plan.watch and key in linears(self.e):
            self.watched[key] = x
        if self.plan.precision != "int8" or key not in self.plan.ranges or key in self.plan.keep_fp32:
            y = self.op("MatMul", [x, self.weight(name + ".w", weight.T)])
            return self.op("Add", [y, self.weight(name + ".b", bias)])
        scales = np.maximum(np.abs(weight).max(axis=1), 1e-8) / 127.0             # one an output channel
        quantized = np.clip(np.rint(weight.T / scales), -127, 127).astype(np.int8)
        low, high = (min(self.plan.ranges[key][0], 0.0), max(self.plan.ranges[key][1], 0.0))
        step = max((high - low) / 255.0, 1e-8)
        zero = np.uint8(np.clip(np.rint(-low / step), 0, 255))
        a_scale, a_zero = self.const(key + ".as", np.float32(step)), self.const(key + ".az", zero)
        u8 = self.op("QuantizeLinear", [x, a_scale, a_zero])
        return self.op("MatMulIntegerToFloat", [
            u8, self.const(name + ".q", quantized), a_scale, self.const(name + ".s", scales.astype(np.float32)), a_zero,
            self.const(name + ".z", np.zeros(len(scales), np.int8)), self.const(name + ".b", bias.astype(np.float32))], domain=CONTRIB)

    # -- parts

    def embeddings(self):
        e = self.e
        if self.plan.precision == "int8":
            # A byte a value and a scale a row: the table is half or more of a small model's file. One scale for the whole table
            # costs up to 0.4 of a logit; one a row is below the noise of the int8 layers (numbers in models/MODELS.md).
            scales = np.maximum(np.abs(e.word).max(axis=1, keepdims=True), 1e-8) / 127.0
            rows = self.op("Gather", [self.const("word.q", np.clip(np.rint(e.word / scales), -127, 127).astype(np.int8)), "input_ids"])
            scale = self.op("Gather", [self.const("word.s", scales.astype(np.float32)), "input_ids"])
            x = self.op("Mul", [self.op("Cast", [rows], to=TensorProto.FLOAT), scale])
        else:
            x = self.op("Gather", [self.weight("word", e.word), "input_ids"])
        table = self.weight("position", e.position)
        if self.packed:
            p = self.op("Gather", [table, "position_ids"])
        else:
            length = self.op("Shape", ["input_ids"], start=1, end=2)
            p = self.op("Slice", [table, self.ints(0), length, self.ints(0)])
            self.op("Cast", ["attention_mask"], ["mask"], to=TensorProto.INT32)
        x = self.norm(self.op("Add", [x, p]), "norm", e.norm)
        if e.project is not None:
            x = self.linear(x, "project", *e.project)
        return x

    def apart(self, x):
        """[T,n] -> [B,S,n] where rows are packed."""
        return self.op("Gather", [x, "pad_idx"], axis=0) if self.packed else x

    def attention(self, q, k, v):
        return self.op("MultiHeadAttention", [q, k, v, "", "lengths" if self.packed else "mask"], domain=CONTRIB, num_heads=self.e.heads)

    def attend(self, x, i, first_only):
        """Self-attention of layer i: (its output before the output matrix, the rows of x that go on)."""
        w, name, H = self.e.layers[i], f"l{i}.", self.e.width
        flat = self.ints(-1, H)
        if not first_only:
            joined = [np.concatenate([w[m][j] for m in "qkv"]) for j in (0, 1)]
            y = self.apart(self.linear(x, name + "qkv", *joined))
            q, k, v = self.op("Split", [y, self.ints(H, H, H)], 3, axis=-1)
            a = self.attention(q, k, v)
            if self.packed:
                a = self.op("Gather", [self.op("Reshape", [a, flat]), "unpad_idx"], axis=0)
            return a, x
        joined = [np.concatenate([w[m][j] for m in "kv"]) for j in (0, 1)]
        y = self.apart(self.linear(x, name + "kv", *joined, range_of=name + "qkv"))
        k, v = self.op("Split", [y, self.ints(H, H)], 2, axis=-1)
        if self.packed:
            x = self.op("Gather", [x, "cls_idx"], axis=0)
        else:
            x = self.op("Gather", [x, self.ints(0)], axis=1)
        q = self.linear(x, name + "q", *w["q"], range_of=name + "qkv")
        if self.packed:
            a = self.attention(self.op("Unsqueeze", [q, self.ints(1)]), k, v)
            return self.op("Reshape", [a, flat]), x
        return self.attention(q, k, v), x

    def model(self):
        e = self.e
        x = self.embeddings()
        for i, w in enumerate(e.layers):
            name = f"l{i}."
            # Calibration watches every row: the ranges then hold for all tokens, not for first tokens only.
            first_only = self.task != TOKEN and i == len(e.layers) - 1 and not self.plan.watch
            a, x = self.attend(x, i, first_only)
            x = self.norm(self.op("Add", [self.linear(a, name + "o", *w["o"]), x]), name + "ln1", w["ln1"])
            y = self.activate(self.linear(x, name + "f1", *w["f1"]), e.activation)
            x = self.norm(self.op("Add", [self.linear(y, name + "f2", *w["f2"]), x]), name + "ln2", w["ln2"])
        if self.task != TOKEN:
            if not self.packed:
                x = self.op("Gather", [x, self.const("first", np.int64(0))], axis=1)
            elif self.plan.watch:
                x = self.op("Gather", [x, "cls_idx"], axis=0)
        for n, (weight, bias, act) in enumerate(e.head):
            x = self.linear(x, f"head{n}", weight, bias)
            if act:
                x = self.activate(x, act)
        if self.float is np.float16:
            self.op("Cast", [x], ["logits"], to=TensorProto.FLOAT)
        else:
            self.nodes[-1].output[0] = "logits"
        return self.finish()

    def finish(self):
        i64, tensor = TensorProto.INT64, helper.make_tensor_value_info
        if self.packed:
            inputs = [tensor("input_ids", i64, ["tokens"]), tensor("position_ids", i64, ["tokens"]), tensor("pad_idx", i64, ["texts", "longest"]),
                      tensor("unpad_idx", i64, ["tokens"]), tensor("lengths", TensorProto.INT32, ["texts"])]
            if self.task != TOKEN:
                inputs.insert(4, tensor("cls_idx", i64, ["texts"]))
        else:
            inputs = [tensor("input_ids", i64, ["texts", "longest"]), tensor("attention_mask", i64, ["texts", "longest"])]
        rows = (["tokens"] if self.packed else ["texts", "longest"]) if self.task == TOKEN else ["texts"]
        outputs = [tensor("logits", TensorProto.FLOAT, rows + [self.labels])]
        for name, x in self.watched.items():
            self.op("Identity", [x], ["watch:" + name])
            outputs.append(tensor("watch:" + name, TensorProto.FLOAT, None))
        graph = helper.make_graph(self.nodes, "sluice", inputs, outputs, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
                                 ir_version=IR_VERSION, producer_name="sluice export_model.py")
