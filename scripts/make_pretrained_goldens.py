#!/usr/bin/env python3
"""Makes tokenize/pretrained/pretrainedtest/goldens.json.gz and tokenize/pretrained/classes.json with transformers.

    .venv/bin/python scripts/make_pretrained_goldens.py           # writes both
    .venv/bin/python scripts/make_pretrained_goldens.py --check   # makes them anew and compares; exit status 1: other

A golden case is a model folder (the few files a tokenizer is made of) and what AutoTokenizer makes of it: ids, offsets
in bytes, the side that is cut off, the longest row, and the definition that its backend writes, vocabulary left out.
Cases are generated: every argument of every class that the worker builds, and of their base class, with every value
of its sort; every class name with every model type; every part of tokenizer.json that the class may overrule; and the
files beside it. Special tokens in a text are found, as transformers does.

classes.json tells which class AutoTokenizer takes for a name and for a model type, read out of transformers.
"""
import argparse
import copy
import functools
import gzip
import importlib
import inspect
import io
import json
import os
import pathlib
import re
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from transformers.models.auto import tokenization_auto as auto  # noqa: E402

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "tokenize" / "pretrained"
FAMILIES = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer",
            "camembert": "CamembertTokenizer"}
TEXTS = ["the two words", "Zoë THE  Words", "  lead and trail  ", "中文 London", "a[SEP]b </s> c<mask> d",
         "[E1]x @USER y", "naïve e\u0301", "ABC Unknown\u2581 \u2581x", "", "one two three four five six seven eight"]
PAIRS = [("the two words", "London"), ("", "two"), ("Zoë", ""), ("one two three four", "five six"),
         ("a", "[SEP] </s> b")]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]/<>@"


# --- tables of classes -----------------------------------------------------------------------------------------------

def family_of(cls):
    """Which of FAMILIES a class builds its tokenizer as; "backend": as tokenizer.json says; "other", "slow"."""
    if cls is transformers.TokenizersBackend:
        return "backend"
    for name, top in FAMILIES.items():
        top = getattr(transformers, top)
        if cls is top or (issubclass(cls, top) and arguments(cls) <= arguments(top)):
            return name
    if issubclass(cls, transformers.TokenizersBackend):
        return "backend" if "__init__" not in cls.__dict__ else "other"
    return "slow"


def arguments(cls):
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = inspect.signature(cls.__init__).parameters
    return {n for n, p in own.items() if p.kind in kinds and n != "self"}


def classes():
    """{"types": model type -> class name, "classes": class name -> family, "untrusted": model types whose folders name
    the wrong class}."""
    types = {k: v for k, v in sorted(auto.TOKENIZER_MAPPING_NAMES.items()) if v}
    names = {n for n in dir(transformers) if "Tokenizer" in n} | set(types.values())
    for source in pathlib.Path(transformers.__file__).parent.rglob("*.py"):     # old names live on as aliases
        names |= set(re.findall(r"\b[A-Z]\w*Tokenizer(?:Fast)?\b", source.read_text(encoding="utf-8")))
    names |= {n.removesuffix("Fast") for n in names} | {n.removesuffix("Fast") + "Fast" for n in names}
    table = {}
    for name in sorted(names):
        try:
            cls = auto.tokenizer_class_from_name(name)
        except Exception:       # of a package that is not here
            cls = None
        if inspect.isclass(cls) and issubclass(cls, transformers.PreTrainedTokenizerBase):
            table[name] = family_of(cls)
    for name in types.values():
        table.setdefault(name, "other")
    return {"transformers": transformers.__version__, "types": types, "classes": table,
            "unknown": sorted(set(types) - set(auto.CONFIG_MAPPING_NAMES)),
            "untrusted": sorted(auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS)}


# --- folders ---------------------------------------------------------------------------------------------------------

