#!/usr/bin/env python3
"""Makes tokenize/hf/testdata: hard texts, and what Hugging Face's own tokenizers make of them.

    pip install tokenizers==0.23.3 sentencepiece==0.2.1 protobuf==6.33.0
    scripts/make_tokenizer_goldens.py                   # writes texts.json.gz and *.golden.json.gz
    scripts/make_tokenizer_goldens.py --train           # makes byte-bpe.json and unigram.json anew, first
    scripts/make_tokenizer_goldens.py --show unigram 17 windows64   # what Python makes of text 17, row by row

Not with tokenizers 0.23.1 or 0.23.2: they lose windows (huggingface/tokenizers#2091).

Three tokenizers: bert-uncased.json (WordPiece, of the bundled models), byte-bpe.json (byte-level BPE, as RoBERTa) and
unigram.json (Unigram with SentencePiece's nmt_nfkc map, as XLM-R), the latter two trained here on the texts below.
Special tokens in a text are text. For Unigram that takes more than `encode_special_tokens`: its vocabulary holds them,
so here they get other names in the model that reads the texts, as in tokenize/hf/native/src/shield.rs. SentencePiece
itself never finds its control symbols in a text either.

For every text and mode a golden file has a digest of all rows (see `line`), and for some texts the rows themselves.
"""
import argparse
import base64
import codecs
import gzip
import hashlib
import io
import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import Tokenizer, models

HERE = pathlib.Path(__file__).resolve().parent.parent / "tokenize" / "hf" / "testdata"
NAMES = ["bert-uncased", "byte-bpe", "unigram"]
MODES = [  # name, max_tokens, windows, stride
    ("plain", 0, False, 0),
    ("cut16", 16, False, 0),
    ("cut128", 128, False, 0),
    ("windows64", 64, True, 16),
]
SAMPLE = 25  # every 25th text has its rows in full, if they are short

# --- texts ------------------------------------------------------------------------------------------------------------

SPACE = ["\t", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u1680", "\u180e", "\u2000", "\u2003",
         "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff", "  ",
         "   ", " \n ", "\n\n\n", "\u2581", " \u2581 "]
SPECIAL = ["[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]", "[sep]", "[SEP", "##ing", "<s>", "</s>", "<mask>", "<pad>",
           "<unk>", "<|endoftext|>", "[unused1]", " [SEP] ", "x[SEP]y", "x</s>y", " <mask>", "[SE\0P]", "[S\u0301EP]",
           "</\0s>", "[CLS][CLS]"]
COMBINING = ["e\u0301", "a\u0308\u0304", "\u0301", "o" + "\u0300\u0301\u0302" * 20, "\u1100\u1161\u11a8", "\uac01",
             "\u0915\u094d\u0937", "\u0e01\u0e33", "\u05e9\u05c1\u05bc", "\u064b\u0651", "\ufb01", "\u212b",
             "\u1e9b\u0323", "\u0344", "\u0958", "\u0041\u030a", "q\u0307\u0323", "\u0f73", "\u1b06"]
CJK = ["\u4e2d\u6587", "\u3400", "\U00020000", "\U0002a6df", "\uf900", "\u3042\u30a2", "\uff21\uff11",
       "\u30ac\uff76\uff9e",
       "\ud55c\uad6d\uc5b4", "\u3002", "\U0002f800", "\u2e80", "\u3231", "\u33a5", "\ufdfa", "\u6771\u4eac\u90fd"]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea",
         "\U0001f44d\U0001f3fd", "1\ufe0f\u20e3", "\u2764\ufe0f", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\u2639",
         "\U0001f602\U0001f602\U0001f602", "\u00a9\ufe0e"]
CASE = ["\u0130stanbul", "\u0131", "\u00df", "\u1e9e", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u01c5", "\u0149",
        "\u1f88", "\ufb03", "\u2126", "\u00b5", "NAI\u0308VE", "\u00c5ngstr\u00f6m", "\u00bd", "\u2460", "x\u00b2"]
