"""A Hugging Face checkpoint folder: configuration, tensors and tokenizer, read and checked without torch.

`read` returns a Source; `encoder` turns its tensors into the one shape that graph.py builds from, whatever the
architecture calls them. Every complaint is an ExportError that says what to do.
"""
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors

from . import pretrained
from . import config as configs
from .config import FAMILIES, ROBERTA, load as _json
from .errors import ExportError

TEXT, TOKEN = "text-classification", "token-classification"

HEADS = {"ForSequenceClassification": TEXT, "ForTokenClassification": TOKEN}

# tensor names below "<prefix>encoder.layer.<i>." (BERT and its relatives) or "distilbert.transformer.layer.<i>."
BERT_LAYER = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
              "o": "attention.output.dense",
              "ln1": "attention.output.LayerNorm", "f1": "intermediate.dense", "f2": "output.dense",
              "ln2": "output.LayerNorm"}
DISTIL_LAYER = {"q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin", "o": "attention.out_lin",
                "ln1": "sa_layer_norm", "f1": "ffn.lin1", "f2": "ffn.lin2", "ln2": "output_layer_norm"}

# config's hidden_act -> the graph's activation; anything else is refused rather than guessed
ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "gelu_fast": "gelu_tanh", "relu": "relu", "tanh": "tanh"}


@dataclass
class Source:
    """One checkpoint. tensors are float32 numpy arrays under Hugging Face's names."""
    folder: Path
    config: dict            # config.json with transformers' defaults (config.py)
    task: str
    architecture: str
    labels: list            # label names, index = row of the logits
    multi_label: bool       # each label is right or wrong by itself; also where there is one, as in transformers
    pretrained: pretrained.Pretrained   # the tokenizer, as transformers builds it and as it will be written
    max_tokens: int         # special tokens included
    pad_token_id: int
    files: dict             # name -> sha256 of what was read
    license: str
    given: frozenset        # the keys that config.json gives itself
    pairs: bool             # rows are of two texts
    tensors: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)

    @property
    def tokenizer(self):
        """The tokenizer as the worker will have it: no padding."""
        return self.pretrained.tokenizer

    @property
    def regression(self):
        """True where logits are values themselves: no label is right or wrong."""
        return self.config.get("problem_type") == "regression"

    @property
    def direct(self):
        """True where graph.py builds the graph itself; False: optimum has to."""
        return family(self.config, self.architecture) is not None


@dataclass
class Encoder:
    """The tensors of an encoder with its head. Matrices are [out, in], as torch.nn.Linear keeps them."""
    width: int
    heads: int
    eps: float
    activation: str
    word: np.ndarray            # [vocabulary, embedding width]
    position: np.ndarray        # [positions, embedding width]; RoBERTa's offset folded in, and type 0 without types
    norm: tuple                 # (gain, bias) after the sum of embeddings
    project: tuple              # ELECTRA's embeddings_project, or None
    layers: list                # dicts q k v o ln1 f1 f2 ln2 -> (weight, bias)
    head: list                  # [(weight, bias, activation or None), ...]
    types: object = None        # [token types, embedding width]; None: all tokens are of type 0


def family(config, architecture):
    """(model_type, tensor prefix, task) of an architecture that is built directly, or None.

    model_type decides, as in transformers; the class may be that of a relative whose tensors have the same names, such
    as RobertaForSequenceClassification in a folder of XLM-RoBERTa.
    """
    kind = config.get("model_type")
    if kind in FAMILIES:
        for suffix, task in HEADS.items():
            if any(architecture == name + suffix for p, name in FAMILIES.values() if p == FAMILIES[kind][0]):
                return kind, FAMILIES[kind][0], task
    return None