def base(family):
    """A small tokenizer.json of a family, as a dict, written as its class would."""
    if family == "roberta":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = ["<s>", "<pad>", "</s>", "<unk>"] + alphabet + ["th", "the", "Ġt", "Ġtw"] + ["<mask>"]
        t = tokenizers.Tokenizer(models.BPE({v: i for i, v in enumerate(vocabulary)},
                                            [("t", "h"), ("th", "e"), ("Ġ", "t"), ("Ġt", "w")]))
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
        t.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
        t.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    elif family in ("xlm-roberta", "camembert"):
        first = ["<s>", "<pad>", "</s>", "<unk>"] if family == "xlm-roberta" else [
            "<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
        pieces = first + ["▁", "▁the", "▁two", "two", "▁L", "words"] + list(LETTERS) + ["<mask>"]
        t = tokenizers.Tokenizer(models.Unigram([(p, -float(i % 7)) for i, p in enumerate(pieces)], 3, False))
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        t.decoder = decoders.Metaspace()
        begin, end = pieces.index("<s>"), pieces.index("</s>")
        t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                                         special_tokens=[("<s>", begin), ("</s>", end)])
        t.add_special_tokens([p for p in first])
        t.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    else:
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "two", "words", "The", "##e", "中"]
        pieces += list(LETTERS) + ["##" + c for c in LETTERS] + ["ë", "##ë", "##ï"]
        pieces = list(dict.fromkeys(pieces))
        t = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
        t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        t.decoder = decoders.WordPiece()
        t.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        t.add_special_tokens(pieces[:5])
    return json.loads(t.to_str())


def case(name, family, config=None, tokenizer_config=None, change=None, drop=(), **files):
    """A folder: name -> the object or text of a file. change edits the tokenizer.json; drop leaves files out."""
    spec = copy.deepcopy(base(family))
    if change:
        change(spec)
    folder = {"config.json": {"model_type": family} if config is None else config, "tokenizer.json": spec}
    if tokenizer_config is not None:
        folder["tokenizer_config.json"] = tokenizer_config
    folder |= {n.replace("__", "."): v for n, v in files.items()}
    return f"{family}: {name}", {n: v for n, v in folder.items() if n not in drop}


def setting(path, value):
    """An edit of tokenizer.json: the member at a dotted path becomes value."""
    def edit(spec):
        *above, last = path.split(".")
        for step in above:
            spec = spec[step]
        spec[last] = value
    return edit


def adding(*tokens):
    """An edit: added tokens at the end of the vocabulary."""
    def edit(spec):
        vocabulary = spec["model"]["vocab"]
        at = max([len(vocabulary)] + [t["id"] + 1 for t in spec["added_tokens"]])
        for i, t in enumerate(tokens):
            spec["added_tokens"].append({"id": at + i, "single_word": False, "lstrip": False, "rstrip": False,
                                         "normalized": False, "special": True} | t)
    return edit


def values(argument, default, family):
    """The values that an argument is tried with, by its sort."""
    bert = family == "bert"
    known = ["[CLS]", "[SEP]", "[MASK]", "the"] if bert else ["<s>", "</s>", "<mask>", "<unk>"]
    if argument.endswith("_token"):
        plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
        return known + ["[NEW]"] + [plain | {"__type": "AddedToken", "content": known[0], "lstrip": True},
                                    plain | {"__type": "AddedToken", "content": "[NEW]", "rstrip": True,
                                             "normalized": True},
                                    plain | {"content": known[1]}, None]
    if isinstance(default, bool) or argument in ("strip_accents", "add_prefix_space", "trim_offsets"):
        return [True, False, None]
    return {"errors": ["replace", "strict"], "additional_special_tokens": [["[E1]", "[/E1]"], [], None],
            }.get(argument, [])