CONTROL = ["\0", "\x01", "\x07", "\x1b[31m", "\x7f", "\x80", "\x9f", "\u00ad", "\u200d", "\u200e", "\u202e", "\ue000",
           "\ufffd", "\ufffe", "\uffff", "\U000e0001", "\U0010ffff", "\u0378", "\u2066", "\ufff9"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + [
    "\u2013", "\u201c", "\u00bf", "\u060c", "\u3001", "\u2026", "\u00a7", "\u00b0", "\u20ac", "\u2212", "...", "--",
    "?!"]
WORDS = """the quick brown fox jumps over lazy dogs unbelievable tokenization antidisestablishmentarianism don't it's
    I'll they've e-mail $1,234.56 http://example.org/a?b=c user@example.org #tag @you 2026-11-23 caf\u00e9 na\u00efve
    \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea
    \u0939\u093f\u0928\u094d\u0926\u0940 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \
\u03b5\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac
    Stra\u00dfe \u6c34 \U0001d54f \uff28\uff45\uff4c\uff4c\uff4f""".split()
SENTENCES = """The parcel came two days late and the box was crushed, but the lamp inside still works.
I waited on the phone for forty minutes; nobody could tell me where my refund is!
Best pancakes in town: fluffy, hot, and cheaper than anywhere near the station.
Ada Lovelace wrote the first program while Charles Babbage was in Turin.
Why does the app ask for my password again and again after every update?
The concert in Reykjavik was cancelled because of the storm, so we flew home early.
My grandmother's recipe needs 250 g of flour, 3 eggs and a pinch of salt.
It isn't bad, it's just not what they'd promised us.
Der Zug nach M\u00fcnchen hatte wieder versp\u00e4tung, und die Heizung war kaputt.
Le caf\u00e9 \u00e9tait d\u00e9licieux, mais le service laissait \u00e0 d\u00e9sirer.
El ni\u00f1o comi\u00f3 una manzana y despu\u00e9s se fue a dormir.
\u041f\u043e\u0435\u0437\u0434 \u043e\u043f\u043e\u0437\u0434\u0430\u043b \u043d\u0430 \u0434\u0432\u0430 \
\u0447\u0430\u0441\u0430, \u0430 \u043a\u043e\u0444\u0435 \u0431\u044b\u043b \
\u0445\u043e\u043b\u043e\u0434\u043d\u044b\u043c.
\u6628\u65e5\u306f\u96e8\u304c\u964d\u3063\u305f\u306e\u3067\u3001\u5bb6\u3067\u672c\u3092\u8aad\u3093\u3060\u3002
\u8fd9\u5bb6\u9910\u5385\u7684\u670d\u52a1\u5f88\u597d\uff0c\u4f46\u662f\u4ef7\u683c\u592a\u8d35\u4e86\u3002
\u0643\u0627\u0646 \u0627\u0644\u0637\u0639\u0627\u0645 \u0644\u0630\u064a\u0630\u0627 \
\u0648\u0627\u0644\u062e\u062f\u0645\u0629 \u0633\u0631\u064a\u0639\u0629.
\u05d4\u05e1\u05e4\u05e8 \u05d4\u05d6\u05d4 \u05de\u05e2\u05e0\u05d9\u05d9\u05df \u05de\u05d0\u05d5\u05d3.
\u092f\u0939 \u0915\u093f\u0924\u093e\u092c \u092c\u0939\u0941\u0924 \u0905\u091a\u094d\u091b\u0940 \u0939\u0948\u0964
\uc774 \uc601\ud654\ub294 \uc815\ub9d0 \uc7ac\ubbf8\uc788\uc5c8\uc5b4\uc694.""".splitlines()
INVALID = [b"\x80", b"\xff", b"\xc0\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xed\xb0\x80",
           b"\xed\xa0\xbd\xed\xb8\x80", b"\xf5\x80\x80\x80", b"\xc3(", b"\xe2(\xa1", b"\xf0\x28\x8c\xbc",
           b"\xfc\x80\x80\x80\x80\x80", b"\xf8", b"\xe0\x80\xaf", b"\xf4\x90\x80\x80", b"\x91D", b"\xc2", b"\xf0\x9f"]
KINDS = [SPACE, SPECIAL, COMBINING, CJK, EMOJI, CASE, CONTROL, PUNCTUATION, WORDS, WORDS, WORDS, SENTENCES]


def piece(rnd):
    if rnd.random() < 0.08:
        return rnd.choice(INVALID)
    if rnd.random() < 0.04:
        return chr(rnd.choice([rnd.randrange(0x20, 0xD800), rnd.randrange(0xE000, 0x110000)])).encode()
    if rnd.random() < 0.06:
        return b"\0" * rnd.choice([1, 1, 2, 5])
    return rnd.choice(rnd.choice(KINDS)).encode()


def texts():
    """5,200 texts as bytes, the same at every call."""
    rnd = random.Random(20261123)
    out = [b"", b" ", b"\0", b"\0\0\0", b"\xff", b"a\0", b"\0a", b"a\0b c", b"\n", "\u200b".encode(), "\ufffd".encode(),
           "\ufeffBOM".encode(), b"\xef\xbb", b"a" * 99, b"a" * 100, b"a" * 101, b"[SEP]", b"[CLS] [SEP]", b"</s>"]
    # Words round WordPiece's limit of 100 characters, and huge ones; long runs that a regular expression may stumble
    # on.
    for unit in ["a", "e\u0301", "\u4e2d", "\U0001f600", "x\0", "\u00df", "1.", " ", "\n", " \t", "!", "\u0301"]:
        out += [(unit * n).encode() for n in (99, 100, 101, 512, 10_000)]
    out += [b"\xff" * 3_000, b"\xed\xa0\x80" * 500, b"  a" * 3_000, b" " * 10_000 + b"x", "".join(WORDS).encode() * 30]
    out += [s.encode() for s in SENTENCES]
    out += ["\n".join(SENTENCES).encode(), " ".join(WORDS).encode() * 10]
    while len(out) < 5_200:
        if len(out) % 13 == 0:
            out.append(bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 60))))
        elif len(out) % 5 == 0:
            out.append(" ".join(rnd.choices(WORDS + SENTENCES, k=rnd.choice([1, 2, 5, 20]))).encode())
        else:
            sep = rnd.choice([b"", b" ", b" "])
            out.append(sep.join(piece(rnd) for _ in range(rnd.choices([1, 2, 3, 5, 8, 13, 40, 120],
                    [4, 4, 4, 4, 4, 4, 2, 1])[0])))
    return out


