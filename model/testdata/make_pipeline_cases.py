"""Makes pipeline_cases.json.gz: what the post-processing of transformers' pipelines answers to made-up logits.

    python make_pipeline_cases.py        (needs transformers==5.23.0 and numpy; no torch, no model, no network)

The methods of TokenClassificationPipeline and TextClassificationPipeline run as they are, on tokenizers that are
trained here on made-up texts, and on logits drawn from a seed. So the Go code is compared with the reference on every
odd turn of the aggregation, without the noise of a model. Tokens, offsets (in bytes) and every call of
convert_tokens_to_string are recorded: the Go test needs no tokenizer.
"""

import gzip
import json
import random
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, __version__
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy, TokenClassificationPipeline

VERSION = "5.23.0"
STRATEGIES = ["none", "simple", "first", "average", "max"]
WORDS = """Ada Lovelace met Charles Babbage in London on Tuesday , and wrote to Zürich about Microsoft . New York-based
O'Neill & Sons ( founded 1999 ) paid $12.50 to Müller-Lüdenscheidt ; café crème naïve Łódź 東京 大阪市 привет мир 😀 👩‍💻 🇨🇭
e\u0301tude n\u0303 unbelievably misunderstanding #hashtag @user http://x.y/z …  — ﬁne Ⅷ ½ state-of-the-art U.S.A. can't""".split()
LABELS = {
    "bio": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC"],
    "plain": ["O", "PER", "LOC"],
    "odd": ["B-O", "PER-SON", "I-LOC", "B-", "X"],
}


def texts(rng, n):
    out = ["", " ", "a", "😀", "London", "LondonLondon", " London  ", "\tLondon\nZürich"]
    while len(out) < n:
        out.append("".join(rng.choice(["", " ", " ", " ", "  ", "\n"]) + rng.choice(WORDS)
                           for _ in range(rng.randint(1, 24))))
    return out


def wordpiece(corpus, lower):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lower)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    t.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, limit_alphabet=70,
                                                            show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2),
            ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
                                   sep_token="[SEP]")


def byte_bpe(corpus):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>", pad_token="<pad>", cls_token="<s>",
                                   sep_token="</s>")


class Recorder:
    """A tokenizer that remembers what it joined."""

    def __init__(self, tokenizer):
        self.tokenizer, self.joined = tokenizer, {}

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def convert_tokens_to_string(self, tokens):
        s = self.tokenizer.convert_tokens_to_string(tokens)
        self.joined["\0".join(tokens)] = s
        return s


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def entity_case(rng, tokenizer, text, labels, window):
    tokenizer = Recorder(tokenizer)
    pipe = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    pipe.tokenizer = tokenizer
    pipe.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(labels))))
    long = dict(truncation=True, max_length=window, stride=2, return_overflowing_tokens=True) if window else {}
    enc = tokenizer.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, **long)
    rows = range(len(enc["input_ids"])) if window else [None]
    pick = lambda key, row: enc[key] if row is None else enc[key][row]
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))

    windows, arrays = [], []
    for row in rows:
        ids, offsets, special = (pick(k, row) for k in ("input_ids", "offset_mapping", "special_tokens_mask"))
        logits = np.array([[rng.randint(-8, 8) / 2 for _ in labels] for _ in ids], np.float32)
        if rng.random() < 0.5:  # runs of one label, as a model makes them
            favourite = rng.randrange(len(labels))
            for r in logits:
                favourite = rng.randrange(len(labels)) if rng.random() < 0.3 else favourite
                r[favourite] += 6
        arrays.append((ids, offsets, special, logits))
        windows.append({"tokens": tokenizer.convert_ids_to_tokens(ids), "offsets": [[at[a], at[b]] for a, b in offsets],
                        "special": special, "logits": [float(x) for x in logits.reshape(-1)]})

    want = {}
    for name in STRATEGIES:
        if name == "none" and window:
            continue  # transformers refuses it
        strategy, found = AggregationStrategy(name), []
        for ids, offsets, special, logits in arrays:
            pre = pipe.gather_pre_entities(text, ids, softmax(logits), offsets, special, strategy)
            grouped = pipe.aggregate(pre, strategy)
            found += [e for e in grouped if e.get("entity") != "O" and e.get("entity_group") != "O"]
        if len(arrays) > 1:
            found = pipe.aggregate_overlapping_entities(found)
        want[name] = [{k: float(v) if k == "score" else v for k, v in e.items()} for e in found]
    return {"text": text, "labels": labels, "unknown": tokenizer.unk_token,
            "prefix": getattr(tokenizer._tokenizer.model, "continuing_subword_prefix", None) or "",
            "windows": windows, "joined": tokenizer.joined, "want": want}


class Tensor:
    """As much of a torch tensor as postprocess touches."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, i):
        return Tensor(self.array[i])

    def float(self):
        return self

    def numpy(self):
        return self.array


def class_case(rng, problem_type, n):
    labels = ["LABEL_%d" % i for i in range(n)]
    pipe = TextClassificationPipeline.__new__(TextClassificationPipeline)
    pipe.model = SimpleNamespace(config=SimpleNamespace(problem_type=problem_type, num_labels=n,
                                                        id2label=dict(enumerate(labels))))
    logits = [rng.choice([rng.randint(-8, 8) / 2, rng.gauss(0, 4), 0.0]) for _ in range(n)]
    out = {"logits": Tensor(np.array([logits], np.float32))}
    return {"problem_type": problem_type, "labels": labels, "logits": [float(x) for x in np.array(logits, np.float32)],
            "top": pipe.postprocess(out), "all": pipe.postprocess(out, top_k=None, _legacy=False)}


def main():
    if __version__ != VERSION:
        sys.exit("transformers %s is installed, the cases are of %s" % (__version__, VERSION))
    warnings.simplefilter("ignore")
    rng = random.Random(20261123)
    corpus = texts(rng, 70)
    tokenizers = [wordpiece(corpus, True), wordpiece(corpus, False), byte_bpe(corpus)]
    entities = []
    for i, text in enumerate(corpus):
        for t in tokenizers:
            labels = LABELS[rng.choice(["bio", "bio", "plain", "odd"])]
            entities.append(entity_case(rng, t, text, labels, 12 if i % 3 == 2 else 0))
    kinds = [(None, 1), (None, 2), (None, 5), ("regression", 1), ("regression", 3), ("multi_label_classification", 1),
             ("multi_label_classification", 4), ("single_label_classification", 2), ("single_label_classification", 20)]
    classes = [class_case(rng, *k) for k in kinds for _ in range(8)]
    path = Path(__file__).parent / "pipeline_cases.json.gz"
    body = json.dumps({"transformers": VERSION, "entities": entities, "classes": classes}, ensure_ascii=False,
                      separators=(",", ":"))
    path.write_bytes(gzip.compress(body.encode(), mtime=0))
    print("%d entity cases, %d classification cases, %d bytes" % (len(entities), len(classes), path.stat().st_size))


main()
