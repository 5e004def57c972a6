#!/usr/bin/env python3
"""Makes cmd/sluice/demo/stream.jsonl: real sentences that may be shipped, one JSON object a line.

    scripts/make_demo_stream.py --wnut17 dev.iob2 test.iob2 --banking77 test.tsv \\
        --reviews cmd/sluice/demo/reviews.txt --screen models/toxicity --out cmd/sluice/demo/stream.jsonl

Texts come from WNUT 2017 (tweets, forum posts; put together again from its words), banking77 (questions of bank
customers) and reviews.txt (written for this project). A text that the toxicity model gives more than --most for
"toxic" is left out. The order is shuffled with a fixed seed, so the file is the same every time.
"""
import argparse
import hashlib
import html
import json
import math
import random
import re
import sys
from pathlib import Path

OPENING, CLOSING = set("([{“‘$£€#"), set(".,!?;:)]}%”’…")
CLITICS = re.compile(r"^(n['’]t|['’](s|S|m|re|ve|ll|d|t))$")


def read_iob2(path):
    """Sentences of a word<TAB>tag file: lists of words."""
    sentence = []
    for line in Path(path).read_text(encoding="utf-8").splitlines() + [""]:
        if line.strip():
            sentence.append(line.split("\t")[0])
        elif sentence:
            yield sentence
            sentence = []


def join_words(words):
    """A sentence as its writer may have typed it: no blank before commas and clitics, none after brackets, entities
    such as &gt; undone.
    """
    text = html.unescape(re.sub(r"& ?(gt|lt|amp|quot) ?;", r"&\1;", " ".join(words)))
    text = re.sub(r"(\w) ?n ['’] t\b", r"\1n't", text)                              # do n ' t
    text = re.sub(r"(\w) (['’]) (s|S|m|re|ve|ll|d|t)\b", r"\1\2\3", text)           # I ' m
    text = re.sub(r"(^|\s)([@#]) (?=\w)", r"\1\2", text).replace(" _ ", "_")         # @ name _ two
    text = re.sub(r"(?<=\s)([:;]) ?(-)? ?([DPp)(])(?=\s|$)", r"\1\2\3", text)         # : - )
    out, inside = [], False
    glue = False
    for word in text.split():
        tight = glue or (word[0] in CLOSING and not re.match(r"^[.:;]+[\w(/]", word) and not re.match(r"^[:;][-')(DPp]",
                word)) or CLITICS.match(word)
        glue = False
        if word == '"':
            tight, glue, inside = (inside or tight), not inside, not inside
        elif word in OPENING:
            glue = True
        out.append(word if tight or not out else " " + word)
    return "".join(out)


def screen(model_dir, texts, most):
    """The texts whose toxicity is at most `most`, judged by an exported multi-label model."""
    from sluice_export import feeds
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(Path(model_dir) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation(128)
    labels = json.loads((Path(model_dir) / "config.json").read_text())["id2label"]
    column = int(next(k for k, v in labels.items() if v == "toxic"))
    session = feeds.session(str(Path(model_dir) / "model.onnx"))
    logits = feeds.run(session, [tokenizer.encode(t).ids for t in texts], "packed", "text-classification", 0)
    return [t for t, row in zip(texts, logits) if 1 / (1 + math.exp(-float(row[column]))) <= most]


def wnut_sentences(paths):
    """Readable, distinct sentences of WNUT files: 5 to 40 words, no bare links."""
    seen = set()
    for path in paths:
        for words in read_iob2(path):
            text = join_words(words)
            if 5 <= len(words) <= 40 and "http" not in text and text.lower() not in seen:
                seen.add(text.lower())
                yield text


def digest(text):
    """SHA-256 of a text, hex: names a text that was left out without repeating it."""
    return hashlib.sha256(text.encode()).hexdigest()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--wnut17", nargs="+", required=True, help="word<TAB>tag files of WNUT 2017")
    p.add_argument("--banking77", required=True, help="test.tsv with a text column")
    p.add_argument("--reviews", required=True, help="our own reviews, one a line")
    p.add_argument("--screen", required=True, help="model directory with a label toxic")
    p.add_argument("--most", type=float, default=0.2, help="highest toxicity that stays (default %(default)s)")
    p.add_argument("--drop", help="file of SHA-256 sums (hex) of further texts to leave out: what a reader found and "
                                  "the model did not")
    p.add_argument("--count", type=int, default=2000, help="lines to write (default %(default)s)")
    p.add_argument("--out", required=True)
    a = p.parse_args()

    rng = random.Random(17)
    reviews = Path(a.reviews).read_text(encoding="utf-8").splitlines()
    dropped = set(Path(a.drop).read_text(encoding="utf-8").split()) if a.drop else set()
    wnut = [t for t in screen(a.screen, list(wnut_sentences(a.wnut17)), a.most) if digest(t) not in dropped]
    header, *rows = Path(a.banking77).read_text(encoding="utf-8").splitlines()
    column = header.split("\t").index("text")
    banking = [t for t in screen(a.screen, [r.split("\t")[column].strip() for r in rows], a.most)
               if digest(t) not in dropped]
    rng.shuffle(wnut)
    rng.shuffle(banking)
    half = (a.count - len(reviews)) // 2
    texts = reviews + wnut[:half]
    texts += banking[:a.count - len(texts)]
    rng.shuffle(texts)
    with open(a.out, "w", encoding="utf-8") as f:
        for i, text in enumerate(texts, 1):
            f.write(json.dumps({"id": i, "text": text}, ensure_ascii=False) + "\n")
    print(f"{a.out}: {len(texts)} texts, {len(reviews)} reviews, {min(half, len(wnut))} from WNUT 2017 ({len(wnut)} "
          f"left after screening)", file=sys.stderr)


if __name__ == "__main__":
    main()