def sha256(path):
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def locate(source, revision):
    """The folder that SOURCE means: a local one, or the snapshot of a hub id at a revision."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise ExportError(f"{source} is a file; SOURCE must be a Hugging Face folder (config.json, model.safetensors, "
                          f"tokenizer.json) or a hub id owner/name")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise ExportError(f"{source}: no such folder, and not a hub id (owner/name); give the path of a Hugging "
                          f"Face folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ExportError(f"{source} is neither a local folder nor can a hub id be fetched here; install the client: "
                          f"pip install huggingface_hub, or download the folder yourself") from None
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=["*.json", "*.safetensors",
                "README.md", *pretrained.FILES]))
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ExportError(f"{source}: no such local folder, and the hub did not deliver it ({reason}); check the name, "
                          f"--revision and the network") from e


def read(source, revision=None, max_tokens=None, special_tokens=None, pairs=False):
    """Reads and checks a checkpoint; the tensors only for architectures that are built directly. special_tokens is what
    they are in a text: "model" or "text"; None: text, and nobody has decided it. pairs: rows are of two texts.
    """
    folder = locate(source, revision)
    config, given = configs.read(folder / "config.json")
    architecture = config["architectures"][0]
    task = next((t for suffix, t in HEADS.items() if architecture.endswith(suffix)), None)
    if task is None:
        raise ExportError(f"{folder / 'config.json'}: {architecture} has no sequence- or token-classification head, so "
                          f"it gives no verdicts; fine-tune it as ...ForSequenceClassification or "
                          f"...ForTokenClassification first")
    known = family(config, architecture)
    theirs = configs.kind_of(architecture)
    if not known and theirs:
        raise ExportError(f"{folder / 'config.json'}: model_type is {configs.shown(config['model_type'])}, but "
                          f"{architecture} is of model_type \"{theirs}\"; correct the one that is wrong")

    tokenizer = pretrained.read(folder, special_tokens)
    files = {n: sha256(folder / n) for n in ("config.json", *pretrained.FILES) if (folder / n).is_file()}
    tensors = {}
    if known:
        for name in _weight_files(folder):
            files[name] = sha256(folder / name)
            tensors.update(_tensors(folder / name))
    labels = configs.labels(folder / "config.json", config)
    s = Source(folder=folder, config=config, task=task, architecture=architecture, labels=labels,
               multi_label=_independent(config.get("problem_type"), task, labels), pretrained=tokenizer,
               max_tokens=0, pad_token_id=config.get("pad_token_id", 0), files=files, license=_license(folder),
               given=given, pairs=pairs, tensors=tensors)
    if pairs and task == TOKEN:
        raise ExportError(f"--pairs goes with sequence classification, not with {architecture}; leave it out")
    if task == TOKEN and (s.multi_label or s.regression):
        raise ExportError(f"{folder / 'config.json'}: problem_type {config['problem_type']} goes with sequence "
                          f"classification, not with {architecture}")
    if config.get("problem_type") == "single_label_classification" and len(s.labels) == 1:
        raise ExportError(f"{folder / 'config.json'}: problem_type single_label_classification needs two labels or "
                          f"more, and there is one; use regression for a model with one output that is a value, or "
                          f"take the key out for one that is a probability")
    if known:
        _check(s, known)
    s.max_tokens = _max_tokens(s, max_tokens)
    s.warnings += tokenizer.warnings
    tokenizer.cut(s.max_tokens)
    return s


def _independent(problem, task, labels):
    """Whether every label is right or wrong by itself: so is the only one of a model, unless it is a value."""
    return problem == "multi_label_classification" or task == TEXT and len(labels) == 1 and problem != "regression"


def encoder(s):
    """The Encoder of a Source whose architecture is built directly."""
    kind, prefix, task = family(s.config, s.architecture)
    c, w = s.config, _Named(s)
    distil = kind == "distilbert"
    e = prefix + "embeddings."
    position = w[e + "position_embeddings.weight"]
    if kind in ROBERTA:
        position = position[s.pad_token_id + 1:]      # RoBERTa counts positions from padding_idx + 1
    types = None if distil else w[e + "token_type_embeddings.weight"]
    if types is not None and not (s.pairs and s.pretrained.types and len(types) > 1):
        position, types = position + types[0], None
    if c.get("use_task_id"):
        position = position + w[e + "task_type_embeddings.weight"][0]
    names = DISTIL_LAYER if distil else BERT_LAYER
    below = prefix + ("transformer.layer.%d." if distil else "encoder.layer.%d.")
    layers = [{k: w.pair(below % i + n) for k, n in names.items()}
              for i in range(c["n_layers" if distil else "num_hidden_layers"])]

    if task == TOKEN:
        head = [(*w.pair("classifier"), None)]
    elif kind in ("bert", "ernie"):
        head = [(*w.pair(prefix + "pooler.dense"), "tanh"), (*w.pair("classifier"), None)]
    elif distil:
        head = [(*w.pair("pre_classifier"), "relu"), (*w.pair("classifier"), None)]
    else:
        head = [(*w.pair("classifier.dense"), "gelu" if kind == "electra" else "tanh"),
                (*w.pair("classifier.out_proj"), None)]
    project = None
    if kind == "electra" and w[e + "word_embeddings.weight"].shape[1] != c["hidden_size"]:
        project = w.pair("electra.embeddings_project")
    return Encoder(width=c["dim" if distil else "hidden_size"], heads=c["n_heads" if distil else "num_attention_heads"],
                   eps=1e-12 if distil else c["layer_norm_eps"],
                   activation=ACTIVATIONS[c["activation" if distil else "hidden_act"]],
                   word=w[e + "word_embeddings.weight"], position=position, types=types,
                   norm=w.pair(e + "LayerNorm"),
                   project=project, layers=layers, head=head)


class _Named:
    """Tensors by name, with a message instead of a KeyError."""

    def __init__(self, s):
        self.s = s

    def __getitem__(self, name):
        try:
            return self.s.tensors[name]
        except KeyError:
            raise ExportError(f"{self.s.folder}: the weights lack {name}, which {self.s.architecture} needs; was the "
                              f"folder saved from that class? "
                              "(AutoModel.save_pretrained drops the head: save the ...ForSequenceClassification or "
                              "...ForTokenClassification model)") from None

    def pair(self, name):
        return self[name + ".weight"], self[name + ".bias"]


def _weight_files(folder):
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weights = _json(index, "").get("weight_map", {})
        values = list(weights.values()) if isinstance(weights, dict) else [weights]
        if wrong := [n for n in values if not isinstance(n, str) or Path(n).name != n
                     or not n.endswith(".safetensors")]:
            raise ExportError(f"{index} names weight files that are not safetensors files beside it: "
                              f"{', '.join(map(repr, wrong[:5]))}; download the model from its source again")
        names = sorted(set(values))
        missing = [n for n in names if not (folder / n).is_file()]
        if missing or not names:
            raise ExportError(f"{index} names weight files that are missing: {', '.join(missing) or 'none listed'}; "
                              f"download the whole folder again")
        return names
    if (folder / "pytorch_model.bin").is_file():
        raise ExportError(f"{folder} holds pytorch_model.bin (a pickle) but no model.safetensors; convert it where "
                          f"transformers is installed: "
                          "AutoModelFor...Classification.from_pretrained(FOLDER).save_pretrained(FOLDER)")
    raise ExportError(f"{folder / 'model.safetensors'} is missing; save the model with model.save_pretrained(FOLDER) "
                      f"(transformers writes safetensors)")


def _tensors(path):
    """name -> float32 array. bf16 has no numpy type: its bits are the upper half of a float32's."""
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as e:
        raise ExportError(f"{path} is not a whole safetensors file ({e}); download or save it again") from None
    out = {}
    for name, entry in entries:
        raw, kind = entry["data"], entry["dtype"]
        if kind in ("F32", "F16", "F64"):
            a = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[kind]).astype(np.float32)
        elif kind == "BF16":
            a = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in ("I64", "I32", "BOOL", "U8"):
            continue                                    # buffers such as position_ids; no weight has these types
        else:
            raise ExportError(f"{path}: tensor {name} has type {kind}; only fp32, fp16 and bf16 weights are read. Save "
                              f"it with model.float().save_pretrained(FOLDER)")
        # the first BERT checkpoints called a norm's weight and bias gamma and beta
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        out[name] = a.reshape(entry["shape"])
    return out




