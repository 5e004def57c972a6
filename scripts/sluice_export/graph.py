"""The ONNX graph of an encoder with its head, node by node, without torch.

Layouts (B texts, S longest text, T tokens of all texts end to end):
  padded  input_ids[B,S], attention_mask[B,S]
  packed  input_ids[T], position_ids[T] (from 0 in each text), pad_idx[B,S] (row of T for every slot; slots beyond a
          text repeat its first row), unpad_idx[T] (= b*S+s), cls_idx[B] (first rows; text-classification only),
          lengths[B] (i32)
Models of pairs that tell the second text by token types have token_type_ids, of the shape of input_ids.
Output: logits, f32: [B,L]; for token-classification [B,S,L] (padded) or [T,L] (packed).

Only attention needs texts apart, so the packed graph pads just around it and does all other work on real tokens.
For text-classification the last layer works on the first token of each text only: nothing else reaches the head.

Choices that were measured (bench/results/graph-*.md): in the packed layout attention is written out, with gathers that
pad, split and transpose in one copy, which is 8-15 % faster on CPU than com.microsoft.MultiHeadAttention and gives the
same bits; padded graphs and fp16 (for GPUs) keep MultiHeadAttention. Add + LayerNormalization, as the fused
SkipLayerNormalization is no faster; exact Gelu, as FastGelu moves logits by 1e-3 and gains nothing.

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
KINDS = ("qkv", "o", "f1", "f2")    # matrices of a layer, as linears() names them


@dataclass
class Plan:
    """What is to be built."""
    layout: str                 # padded | packed
    precision: str              # fp32 | fp16 | int8
    ranges: dict = field(default_factory=dict)     # int8: linear name -> (low, high) of its input
    keep_fp32: frozenset = frozenset()             # int8: linear names that stay fp32
    # int8: linear name -> factor a channel of its input, before it is rounded (smooth.py)
    scale: dict = field(default_factory=dict)
    watch: bool = False         # calibration: the input of every linear becomes an output named watch:<linear>
    # contrib: ONNX Runtime's own operators where they are faster; standard: ONNX only (OpenVINO)
    ops: str = "contrib"


def linears(encoder):
    """Names of the matrices that int8 may hold, in order: l0.qkv, l0.o, l0.f1, l0.f2, l1.qkv, ..."""
    return [f"l{i}.{m}" for i in range(len(encoder.layers)) for m in KINDS]


def weights_s8(weight):
    """(matrix of s8 [out, in], f32 scale an output channel) of a matrix."""
    scales = np.maximum(np.abs(weight).max(axis=1), 1e-8) / 127.0
    return np.clip(np.rint(weight / scales[:, None]), -127, 127).astype(np.int8), scales.astype(np.float32)


def steps_u8(low, high):
    """(f32 step, u8 zero point) of activations from low to high."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 255.0, 1e-8)
    return np.float32(step), np.uint8(np.clip(np.rint(-low / step), 0, 255))


def build(encoder, task, labels, plan):
    """An onnx.ModelProto. labels: number of logits. The same arguments give the same bytes."""
    return _Builder(encoder, task, labels, plan).model()