def decoded(raw):
    """The str that Python makes of bytes, and the offset in the bytes of each of its positions (and of its end)."""
    spans = []

    def note(e):
        spans.append((e.start, e.end))
        return "\ufffd", e.end

    codecs.register_error("note", note)
    s = raw.decode("utf-8", "note")
    assert s == raw.decode("utf-8", "replace")
    ends = dict(spans)
    at, pos = [], 0
    for c in s:
        at.append(pos)
        pos = ends.get(pos) or pos + len(c.encode())
    assert pos == len(raw)
    return s, [*at, pos]


# --- the tokenizers that are trained here -----------------------------------------------------------------------------


def corpus():
    """Lines to train on: the valid texts that have few strange characters."""
    lines = SENTENCES * 4
    for raw in texts():
        try:
            s = raw.decode()
        except UnicodeDecodeError:
            continue
        if len(s) < 2_000 and sum(not (c.isprintable() or c.isspace()) for c in s) == 0:
            lines.append(s)
    return lines


def train_byte_bpe():
    from tokenizers import AddedToken, decoders, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)]
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=3_000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True,
                                                      add_prefix_space=False)
    return tok


def train_unigram():
    """SentencePiece's own trainer and normalizer, then the conversion that transformers does for XLM-R."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto
    from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus() for line in text.splitlines() if line.strip()),
        model_writer=buffer,
        vocab_size=2_500, model_type="unigram", normalization_rule_name="nmt_nfkc", hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2)
    model = proto.ModelProto.FromString(buffer.getvalue())
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(p.piece, p.score) for p in model.pieces[3:]] + [("<mask>", 0.0)]
    tok = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tok.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")])
    tok.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tok.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tok


# --- goldens ----------------------------------------------------------------------------------------------------------


def configured(name, max_tokens, stride):
    tok = Tokenizer.from_file(str(HERE / f"{name}.json"))
    tok.no_padding()
    tok.no_truncation()
    tok.encode_special_tokens = True  # in a text they are text
    model = json.loads(tok.to_str())["model"]
    if model["type"] == "Unigram":
        special = {t.content for t in tok.get_added_tokens_decoder().values() if t.special}
        vocab = [(f"\U0010ffff unwritable {i}" if piece in special and i != model["unk_id"] else piece, score)
                 for i, (piece, score) in enumerate(model["vocab"])]
        tok.model = models.Unigram(vocab, model["unk_id"], model["byte_fallback"])
    if max_tokens:
        tok.enable_truncation(max_tokens, stride=stride)
    return tok


def rows(tok, raw, windows):
    """The rows of a text and whether it was truncated. A row is a list of [id, special, byte start, byte end, character
    start, character end]."""
    s, at = decoded(raw)
    first = tok.encode(s)
    used = [first, *first.overflowing] if windows else [first]
    out = [[[i, m, at[a], at[b], a, b] for i, m, (a, b) in zip(e.ids, e.special_tokens_mask, e.offsets)] for e in used]
    return out, not windows and len(first.overflowing) > 0


def line(out, truncated):
    """What is hashed: the numbers of a token separated by spaces, tokens ended by "," and rows by ";"."""
    tokens = ("".join(" ".join(map(str, t)) + "," for t in row) + ";" for row in out)
    return "".join(tokens) + ("truncated" if truncated else "")


def write(path, value):
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{path.relative_to(HERE.parent.parent.parent)}: {path.stat().st_size:,} bytes", file=sys.stderr)


def words(tok, name):
    """Tokens and the text they join to, as transformers' convert_tokens_to_string has it (the decoder)."""
    out = []
    for s in [*SENTENCES, "Ada Lovelace, don't e-mail!", "na\u00efve \U0001f600 caf\u00e9", "a  b", ""]:
        tokens = tok.encode(s, add_special_tokens=False).tokens
        for part in (tokens, tokens[1:3], tokens[2:6]):
            out.append({"tokens": part, "text": tok.decoder.decode(part)})
    return out