BASE_ARGUMENTS = {
    "truncation_side": ["left", "right", None, "up"], "padding_side": ["left"],
    "model_max_length": [7, 512, 1e30, 1000000000000000019884624838656, None], "max_len": [7],
    "extra_special_tokens": [["[E1]", "[/E1]"], {"mark_token": "[E1]"}, [], {"z_token": "[Z]", "a_token": "[A]"},
                             {"sep_token": "[S2]"}],
    "z_token": ["[Z]"],
    "additional_special_tokens": [["[E1]", "[/E1]"], [{"__type": "AddedToken", "content": "[E1]", "lstrip": True,
                                                       "rstrip": True, "normalized": False, "single_word": False}]],
    "model_input_names": [["input_ids", "token_type_ids", "attention_mask"], ["input_ids", "attention_mask"]],
    "mark_token": ["[E1]"], "split_special_tokens": [True, False], "add_bos_token": [True, False],
    "add_eos_token": [True, False], "clean_up_tokenization_spaces": [True, False], "do_basic_tokenize": [False],
    "never_split": [["THE"]], "legacy": [True, False], "use_fast": [False], "sp_model_kwargs": [{}],
    "add_prefix_space": [True, False], "trim_offsets": [False], "do_lower_case": [True, False],
    "strip_accents": [True, False], "tokenize_chinese_chars": [False], "wordpieces_prefix": ["@@"],
    "vocab_file": ["elsewhere.txt"], "tokenizer_file": ["elsewhere.json"], "name_or_path": ["x/y"],
    "from_slow": [True], "max_length": [5], "stride": [2], "truncation_strategy": ["longest_first"],
    "added_tokens_decoder": [
        {}, {"0": {"content": "[PAD]", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
                   "special": True}},
        {"900": {"content": "@USER", "lstrip": False, "rstrip": False, "normalized": True, "single_word": True,
                 "special": False},
         "901": {"content": "[E1]", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False,
                 "special": True}}],
}