def jitter(model, seed, size=1e-6):
    """A copy of a ModelProto whose norms' biases carry noise of the given size: how far rounding alone may move its
    answers.

    An int8 graph rounds activations to 255 steps, so a sum that another CPU adds up in another order can land on the
    next step, and the layers after it multiply that. Noise of one millionth is a little more than what CPUs differ by.
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
        self.packed, self.standard = plan.layout == "packed", plan.ops == "standard"
        self.float = np.float16 if plan.precision == "fp16" else np.float32
        self.nodes, self.constants, self.watched, self.pieces = [], {}, {}, {}
        self.mask = self.slots = None
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
        names = outputs if isinstance(outputs, list) else [name if outputs == 1 else f"{name}_{i}"
                                                           for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def norm(self, x, name, pair):
        return self.op("LayerNormalization", [x, self.weight(name + ".g", pair[0]), self.weight(name + ".b", pair[1])],
                       epsilon=float(self.e.eps), axis=-1)

    def activate(self, x, kind):
        if kind == "gelu":
            return self.op("Gelu", [x])
        if kind == "gelu_tanh":
            return self.op("Gelu", [x], approximate="tanh")
        return self.op({"relu": "Relu", "tanh": "Tanh"}[kind], [x])

    def linear(self, x, name, weight, bias, range_of=None):
        """x weight^T + bias, in int8 where the plan has a range for the name. range_of: the linear whose input this one
        shares.
        """
        key = range_of or name
        if self.plan.watch and key in linears(self.e):
            self.watched[key] = x
        if self.plan.precision != "int8" or key not in self.plan.ranges or key in self.plan.keep_fp32:
            y = self.op("MatMul", [x, self.weight(name + ".w", weight.T)])
            return self.op("Add", [y, self.weight(name + ".b", bias)])
        if key in self.plan.scale:
            x = self.op("Mul", [x, self.const(key + ".f", np.asarray(self.plan.scale[key], np.float32))])
        quantized, scales = weights_s8(weight)
        step, zero = steps_u8(*self.plan.ranges[key])
        a_scale, a_zero = self.const(key + ".as", step), self.const(key + ".az", zero)
        u8 = self.op("QuantizeLinear", [x, a_scale, a_zero])
        if self.standard:
            w = self.op("DequantizeLinear", [self.const(name + ".q", quantized.T), self.const(name + ".s", scales),
                                             self.const(name + ".z", np.zeros(len(scales), np.int8))], axis=1)
            y = self.op("MatMul", [self.op("DequantizeLinear", [u8, a_scale, a_zero]), w])
            return self.op("Add", [y, self.weight(name + ".b", bias)])
        return self.op("MatMulIntegerToFloat", [
            u8, self.const(name + ".q", quantized.T), a_scale, self.const(name + ".s", scales), a_zero,
            self.const(name + ".z", np.zeros(len(scales), np.int8)), self.const(name + ".b", bias.astype(np.float32))],
                       domain=CONTRIB)

    # -- parts

    def embeddings(self):
        e = self.e
        if self.plan.precision == "int8":
            # A byte a value and a scale a row: the table is half or more of a small model's file. One scale for the
            # whole table costs up to 0.4 of a logit; one a row is below the noise of the int8 layers (numbers in
            # models/MODELS.md).
            scales = np.maximum(np.abs(e.word).max(axis=1, keepdims=True), 1e-8) / 127.0
            rows = self.op("Gather",
                           [self.const("word.q", np.clip(np.rint(e.word / scales), -127, 127).astype(np.int8)),
                            "input_ids"])
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
        x = self.op("Add", [x, p])
        if e.types is not None:
            x = self.op("Add", [x, self.op("Gather", [self.weight("type", e.types), "token_type_ids"])])
        x = self.norm(x, "norm", e.norm)
        if e.project is not None:
            x = self.linear(x, "project", *e.project)
        return x

    def apart(self, x):
        """[T,n] -> [B,S,n] where rows are packed."""
        return self.op("Gather", [x, "pad_idx"], axis=0) if self.packed else x

    def attention(self, q, k, v):
        if self.standard:
            return self.standard_attention(q, k, v)
        return self.op("MultiHeadAttention", [q, k, v, "", "lengths" if self.packed else "mask"], domain=CONTRIB,
                       num_heads=self.e.heads)

    def hidden(self):
        """What is added to scores: 0 where a slot holds a token, a very low number where it does not. [B,1,1,S]"""
        if not self.mask:
            if self.packed:
                slots = self.op("Range", [self.const("zero", np.int64(0)), self.op("Squeeze", [self.longest()]),
                                          self.const("one", np.int64(1))])
                used = self.op("Less", [slots, self.op("Unsqueeze", [self.op("Cast", ["lengths"], to=TensorProto.INT64),
                        self.ints(1)])])
            else:
                used = self.op("Cast", ["mask"], to=TensorProto.BOOL)
            scores = self.op("Where", [used, self.weight("shown", 0.0),
                                       self.weight("hidden", np.finfo(self.float).min / 2)])
            self.mask = self.op("Unsqueeze", [scores, self.ints(1, 2)])
        return self.mask

    def longest(self):
        return self.op("Shape", ["pad_idx"], start=1, end=2)

    def standard_attention(self, q, k, v):
        """MultiHeadAttention of the padded layout in operators of ONNX."""
        heads, each = self.e.heads, self.e.width // self.e.heads

        def apart(x, *order):
            return self.op("Transpose", [self.op("Reshape", [x, self.ints(0, 0, heads, each)])], perm=list(order))
        scores = self.op("Mul", [self.op("MatMul", [apart(q, 0, 2, 1, 3), apart(k, 0, 2, 3, 1)]),
                                 self.weight("scale", each ** -0.5)])
        weights = self.op("Softmax", [self.op("Add", [scores, self.hidden()])], axis=-1)
        mixed = self.op("Transpose", [self.op("MatMul", [weights, apart(v, 0, 2, 1, 3)])], perm=[0, 2, 1, 3])
        return self.op("Reshape", [mixed, self.ints(0, 0, heads * each)])

    def spread(self, y, parts):
        """[T,parts*H] -> parts tensors [B,heads,S,each]: a copy that pads, splits and transposes at once.

        A row of T is parts * heads pieces; the index of a piece is (row * parts + part) * heads + head.
        """
        heads, each = self.e.heads, self.e.width // self.e.heads
        if parts not in self.pieces:
            first = self.op("Mul", [self.op("Unsqueeze", ["pad_idx", self.ints(1)]), self.ints(parts * heads)])
            self.pieces[parts] = [self.op("Add",
                                          [first, self.const(f"heads{n}", np.arange(n * heads, (n + 1) * heads,
                                                  dtype=np.int64).reshape(1, heads, 1))]) for n in range(parts)]
        y = self.op("Reshape", [y, self.ints(-1, each)])
        return [self.op("Gather", [y, index], axis=0) for index in self.pieces[parts]]

    def collect(self, a):
        """[B,heads,S,each] -> [T,H]. Slot b*S+s of unpad_idx has its piece of a head at (b*heads + head)*S + s."""
        heads, each = self.e.heads, self.e.width // self.e.heads
        if not self.slots:
            S = self.longest()
            text = self.op("Div", ["unpad_idx", S])
            first = self.op("Add", ["unpad_idx", self.op("Mul", [text, self.op("Mul", [S, self.ints(heads - 1)])])])
            steps = self.op("Mul", [self.const("each_head", np.arange(heads, dtype=np.int64).reshape(1, heads)), S])
            self.slots = self.op("Add", [self.op("Unsqueeze", [first, self.ints(1)]), steps])
        pieces = self.op("Gather", [self.op("Reshape", [a, self.ints(-1, each)]), self.slots], axis=0)
        return self.op("Reshape", [pieces, self.ints(-1, heads * each)])

    def packed_attention(self, q, k, v):
        """Attention of [B,heads,S,each]. FusedMatMul is a MatMul with a transposed operand and a factor."""
        scores = self.op("FusedMatMul", [q, k], domain=CONTRIB, transB=1,
                         alpha=float((self.e.width // self.e.heads) ** -0.5))
        return self.op("MatMul", [self.op("Softmax", [self.op("Add", [scores, self.hidden()])], axis=-1), v])

    def attend_packed(self, x, i, first_only):
        """attend in the packed layout on CPUs."""
        w, name, H = self.e.layers[i], f"l{i}.", self.e.width
        joined = [np.concatenate([w[m][j] for m in ("kv" if first_only else "qkv")]) for j in (0, 1)]
        if not first_only:
            return self.collect(self.packed_attention(*self.spread(self.linear(x, name + "qkv", *joined), 3))), x
        k, v = self.spread(self.linear(x, name + "kv", *joined, range_of=name + "qkv"), 2)
        x = self.op("Gather", [x, "cls_idx"], axis=0)
        q = self.op("Reshape", [self.linear(x, name + "q", *w["q"], range_of=name + "qkv"), self.ints(-1, self.e.heads,
                1, H // self.e.heads)])
        a = self.packed_attention(self.twice(q, 2), k, v)
        return self.op("Reshape", [self.op("Gather", [a, self.const("first", np.int64(0))], axis=2),
                                   self.ints(-1, H)]), x

    def twice(self, q, axis):
        """The only query of the last layer, as two equal ones.

        A product with one row goes through a kernel of its own, which sums in groups of four: its last bits then depend
        on how far the text was padded, that is, on its neighbours. From two rows on they do not.
        """
        return self.op("Concat", [q, q], axis=axis)

    def attend(self, x, i, first_only):
        """Self-attention of layer i: (its output before the output matrix, the rows of x that go on)."""
        if self.packed and self.plan.precision != "fp16":
            return self.attend_packed(x, i, first_only)
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
            a = self.attention(self.twice(self.op("Unsqueeze", [q, self.ints(1)]), 1), k, v)
            return self.op("Gather", [a, self.const("first", np.int64(0))], axis=1), x
        return self.op("Gather", [self.attention(self.twice(q, 1), k, v), self.ints(0)], axis=1), x

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
            inputs = [tensor("input_ids", i64, ["tokens"]), tensor("position_ids", i64, ["tokens"]),
                      tensor("pad_idx", i64, ["texts", "longest"]),
                      tensor("unpad_idx", i64, ["tokens"]), tensor("lengths", TensorProto.INT32, ["texts"])]
            if self.task != TOKEN:
                inputs.insert(4, tensor("cls_idx", i64, ["texts"]))
        else:
            inputs = [tensor("input_ids", i64, ["texts", "longest"]), tensor("attention_mask", i64,
                    ["texts", "longest"])]
        if self.e.types is not None:
            inputs.insert(1, tensor("token_type_ids", i64, ["tokens"] if self.packed else ["texts", "longest"]))
        rows = (["tokens"] if self.packed else ["texts", "longest"]) if self.task == TOKEN else ["texts"]
        outputs = [tensor("logits", TensorProto.FLOAT, rows + [self.labels])]
        for name, x in self.watched.items():
            self.op("Identity", [x], ["watch:" + name])
            outputs.append(tensor("watch:" + name, TensorProto.FLOAT, None))
        graph = helper.make_graph(self.nodes, "sluice", inputs, outputs, list(self.constants.values()))
        domains = [helper.make_opsetid("", OPSET)] + ([] if self.standard else [helper.make_opsetid(CONTRIB, 1)])
        return helper.make_model(graph, opset_imports=domains,
                                 ir_version=IR_VERSION, producer_name="sluice export_model.py")
