#!/usr/bin/env python3
"""Makes the race's texts: JSON lines {"id": n, "text": "..."}, all distinct, the same bytes every time.

    bench/race/texts.py --mix mixed --count 20000 --out build/race/texts/mixed.jsonl

The sentences are those of cmd/sluice/demo/stream.jsonl (its licences: cmd/sluice/demo/SOURCES.md). A target length is
drawn for each text; whole sentences in random order are joined until it is reached, and the last one is cut after a
word where it would go beyond. Lengths count tokens of the race's tokenizer with [CLS] and [SEP].

  mixed   5 to 128, skewed as messages are: many short, some long; mean 20 to 30
  short   8 to 20
  long    120 to 128
"""
import argparse
import hashlib
import json
import math
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
SPECIAL = 2         # [CLS] and [SEP]


def normal(rng):
    """A standard normal number from rng.random() alone, whose sequence Python keeps the same over versions."""
    return math.sqrt(-2 * math.log(1 - rng.random())) * math.cos(2 * math.pi * rng.random())


LENGTHS = {
    "mixed": lambda rng: min(128, max(5, round(math.exp(2.95 + 0.68 * normal(rng))))),
    "short": lambda rng: 8 + int(rng.random() * 13),
    "long": lambda rng: 122 + int(rng.random() * 7),
}


def compose(rng, sentences, target):
    """(text, its tokens): sentences joined up to the target; (None, 0) where no word boundary comes near it."""
    words, tokens = [], SPECIAL
    while tokens < target:
        for word, cost in sentences[int(rng.random() * len(sentences))]:
            if tokens + cost > target:
                return (" ".join(words), tokens) if tokens >= target - 1 else (None, 0)
            words.append(word)
            tokens += cost
            if tokens == target:
                break
    return " ".join(words), tokens


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--mix", choices=sorted(LENGTHS), default="mixed")
    p.add_argument("--count", type=int, default=20000)
    p.add_argument("--seed", type=int, default=17)
    p.add_argument("--source", type=Path, default=HERE.parents[1] / "cmd/sluice/demo/stream.jsonl")
    p.add_argument("--tokenizer", type=Path, default=HERE.parents[1] / "models/sentiment/tokenizer.json")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()

    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    tokenizer.encode_special_tokens = True
    texts = [json.loads(line)["text"] for line in a.source.read_text(encoding="utf-8").splitlines()]
    # BERT splits at blanks first, so a text has as many tokens as its words have.
    sentences = []
    for text in texts:
        words = text.split()
        sentences.append([(w, len(e.ids)) for w,
                          e in zip(words, tokenizer.encode_batch(words, add_special_tokens=False))])

    rng, seen, lines, lengths = random.Random(a.seed), set(), [], []
    while len(lines) < a.count:
        text, tokens = compose(rng, sentences, LENGTHS[a.mix](rng))
        if text is None or text in seen or tokens < 5:
            continue
        seen.add(text)
        lengths.append(tokens)
        lines.append(json.dumps({"id": len(lines) + 1, "text": text}, ensure_ascii=False))
    data = ("\n".join(lines) + "\n").encode()
    for line, tokens in list(zip(lines, lengths))[::97]:
        got = len(tokenizer.encode(json.loads(line)["text"]).ids)
        if got != tokens:
            sys.exit(f"texts: counted {tokens} tokens, the tokenizer makes {got}: {line}")
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_bytes(data)
    lengths.sort()
    at = lambda q: lengths[min(len(lengths) - 1, int(q * len(lengths)))]
    print(f"texts: {a.out}: {len(lines)} distinct, sha256 {hashlib.sha256(data).hexdigest()[:16]}; tokens: mean "
          f"{sum(lengths) / len(lengths):.1f}, "
          f"min {lengths[0]}, p50 {at(.5)}, p90 {at(.9)}, p99 {at(.99)}, max {lengths[-1]}", file=sys.stderr)


if __name__ == "__main__":
    main()