def _license(folder):
    """The licence in the README's front matter, or ""."""
    readme = folder / "README.md"
    if readme.is_file():
        m = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.S)
        if m and (m := re.search(r"^license:\s*(\S.*)$", m.group(1), re.M)):
            return m.group(1).strip().strip("'\"")
    return ""


def _check(s, known):
    kind = known[0]
    c, path = s.config, s.folder / "config.json"
    act = c["activation" if kind == "distilbert" else "hidden_act"]
    if act not in ACTIVATIONS:
        raise ExportError(f"{path}: activation {act!r} is not built directly (known: {', '.join(ACTIVATIONS)})")
    if c["position_embedding_type"] != "absolute":
        raise ExportError(f"{path}: position_embedding_type {c['position_embedding_type']!r} is not built directly; "
                          f"only absolute positions are")
    if c.get("is_decoder") or c.get("add_cross_attention"):
        raise ExportError(f"{path}: is_decoder or add_cross_attention is set; only encoders are exported")
    if c.get("pruned_heads"):
        raise ExportError(f"{path}: pruned_heads is set; layers of unlike head counts are not built directly")
    _check_shapes(s, known)

    e = encoder(s)
    if e.width % e.heads:
        key = _key(s, "num_attention_heads")
        raise ExportError(f"{path}: width {e.width} is not a multiple of {e.heads} attention heads; correct {key} "
                          f"({e.heads}{_default(s, key)})")
    if len(e.position) < 3:
        raise ExportError(f"{path}: the position table leaves {len(e.position)} positions behind pad_token_id "
                          f"{s.pad_token_id}; a row holds two special tokens and at least one of the text, so "
                          f"correct pad_token_id")
    if s.pad_token_id >= len(e.word):
        raise ExportError(f"{path}: pad_token_id is {s.pad_token_id}, but the word embedding has {len(e.word)} rows; "
                          f"give the id of the tokenizer's padding token")

    vocabulary = s.tokenizer.get_vocab(with_added_tokens=True)
    size = e.word.shape[0]
    # A class adds the tokens that it has by default, such as [MASK], where the vocabulary lacks them. No text makes
    # them.
    vocabulary = {t: i for t, i in vocabulary.items() if i < size or t not in s.pretrained.named
                  and not t.endswith("NOTUSED")}
    top = max(vocabulary.values()) + 1
    if top > size:
        raise ExportError(f"{s.folder}: the tokenizer (tokenizer.json) makes token ids up to {top - 1}, but the word "
                          f"embedding has {size} rows; tokenizer and weights belong to different models")
    if top < size:
        s.warnings.append(f"the tokenizer uses {top} of the {size} rows of the word embedding; harmless where the "
                          f"embedding was padded, wrong where the tokenizer is another model's")
    pads = [t for t in ("[PAD]", "<pad>") if t in vocabulary]
    if pads and "pad_token_id" in s.given and vocabulary[pads[0]] != s.pad_token_id:
        raise ExportError(f"{path}: pad_token_id is {s.pad_token_id} but the tokenizer gives {pads[0]} the id "
                          f"{vocabulary[pads[0]]}; tokenizer and weights belong to different models")