NORMALIZERS = [None, {"type": "Lowercase"}, {"type": "NFC"}, {"type": "Sequence", "normalizers": [
    {"type": "NFD"}, {"type": "StripAccents"}]}, {"type": "BertNormalizer", "clean_text": False,
    "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}]
PRE_TOKENIZERS = [{"type": "Whitespace"}, {"type": "BertPreTokenizer"}, {"type": "ByteLevel", "add_prefix_space": True,
                                                                        "trim_offsets": False, "use_regex": True},
                  {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}]


def cases():
    """name -> folder."""
    out = []
    types = {"bert": ["bert", "distilbert", "electra"], "roberta": ["roberta"], "xlm-roberta": ["xlm-roberta"],
             "camembert": ["camembert"]}
    names = ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast", "ElectraTokenizer",
             "ElectraTokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast", "XLMRobertaTokenizer",
             "XLMRobertaTokenizerFast", "CamembertTokenizer", "CamembertTokenizerFast", "PreTrainedTokenizerFast",
             "TokenizersBackend", "PreTrainedTokenizer", "NoSuchTokenizer", None]
    fitting = {"bert": names[:6], "roberta": names[6:8], "xlm-roberta": names[8:12], "camembert": names[8:12]}
    for family, kinds in types.items():
        cls = getattr(transformers, FAMILIES[family])
        for kind in kinds + ["unknown-type", None]:
            for name in fitting[family] + names[12:]:
                told = {"tokenizer_class": name} if name else {}
                config = {"model_type": kind} if kind else {}
                out.append(case(f"{name} of model type {kind}", family, config, told))
                out.append(case(f"{name} of model type {kind}, told by config.json", family, config | told))
        out.append(case("no tokenizer_config.json", family))
        for name in ("", None):
            out.append(case(f"class {json.dumps(name)}", family, {"model_type": kinds[0]}, {"tokenizer_class": name}))
        out.append(case("config.json names the model's class only", family,
                        {"architectures": ["BertForSequenceClassification"]}))
        for kind in ("nezha", "qdqbert", "mega", "no-such-type"):
            out.append(case(f"model type {kind} without a class", family, {"model_type": kind}))
            out.append(case(f"model type {kind} with a class", family, {"model_type": kind},
                            {"tokenizer_class": FAMILIES[family]}))
        for argument, parameter in inspect.signature(cls.__init__).parameters.items():
            for value in values(argument, parameter.default, family):
                out.append(case(f"{argument} {json.dumps(value)}", family, None,
                                {"tokenizer_class": FAMILIES[family], argument: value}))
        for argument, tried in BASE_ARGUMENTS.items():
            for value in tried:
                for name in (FAMILIES[family], "PreTrainedTokenizerFast"):
                    out.append(case(f"{name}, {argument} {json.dumps(value)}", family, None,
                                    {"tokenizer_class": name, argument: value}))
        marks = [{"content": "[E1]"}, {"content": "@USER", "special": False, "normalized": True, "single_word": True},
                 {"content": "THE", "special": False, "normalized": False}]
        for name in (FAMILIES[family], "PreTrainedTokenizerFast"):
            told = {"tokenizer_class": name}
            for value in NORMALIZERS:
                out.append(case(f"{name}, normalizer {json.dumps(value)}", family, None, told,
                                setting("normalizer", value)))
            for value in PRE_TOKENIZERS:
                out.append(case(f"{name}, pre_tokenizer {value['type']}", family, None, told,
                                setting("pre_tokenizer", value)))
            for value in (None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                 "use_regex": True}):
                out.append(case(f"{name}, post_processor {json.dumps(value)}", family, None, told,
                                setting("post_processor", value)))
                out.append(case(f"{name}, decoder {json.dumps(value)}", family, None, told, setting("decoder", value)))
            for side in ("Left", "Right"):
                out.append(case(f"{name}, truncation {side}", family, None, told, setting("truncation", {
                    "direction": side, "max_length": 5, "strategy": "LongestFirst", "stride": 0})))
                out.append(case(f"{name}, padding {side}", family, None, told, setting("padding", {
                    "strategy": {"Fixed": 20}, "direction": side, "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "x"})))
            out.append(case(f"{name}, added tokens", family, None, told, adding(*marks)))
            out.append(case(f"{name}, added tokens of two files", family, None, told | {
                "added_tokens_decoder": {"800": {"content": "@USER", "special": False, "normalized": False,
                                                 "lstrip": True, "rstrip": False, "single_word": False}}},
                adding(*marks)))
            out.append(case(f"{name}, no added tokens", family, None, told, setting("added_tokens", [])))
            out.append(case(f"{name}, broken files that nobody reads", family, None, told | {
                "added_tokens_decoder": BASE_ARGUMENTS["added_tokens_decoder"][1]},
                special_tokens_map__json="[", added_tokens__json="["))
            out.append(case(f"{name}, max_len behind a null", family, None, told | {
                "model_max_length": None, "max_len": 7}))
            if family == "bert":
                for key, value in (("max_input_chars_per_word", 2), ("continuing_subword_prefix", "@@"),
                                   ("unk_token", "[MASK]")):
                    out.append(case(f"{name}, model.{key}", family, None, told, setting("model." + key, value)))
            if family == "roberta":
                for key, value in (("dropout", 0.0), ("unk_token", "<unk>"), ("fuse_unk", True),
                                   ("byte_fallback", True),
                                   ("ignore_merges", True), ("end_of_word_suffix", "e")):
                    out.append(case(f"{name}, model.{key}", family, None, told, setting("model." + key, value)))
                out.append(case(f"{name}, merges as text", family, None, told,
                                setting("model.merges", ["t h", "th e"])))
            if family in ("xlm-roberta", "camembert"):
                for key, value in (("unk_id", 2), ("byte_fallback", True)):
                    out.append(case(f"{name}, model.{key}", family, None, told, setting("model." + key, value)))
            begin = "[CLS]" if family == "bert" else "<s>"
            for content in ({"cls_token": "[E1]", "bos_token": begin}, {"cls_token": {
                    "content": begin, "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}},
                    {"additional_special_tokens": ["[E1]"]}, {"unk_token": "the"},
                    {"extra_special_tokens": ["[E1]", {"content": "[E2]", "lstrip": True, "rstrip": False,
                                                       "normalized": False, "single_word": False}]},
                    {"extra_special_tokens": {"z_token": "[Z]", "a_token": "[A]"}}):
                if "extra_special_tokens" in content:
                    out.append(case(f"{name}, both files, {json.dumps(content)}", family, None,
                                    told | {"extra_special_tokens": ["[A]"]}, special_tokens_map__json=content))
                for decoder in ({}, {"added_tokens_decoder": BASE_ARGUMENTS["added_tokens_decoder"][1]}):
                    out.append(case(f"{name}, special_tokens_map.json {json.dumps(content)}, {len(decoder)}", family,
                                    None, told | decoder, special_tokens_map__json=content))
            size = max(base(family)["model"]["vocab"].values()) + 1 if family in ("bert", "roberta") else len(
                base(family)["model"]["vocab"])
            for content in ({"@USER": size, "[E1]": size + 1}, {"the": 5}):
                out.append(case(f"{name}, added_tokens.json {json.dumps(content)}", family, None, told | {
                    "additional_special_tokens": ["[E1]"]}, added_tokens__json=content))
    out += vocabularies()
    assert len(dict(out)) == len(out), "two cases of one name"
    return dict(out)


@functools.cache
def cases_once():
    return cases()


def vocabularies():
    """Folders without a tokenizer.json."""
    out = []
    pieces = sorted(base("bert")["model"]["vocab"].items(), key=lambda item: item[1])
    lines = [p for p, _ in pieces]
    model = base("roberta")["model"]
    merges = "#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n"
    for kind in ("bert", "distilbert", "electra"):
        for told in (None, {}, {"do_lower_case": False}, {"tokenizer_class": "BertTokenizer", "strip_accents": False}):
            out.append(case(f"vocab.txt, {kind}, {json.dumps(told)}", "bert", {"model_type": kind}, told,
                            drop=("tokenizer.json",), vocab__txt="\n".join(lines) + "\n"))
    for ending, text in (("no end of line", "\n".join(lines)), ("CRLF", "\r\n".join(lines) + "\r\n"),
                         ("blanks", "\n".join(p + " " for p in lines) + "\n"),
                         ("a line twice", "\n".join(lines + ["the"]) + "\n"),
                         ("empty lines", "\n".join(lines[:20] + ["", ""] + lines[20:]) + "\n")):
        out.append(case(f"vocab.txt, {ending}", "bert", None, None, drop=("tokenizer.json",), vocab__txt=text))
    out.append(case("vocab.txt and added_tokens.json", "bert", None, {"additional_special_tokens": ["[E1]"]},
                    drop=("tokenizer.json",), vocab__txt="\n".join(lines) + "\n",
                    added_tokens__json={"@USER": len(lines), "[E1]": len(lines) + 1}))
    out.append(case("vocab.txt and special_tokens_map.json", "bert", None, {}, drop=("tokenizer.json",),
                    vocab__txt="\n".join(lines) + "\n", special_tokens_map__json={"unk_token": "[MASK]"}))
    for told in (None, {"add_prefix_space": True}, {"tokenizer_class": "RobertaTokenizer", "trim_offsets": False}):
        out.append(case(f"vocab.json and merges.txt, {json.dumps(told)}", "roberta", None, told,
                        drop=("tokenizer.json",), vocab__json=model["vocab"], merges__txt=merges))
    for name, text in (("no version", merges.split("\n", 1)[1]), ("CRLF", merges.replace("\n", "\r\n")),
                       ("no end of line", merges.rstrip("\n"))):
        out.append(case(f"merges.txt, {name}", "roberta", None, None, drop=("tokenizer.json",),
                        vocab__json=model["vocab"], merges__txt=text))
    return out


# --- what AutoTokenizer makes of them --------------------------------------------------------------------------------

def made(folder):
    """What transformers makes of a folder: {"error"} or the golden's members."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in folder.items():
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (pathlib.Path(place) / name).write_text(text, encoding="utf-8", newline="")
        try:
            t = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
            if not isinstance(t, transformers.TokenizersBackend):
                return {"error": f"{type(t).__name__} is no fast tokenizer"}
            rows = []
            for text in TEXTS:
                e = t(text, return_offsets_mapping=True)
                bytes_at = [len(text[:i].encode()) for i in range(len(text) + 1)]
                rows.append([[i, bytes_at[a], bytes_at[b]] for i, (a, b) in zip(e["input_ids"], e["offset_mapping"])])
            longest = t.model_max_length
            cut = t(TEXTS[-1], truncation=True, max_length=5)["input_ids"]
            windows = t(TEXTS[-1], truncation=True, max_length=7, stride=2, return_overflowing_tokens=True)["input_ids"]
            pairs = [[_pair(t(a, b, return_token_type_ids=True)),
                      _pair(t(a, b, return_token_type_ids=True, truncation=True, max_length=9))]
                     for a, b in PAIRS if b]    # transformers takes an empty second text for none
            definition = json.loads(t.backend_tokenizer.to_str())
        except Exception as e:
            return {"error": f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"}
    definition["model"].pop("vocab")
    definition["model"].pop("merges", None)
    definition |= {"truncation": None, "padding": None}
    return {"class": type(t).__name__, "side": t.truncation_side, "longest": int(longest) if longest < 1e9 else 0,
            "split_special_tokens": bool(t.split_special_tokens), "unknown": t.unk_token or "",
            "types": "token_type_ids" in t.model_input_names, "rows": rows,
            "cut": cut, "windows": windows, "pairs": pairs,
            "definition": definition}


def _pair(encoding):
    return [encoding["input_ids"], encoding["token_type_ids"]]


def packed(value):
    """gzip of JSON, the same bytes for the same value."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=9) as f:
        f.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    return buffer.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments_ = parser.parse_args()
    all_cases = cases()
    goldens = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "texts": TEXTS,
               "pairs": [p for p in PAIRS if p[1]],
               "bases": {f: base(f) for f in FAMILIES},
               "cases": [{"name": n, "folder": shared(f), "made": made(f)} for n, f in all_cases.items()]}
    tables = json.dumps(classes(), indent=1, ensure_ascii=False) + "\n"
    failed = sum("error" in c["made"] for c in goldens["cases"])
    print(f"{len(all_cases)} cases, transformers refuses {failed} of them", file=sys.stderr)
    goldens_path, tables_path = PACKAGE / "pretrainedtest" / "goldens.json.gz", PACKAGE / "classes.json"
    if arguments_.check:
        old = json.loads(gzip.decompress(goldens_path.read_bytes()))
        if old != json.loads(json.dumps(goldens)) or tables_path.read_text(encoding="utf-8") != tables:
            sys.exit("the committed files are others: make them anew with scripts/make_pretrained_goldens.py")
        return
    goldens_path.write_bytes(packed(goldens))
    tables_path.write_text(tables, encoding="utf-8")


def shared(folder):
    """A folder whose tokenizer.json is told by its vocabulary's family: {"base": family} for model.vocab."""
    folder = copy.deepcopy(folder)
    if "tokenizer.json" in folder:
        vocabulary = folder["tokenizer.json"]["model"]["vocab"]
        folder["tokenizer.json"]["model"]["vocab"] = next(f for f in FAMILIES
                                                          if base(f)["model"]["vocab"] == vocabulary)
    return folder


if __name__ == "__main__":
    main()
