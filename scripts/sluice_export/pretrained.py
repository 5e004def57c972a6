"""The tokenizer of a checkpoint folder: the one that transformers builds, written as one tokenizer.json.

There the class that tokenizer_config.json names, its arguments and their defaults decide about case, accents, prefix
spaces, offsets, special tokens and the side that is cut off; tokenizer.json alone is not the last word. So transformers
itself builds it here (no torch is needed), and is the witness of what the worker will read: see Pretrained.ids.
"""
import json
import os
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from .errors import ExportError
from .row import Row

# What a tokenizer is made of, in folders of Hugging Face.
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
         "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
SENTENCEPIECE = FILES[-4:]
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
USUAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"}

# What a tokenizer may stumble on: case, accents, blanks, scripts, control characters, long words.
HARD = ["", " ", "  lead and  trail  ", "Zo\u00eb THE Words",
        "na\u00efve nai\u0308ve \u0130stanbul \u00df \u1e9e \ufb01",
        "\u4e2d\u6587 and \u6771\u4eac", "tabs\tand\nlines\r\n\u00a0\u2003\u3000end", "\u2581 under \u2581score",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f600", "don't they've $1,234.56 e-mail @you #tag",
        "a" * 120, "zero\u200bwidth soft\u00adhyphen \ufeffmark",
        "\u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639"]


@dataclass
class Pretrained:
    """One tokenizer, twice: transformers' own, and the tokenizers library's of what will be written."""
    witness: object             # transformers' tokenizer
    tokenizer: Tokenizer        # of definition
    definition: str             # tokenizer.json as it will be written: padding and truncation off
    max_tokens: int             # model_max_length; 0: no limit
    side: str                   # truncation_side: "right" or "left"
    find: bool                  # special tokens in a text are the model's
    named: set                  # bos_token, cls_token and so on
    manifest: dict = field(default_factory=dict)    # what tokenizer.json cannot say
    warnings: list = field(default_factory=list)

    @property
    def types(self):
        """Whether transformers gives the model token types."""
        return "token_type_ids" in self.witness.model_input_names

    def check_pairs(self, pairs):
        """The same for pairs of texts: ids and, where the model is given them, token types."""
        for pair in pairs:
            ours, theirs = self.encode(pair), self.row(pair)
            if ours.ids != list(theirs) or self.types and ours.type_ids != theirs.types:
                raise ExportError(f"the tokenizer that would be written reads the pair {str(pair)[:40]} otherwise than "
                                  f"transformers' {type(self.witness).__name__}; nothing was written. This is a fault "
                                  f"of the exporter: please report it", code=1)

    def cut(self, max_tokens):
        """Texts are cut to so many tokens from now on."""
        self.tokenizer.enable_truncation(max_tokens, direction=self.side)
        self.max_tokens = max_tokens

    def encode(self, text):
        """The tokenizers library's Encoding of a text, or of a pair of texts."""
        return self.tokenizer.encode(*text) if isinstance(text, tuple) else self.tokenizer.encode(text)

    def row(self, text):
        """A text, or a pair of texts, as transformers reads it; token types where the model is given them."""
        pair = isinstance(text, tuple)
        e = self.witness(*(text if pair else (text,)), truncation=True, max_length=self.max_tokens,
                         split_special_tokens=not self.find, return_token_type_ids=True)
        return Row(e["input_ids"], e["token_type_ids"] if pair and self.types else None)

    def check(self, texts):
        """Refuses what is to be written where transformers makes other ids or offsets of texts."""
        for text in [*texts, *HARD]:
            try:
                ours = self.tokenizer.encode(text)
                theirs = self.witness(text, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True,
                                      split_special_tokens=not self.find)
            except Exception as e:      # such as a vocabulary that lacks the unknown token
                raise ExportError(f"the tokenizer cannot read {text[:40]!r}: {e}; correct tokenizer_config.json, or "
                                  f"save the tokenizer again with tokenizer.save_pretrained(FOLDER)") from None
            if ours.ids != theirs["input_ids"] or ours.offsets != [tuple(o) for o in theirs["offset_mapping"]]:
                raise ExportError(f"the tokenizer that would be written reads {text[:40]!r} otherwise than "
                                  f"transformers' {type(self.witness).__name__}; nothing was written. This is a fault "
                                  f"of the exporter: please report it", code=1)


