"""config.json, read as the configuration classes of transformers 5 read it.

A key that is missing or null has transformers' default, by model type. Anything else that is not of the key's kind is
one sentence: what it is, what belongs there. What only names a tensor's size (vocab_size and the like) has no default
here: the tensors tell it, and a value that contradicts them is refused, as transformers refuses it.
"""
import json
import math
import re

from .errors import ExportError

# model_type -> (prefix of the encoder's tensors, architecture name before "ForSequenceClassification").
# CamemBERT, XLM-RoBERTa and data2vec-text are RoBERTa under other names, ERNIE is BERT with a table more.
FAMILIES = {
    "bert": ("bert.", "Bert"),
    "camembert": ("roberta.", "Camembert"),
    "data2vec-text": ("data2vec_text.", "Data2VecText"),
    "distilbert": ("distilbert.", "DistilBert"),
    "electra": ("electra.", "Electra"),
    "ernie": ("ernie.", "Ernie"),
    "roberta": ("roberta.", "Roberta"),
    "xlm-roberta": ("roberta.", "XLMRoberta"),
}
ROBERTA = ("camembert", "data2vec-text", "roberta", "xlm-roberta")    # positions count from pad_token_id + 1

_BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu",
         "layer_norm_eps": 1e-12, "pad_token_id": 0, "is_decoder": False, "add_cross_attention": False}
DEFAULTS = {
    "bert": _BERT,
    "distilbert": {"dim": 768, "n_layers": 6, "n_heads": 12, "activation": "gelu", "pad_token_id": 0},
    "electra": _BERT | {"hidden_size": 256, "num_attention_heads": 4},
    "ernie": _BERT | {"use_task_id": False},
} | {kind: _BERT | {"pad_token_id": 1} for kind in ROBERTA}
# attribute_map of transformers' DistilBertConfig: what other models call it, which wins where both are given
DISTIL_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}

LARGEST = 2 ** 31 - 1       # of any number of elements: what ONNX and the worker hold
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")

_COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
           "max_position_embeddings", "type_vocab_size", "embedding_size", "dim", "n_layers", "n_heads", "hidden_dim",
           "task_type_vocab_size", "num_labels")
_FLAGS = ("is_decoder", "add_cross_attention", "use_task_id")
_NAMES = ("model_type", "hidden_act", "activation", "position_embedding_type", "problem_type")
KEYS = _COUNTS + _FLAGS + _NAMES + ("pad_token_id", "layer_norm_eps", "architectures", "id2label", "pruned_heads")


def load(path, remedy):
    """The object of a JSON file. A byte order mark before it is ignored."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ExportError(f"{path} is missing; {remedy}") from None
    except UnicodeDecodeError:
        raise ExportError(f"{path} is not UTF-8 text, which JSON must be; copy it again from the model, or convert it "
                          f"to UTF-8") from None
    except RecursionError:
        raise ExportError(f"{path} cannot be read as JSON: it is nested too deeply; copy it again from the "
                          f"model") from None
    except (ValueError, OSError) as e:
        raise ExportError(f"{path} cannot be read as JSON: {e}") from None
    if not isinstance(value, dict):
        raise ExportError(f"{path} must hold a JSON object, not {shown(value)}")
    return value


def read(path):
    """(config, given): the keys of KEYS, checked and with their defaults; and which of them the file gives.

    Keys without a value and without a default are not in config, nor are keys that nobody here reads.
    """
    raw = load(path, "save the model with model.save_pretrained(FOLDER)")
    given = {k: v for k, v in raw.items() if v is not None and k in KEYS}

    def wrong(key, what):
        raise ExportError(f"{path}: {key} is {shown(given[key])}; {what}")

    for key, value in given.items():
        if key in _COUNTS and not (_whole(value) and 1 <= value <= LARGEST):
            wrong(key, f"it must be a whole number from 1 to {LARGEST}, without quotes, as the model was trained with")
        elif key in _FLAGS and not isinstance(value, bool):
            wrong(key, "it must be true or false, without quotes")
        elif key in _NAMES and not isinstance(value, str):
            wrong(key, "it must be a name in quotes")
    if "pad_token_id" in given and not (_whole(given["pad_token_id"]) and 0 <= given["pad_token_id"] <= LARGEST):
        wrong("pad_token_id", "it must be the id of the tokenizer's padding token, a whole number from 0")
    if "layer_norm_eps" in given:
        eps = given["layer_norm_eps"]
        if not isinstance(eps, float) or not math.isfinite(eps) or not 0 < eps <= 1:
            wrong("layer_norm_eps", "it must be a small positive number, such as 1e-12 or 1e-05")
    if "problem_type" in given and given["problem_type"] not in PROBLEMS:
        wrong("problem_type", f"it must be one of {', '.join(PROBLEMS)}, or absent")
    if "pruned_heads" in given and not isinstance(given["pruned_heads"], dict):
        wrong("pruned_heads", "it must map layers to lists of heads, or be absent")
    names = given.get("architectures", [])
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ExportError(f"{path}: \"architectures\" must name one class, such as [\"BertForTokenClassification\"]; "
                          f"it holds {shown(names) if names else 'none'}")

    config = dict(given)
    kind = given.get("model_type") or kind_of(names[0])
    if kind:
        config["model_type"] = kind
    if kind == "distilbert":
        for theirs, ours in DISTIL_NAMES.items():
            if theirs in config:
                config[ours] = config.pop(theirs)
    config = DEFAULTS.get(kind, {}) | config
    if config.get("position_embedding_type", "absolute") == "absolute":
        config["position_embedding_type"] = "absolute"
    return config, frozenset(given)


def labels(path, config):
    """Label names by the row of the logits: id2label, else LABEL_0 and so on, two of them where num_labels is absent.
    """
    table = config.get("id2label")
    count = config.get("num_labels")
    if table is None:
        if (count or 2) > 1 << 20:
            raise ExportError(f"{path}: num_labels is {count}, which is no number of labels; give that of the model's "
                              f"outputs")
        return [f"LABEL_{i}" for i in range(count or 2)]
    if not isinstance(table, dict) or not all(re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", k) for k in table):
        raise ExportError(f"{path}: id2label is {shown(table)}; it must map numbers to names, as {{\"0\": "
                          f"\"NEGATIVE\"}}")
    ids = {int(k): _label(path, k, v) for k, v in table.items()}
    if not ids or sorted(ids) != list(range(len(table))):
        raise ExportError(f"{path}: id2label must number its labels from 0 on without gaps, each once; it has "
                          f"{shown(sorted(ids))}")
    if count is not None and count != len(ids):
        raise ExportError(f"{path}: num_labels is {count} but id2label names {len(ids)} labels; take num_labels out, "
                          f"or make id2label name every output")
    return [ids[i] for i in range(len(ids))]


def shown(value):
    """A value as an error shows it: as JSON writes it, and not more than a line of it."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "something nested too deeply"
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def kind_of(architecture):
    """The model type of a class that is built directly, by its name; or None."""
    for kind, (_, name) in FAMILIES.items():
        if re.fullmatch(name + "For[A-Z][A-Za-z]*", architecture):
            return kind
    return None


def _label(path, key, value):
    """A label's name. What is a number or a truth value is named as Python prints it, as transformers' users do."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int)) or isinstance(value, float) and math.isfinite(value):
        return str(value)
    raise ExportError(f"{path}: id2label[{json.dumps(key)}] is {shown(value)}; give the label's name in quotes")