def _check_shapes(s, known):
    """Holds every tensor that is read against the sizes that config.json gives, as transformers does when it loads."""
    kind, prefix, task = known
    c, path, e = s.config, s.folder / "config.json", prefix + "embeddings."
    distil = kind == "distilbert"
    width, inner = _key(s, "hidden_size"), "hidden_dim" if distil else "intermediate_size"
    first = "embedding_size" if kind == "electra" else width
    layers = _key(s, "num_hidden_layers")
    below = prefix + ("transformer.layer.%d." if distil else "encoder.layer.%d.")
    held = next(i for i in range(len(s.tensors) + 1) if below % i + (DISTIL_LAYER if distil else BERT_LAYER)["q"] +
                ".weight" not in s.tensors)
    if 0 < held < c[layers]:
        raise ExportError(f"{path}: {layers} is {c[layers]}{_default(s, layers)}, but the weights hold {held} layers; "
                          f"write how many the model has")

    sizes = {e + "word_embeddings": ("vocab_size", first), e + "position_embeddings": ("max_position_embeddings",
             first), e + "LayerNorm": (first,)}
    if not distil:
        sizes[e + "token_type_embeddings"] = ("type_vocab_size", first)
    if c.get("use_task_id"):
        sizes[e + "task_type_embeddings"] = ("task_type_vocab_size", first)
    if kind == "electra":
        sizes["electra.embeddings_project"] = (width, first)
    for i in range(min(held, c[layers])):
        for part, name in (DISTIL_LAYER if distil else BERT_LAYER).items():
            sizes[below % i + name] = {"f1": (inner, width), "f2": (width, inner), "ln1": (width,),
                                       "ln2": (width,)}.get(part, (width, width))
    for name in ("pre_classifier", "classifier.dense", prefix + "pooler.dense"):
        sizes[name] = (width, width)
    for name in ("classifier", "classifier.out_proj"):
        sizes[name] = ("labels", width)

    rows = next((s.tensors[n + ".weight"].shape[0] for n in ("classifier", "classifier.out_proj")
                 if n + ".weight" in s.tensors), None)
    if rows is not None and rows != len(s.labels):
        raise ExportError(f"{path}: {len(s.labels)} labels in id2label but the classifier gives {rows} logits; make "
                          f"id2label name each of the {rows} outputs")
    known_sizes, told_by = dict(c), {}
    for name, keys in sizes.items():
        for tensor, want in ((name + ".weight", keys), (name + ".bias", keys[:1])):
            if tensor not in s.tensors or tensor.endswith("embeddings.bias"):
                continue                                    # where it is needed, encoder says that it is missing
            shape = s.tensors[tensor].shape
            if len(shape) != len(want):
                raise ExportError(f"{s.folder}: {tensor} has shape {shape}, which {s.architecture} cannot have; "
                                  f"download the weights again")
            for have, key in zip(shape, want):
                size = len(s.labels) if key == "labels" else known_sizes.setdefault(key, have)
                told_by.setdefault(key, tensor)
                if have != size:
                    source = f"{_default(s, key)}" if key in c else f", as {told_by[key]} has it"
                    what = "width" if key == width else key
                    raise ExportError(f"{path}: {what} {size}{source} does not go with {tensor}, which has shape "
                                      f"{shape}; config.json and weights belong to different models")