def read(folder, special_tokens=None):
    """The Pretrained of a folder. special_tokens: "model", "text", or None where nobody has decided."""
    t = _auto(folder)
    spec = json.loads(t.backend_tokenizer.to_str())
    spec["padding"] = spec["truncation"] = None
    definition = json.dumps(spec, ensure_ascii=False)
    tokenizer = Tokenizer.from_str(definition)
    find = special_tokens == "model" and not t.split_special_tokens
    tokenizer.encode_special_tokens = not find
    longest = t.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or longest != longest:
        raise ExportError(f"{folder / 'tokenizer_config.json'}: model_max_length is {json.dumps(longest)}, not a "
                          f"number of tokens; correct it or take it out")
    named = {str(v) for k in NAMES if (v := getattr(t, k, None)) is not None}
    out = Pretrained(witness=t, tokenizer=tokenizer, definition=definition, side=t.truncation_side, find=find,
                     named=named,
                     max_tokens=int(longest) if 0 < longest < 1e6 else 0)     # "no limit" is written as 1e30
    if t.truncation_side != "right":
        out.manifest["truncation_side"] = t.truncation_side
    if special_tokens:
        out.manifest["special_tokens"] = special_tokens
    if (t.unk_token or "") != _unknown(spec):
        out.manifest["unknown_token"] = t.unk_token or ""
    own = _own(t, out.named)
    if own:
        out.manifest["own_special_tokens"] = own
    if own and special_tokens is None:
        out.warnings.append(f"the tokenizer has special tokens of its own ({', '.join(own[:5])}"
                            f"{', ...' if len(own) > 5 else ''}), which the worker reads as text where they stand in "
                            f"one; give --special-tokens model where the model was trained with them in its texts, or "
                            f"--special-tokens text")
    if said := _overruled(folder, spec):
        out.warnings.append(said)
    if special_tokens == "model" and t.split_special_tokens:
        out.warnings.append("tokenizer_config.json says split_special_tokens: special tokens in a text are text for "
                            "transformers, too, and --special-tokens model changes nothing")
    return out


def _overruled(folder, spec):
    """What to say where the class's default, which no file names, goes before tokenizer.json; None: nothing."""
    def load(name):
        path = folder / name
        return json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}

    theirs, told = load("tokenizer.json"), load("tokenizer_config.json")
    for part, key, name in (("normalizer", "lowercase", "do_lower_case"),
                            ("pre_tokenizer", "add_prefix_space", "add_prefix_space")):
        file, built = ((d.get(part) or {}).get(key) for d in (theirs, spec))
        if name not in told and isinstance(file, bool) and isinstance(built, bool) and file != built:
            return (f"tokenizer.json says {key}: {json.dumps(file)}, and the class's default {json.dumps(built)} goes "
                    f"before it, as in transformers; if the model was trained otherwise, write \"{name}\": "
                    f"{json.dumps(file)} into tokenizer_config.json")
    return None


def _auto(folder):
    """transformers' AutoTokenizer of a folder; its log and the network stay out of it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        import transformers
    except ImportError:
        raise ExportError("transformers, which builds the tokenizer, is not installed: pip install -r "
                          "scripts/requirements.txt (torch is not needed)") from None
    present = [n for n in FILES if (folder / n).is_file()]
    if not set(present) & {"tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE}:
        raise ExportError(f"{folder} holds no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a "
                          f"SentencePiece model); make it: "
                          "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)")
    try:
        t = transformers.AutoTokenizer.from_pretrained(str(folder), config=_config(folder, transformers),
                                                       local_files_only=True, trust_remote_code=False)
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ExportError(f"{folder}: transformers cannot build its tokenizer of {', '.join(present)}: {reason}"
                          f"{_remedy(present)}") from None
    if not hasattr(t, "backend_tokenizer"):
        raise ExportError(f"{folder}: {type(t).__name__} is written in Python and has no fast tokenizer, and the "
                          f"worker runs no Python; only models with a fast tokenizer are exported")
    return t


def _config(folder, transformers):
    """What AutoTokenizer asks config.json for, and no more: its other keys, whatever they hold, are for others."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    known = transformers.CONFIG_MAPPING
    kind = raw.get("model_type") or ""
    config = known[kind]() if kind in known else transformers.PreTrainedConfig()
    if not kind or kind not in known:
        config.model_type = kind
    config.tokenizer_class = raw.get("tokenizer_class")
    return config


def _remedy(present):
    if set(present) & set(SENTENCEPIECE) and "tokenizer.json" not in present:
        return "; a SentencePiece model is converted by the packages sentencepiece and protobuf: are they installed?"
    return "; save it again with tokenizer.save_pretrained(FOLDER)"


def _unknown(spec):
    """The unknown token of a definition's own vocabulary."""
    model = spec["model"]
    if model.get("unk_token") is not None:
        return model["unk_token"]
    return model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else ""


def _own(t, named):
    """Special tokens that were added for this model, so that texts may hold them."""
    added = t.backend_tokenizer.get_added_tokens_decoder().values()
    return [a.content for a in added if a.special and a.content not in named | USUAL
            and not a.content.endswith("NOTUSED") and not a.content.startswith(("[unused", "<unused"))]