def golden(name, all_texts):
    modes = []
    for mode, max_tokens, windows, stride in MODES:
        tok = configured(name, max_tokens, stride)
        digests, sample = [], {}
        for i, raw in enumerate(all_texts):
            out, truncated = rows(tok, raw, windows)
            digests.append(hashlib.sha256(line(out, truncated).encode()).hexdigest()[:16])
            if i % SAMPLE == 0 and sum(map(len, out)) <= 100:
                sample[i] = out
        modes.append({"name": mode, "max_tokens": max_tokens, "windows": windows, "stride": stride,
                      "digests": digests, "sample": sample})
    tok = configured(name, 0, 0)
    size = Tokenizer.from_file(str(HERE / f"{name}.json")).get_vocab_size()
    ids = [*range(0, size, max(1, size // 300)), size - 1]
    return {"tokenizers": tokenizers.__version__, "texts": len(all_texts), "vocab_size": size,
            "continuing_prefix": getattr(tok.model, "continuing_subword_prefix", None) or "",
            "vocab": {i: tok.id_to_token(i) for i in ids}, "joined": words(tok, name), "modes": modes}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", action="store_true", help="make byte-bpe.json and unigram.json anew")
    p.add_argument("--show", nargs=3, metavar=("TOKENIZER", "TEXT", "MODE"), help="print the rows of one text")
    args = p.parse_args()
    if tokenizers.__version__ in ("0.23.1", "0.23.2"):
        sys.exit(f"tokenizers {tokenizers.__version__} loses windows (huggingface/tokenizers#2091); pip install "
                 f"tokenizers==0.23.3")
    if args.show:
        name, index, mode = args.show
        _, max_tokens, windows, stride = next(m for m in MODES if m[0] == mode)
        raw = texts()[int(index)]
        out, truncated = rows(configured(name, max_tokens, stride), raw, windows)
        print(repr(raw), "truncated" if truncated else "", *out, sep="\n")
        return
    if args.train:
        train_byte_bpe().save(str(HERE / "byte-bpe.json"), pretty=False)
        train_unigram().save(str(HERE / "unigram.json"), pretty=False)
    all_texts = texts()
    write(HERE / "texts.json.gz", [base64.b64encode(t).decode() for t in all_texts])
    for name in NAMES:
        write(HERE / f"{name}.golden.json.gz", golden(name, all_texts))


if __name__ == "__main__":
    main()