def _key(s, name):
    """What DistilBERT calls a key of the others."""
    return configs.DISTIL_NAMES[name] if s.config["model_type"] == "distilbert" else name


def _default(s, key):
    """Says of a key's value that it is transformers' default, where it is."""
    theirs = next((k for k, v in configs.DISTIL_NAMES.items() if v == key), key)
    return "" if key in s.given or theirs in s.given else " (transformers' default: config.json does not give it)"


def _max_tokens(s, asked):
    limit = s.config.get("max_position_embeddings") or 512
    if s.tensors:
        limit = encoder(s).position.shape[0]
    told = s.pretrained.max_tokens
    own = min(limit, told) if told else limit
    special = s.pretrained.witness.num_special_tokens_to_add(pair=s.pairs)
    least = special + (2 if s.pairs else 1)
    if asked is None:
        if own < least:
            raise ExportError(f"{s.folder}: rows of {own} tokens (model_max_length, or the model's positions) have no "
                              f"room for text beside {special} special tokens; at least {least} are needed")
        return own
    if asked > limit:
        raise ExportError(f"--max-tokens {asked}: the model has {limit} positions; give at most {limit}")
    if asked < least:
        raise ExportError(f"--max-tokens {asked}: a row holds {special} special tokens and at least one of each text; "
                          f"give {least} or more")
    return asked
