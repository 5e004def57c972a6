#!/usr/bin/env python3
"""Makes the golden files of package model from transformers' own pipelines. Needs torch and transformers (not in
requirements.txt).

    scripts/make_model_goldens.py ner CHECKPOINT OUT.json.gz
    scripts/make_model_goldens.py cls SENTIMENT_CHECKPOINT TOXICITY_CHECKPOINT OUT.json.gz
    scripts/make_model_goldens.py roberta MODEL_DIR            (a tiny random byte-level model, made here from a
                                                                seed; goldens beside it)

Texts: lines of cmd/sluice/demo/stream.jsonl (see SOURCES.md beside it) that name things, and NASTY below.
Special tokens written in a text are read as text, as Sluice reads them.

File format (gzip of one JSON object, UTF-8):

  {"versions": {"torch": "...", "transformers": "...", "tokenizers": "..."},
   "models": {NAME: {"sha256": of model.safetensors, "id2label": {"0": ...}, "problem_type": ... or null}},
   "texts": [TEXT, ...]}

TEXT of ner_golden.json.gz and roberta_ner_golden.json.gz, n rows = tokens with [CLS] and [SEP]:
  {"text": "...",
   "input_ids": [n], "tokens": [n strings], "offsets": [n pairs, characters], "special": [n of 0/1],
   "logits": [n][labels]                    fp32, 7 significant digits
   "pipeline": {"none": [{"entity", "score", "index", "word", "start", "end"}, ...],
                "simple"|"first"|"average"|"max": [{"entity_group", "score", "word", "start", "end"}, ...]}}
  start and end count characters (code points) of text.

TEXT of cls_golden.json.gz (both models have one tokenizer, so input_ids are shared):
  {"text": "...", "input_ids": [n],
   "models": {NAME: {"logits": [labels], "default": {"label", "score"}, "all": [{"label", "score"}, ... best first]}}}
  default is the pipeline's answer, all its answer with top_k=None.
"""
import gzip
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STREAM = ROOT / "cmd/sluice/demo/stream.jsonl"

NASTY = [
    ".", "?", "a", "…", "-", "EU", "  leading and trailing blanks  ", "two\nlines in Paris\nthree in Rome",
    "tab\tseparated\tLondon\tBerlin",
    "😀", "Greetings from 東京 and 大阪, says 山田太郎 of トヨタ自動車.", "Ünïcödé Müller lives in Zürich near São Paulo, not in Åre.",
    "👩‍👩‍👧‍👦 The Martínez family moved to Bogotá 🇨🇴 in 2019 🎉🎉", "Владимир едет в Москву с Анной.", "القاهرة is Cairo "
    "and بيروت is Beirut, said Fatima Khalil.",
    "e\u0301clair from Cafe\u0301 de Flore in Paris", "zero\u200bwidth Lon\u200bdon and soft\u00adhyphen Ber\u00adlin",
    "control\x01chars\x02in Washington\x7f",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft in Wien",
    "A" * 120 + " of Boston", "supercalifragilisticexpialidocious John Smithsonian-Featherstonehaugh",
    "[CLS] Angela Merkel [SEP] met [MASK] in [UNK] Berlin [PAD]", "U.S. President George W. Bush met U.N. chief Kofi "
    "Annan in New York.", "AC/DC, AT&T and H&M signed with Ernst & Young LLP.",
    "New York New York New York City", "Mr. O'Brien-O'Neill's dog bit Ms. D'Angelo at McDonald's.", "IBM Microsoft "
    "Google Apple Amazon Meta Tesla Toyota",
    "german french english spanish the dutch a swede", "the u.s. open in flushing meadows was won by roger federer",
    "BREAKING: FC BAYERN MÜNCHEN 2 - 1 REAL MADRID (Kimmich, Müller; Ronaldo)",
    "http://example.com/London?x=Paris&y=Rome #Berlin @Madrid", "１２３ ＡＢＣ Ｆｕｌｌｗｉｄｔｈ Ｔｏｋｙｏ", "ﬁnance in ﬂorence, ﬃ",
    "İstanbul'da ve IĞDIR'da", "naïve façade coöperate Zoë Noël",
    "Dr. Ада Лавлейс (Ada Lovelace) of the University of Cambridge", "J.R.R. Tolkien wrote The Lord of the Rings in "
    "Oxford for Allen & Unwin.",
    "Nguyễn Văn Nam flew from Hồ Chí Minh City to Đà Nẵng with Vietnam Airlines", "नई दिल्ली और मुंबई", "한국의 서울에서 삼성전자",
    "ไทย กรุงเทพ", "\u202eright to left override\u202c Haifa",
    "Bank of England governor Andrew Bailey told the BBC's Today programme that Lloyds, Barclays and HSBC had passed.",
    "Toronto 5 Boston 3; Chicago 2 Detroit 2 (OT)", "Li Na beat Petra Kvitova 6-2 6-4",
    "The European Commission said on Thursday it disagreed with German advice to consumers.", "Aleksandr Solzhenitsyn, "
    "Mikhail Khodorkovsky, Krzysztof Kieślowski and Wisława Szymborska",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch is a village on Anglesey in Wales", "🏴󠁧󠁢󠁷󠁬󠁳󠁿 Wales v "
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 England at Cardiff", "x" * 300,
    "Maria Maria Maria of Santana, Santana of Mexico, Mexico of the North American Free Trade Agreement",
    " ".join(["The Dutch prime minister Mark Rutte met Ursula von der Leyen of the European Union in The Hague."] * 8),
]


def texts(count, names_only):
    """The first `count` lines of the demo stream (those that name something inside the sentence, if asked), then NASTY.
    """
    lines = [json.loads(line)["text"] for line in STREAM.read_text(encoding="utf-8").splitlines()]
    if names_only:
        lines = [t for t in lines if re.search(r"[a-z,] [A-Z][a-z]{2}", t)]
    if len(lines) < count:
        sys.exit(f"{STREAM}: {len(lines)} fitting lines, {count} wanted")
    return lines[:count] + NASTY


def digits(x, n=7):
    """A float, or nested lists of them, rounded to n significant digits."""
    return [digits(v, n) for v in x] if isinstance(x, (list, np.ndarray)) else float(f"{float(x):.{n}g}")


def clean(item):
    """A pipeline's item with plain numbers."""
    return {k: digits(v, 9) if k == "score" else int(v) if k in ("start", "end", "index") else str(v) for k,
            v in item.items()}


def versions():
    import tokenizers
    import torch
    import transformers
    return {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}


def model_facts(folder):
    config = json.loads((Path(folder) / "config.json").read_text())
    return {"sha256": hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest(),
            "id2label": config["id2label"], "problem_type": config.get("problem_type")}


def write(path, value):
    """Gzip with no time stamp and no name: the same golden is the same file."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as f:
        f.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    print(f"{path}: {len(value['texts'])} texts, {Path(path).stat().st_size} bytes")


def text_tokenizer(folder):
    """transformers' tokenizer of a folder; "[SEP]" in a text is text."""
    from transformers import AutoTokenizer
    t = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    t("")           # every call sets the backend's switch anew from split_special_tokens
    assert t.backend_tokenizer.encode_special_tokens and "[SEP]" not in t.tokenize("a [SEP] b")
    return t


def ner_texts(folder, lines):
    import torch
    from transformers import AutoModelForTokenClassification, pipeline
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = text_tokenizer(folder)
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    out = []
    for text in lines:
        e = tokenizer.backend_tokenizer.encode(text)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([e.ids])).logits[0].numpy()
        answers = {}
        for strategy in ("none", "simple", "first", "average", "max"):
            answers[strategy] = [clean(i) for i in pipe(text, aggregation_strategy=strategy)]
        out.append({"text": text, "input_ids": e.ids, "tokens": e.tokens, "offsets": [list(o) for o in e.offsets],
                    "special": e.special_tokens_mask, "logits": digits(logits), "pipeline": answers})
    return out


def ner(checkpoint, out):
    write(out, {"versions": versions(), "models": {"ner": model_facts(checkpoint)}, "texts": ner_texts(checkpoint,
            texts(340, names_only=True))})


def cls(sentiment, toxicity, out):
    import torch
    from transformers import AutoModelForSequenceClassification, pipeline
    folders = {"sentiment": sentiment, "toxicity": toxicity}
    lines = texts(320, names_only=False)
    rows = None
    for name, folder in folders.items():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = text_tokenizer(folder)
        pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        ids = [tokenizer.backend_tokenizer.encode(t).ids for t in lines]
        if rows is None:
            rows = [{"text": t, "input_ids": i, "models": {}} for t, i in zip(lines, ids)]
        for row, i in zip(rows, ids):
            assert row["input_ids"] == i, "the checkpoints have different tokenizers"
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([i])).logits[0].numpy()
            default = pipe(row["text"])
            row["models"][name] = {"logits": digits(logits), "default": clean(default[0]),
                                   "all": [clean(x) for x in pipe(row["text"], top_k=None)]}
    write(out, {"versions": versions(), "models": {n: model_facts(f) for n, f in folders.items()}, "texts": rows})


def roberta(out):
    """A RoBERTa NER model of 2 layers x 32 with random weights and a byte-level BPE tokenizer trained on the demo
    stream; exported to `out`, goldens beside it.
    """
    import tempfile
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForTokenClassification
    out, folder = Path(out), Path(tempfile.mkdtemp()) / "roberta-tiny"
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.train_from_iterator([json.loads(line)["text"] for line in STREAM.read_text(encoding="utf-8").splitlines()],
                          trainers.BpeTrainer(vocab_size=800, special_tokens=["<s>", "<pad>", "</s>", "<unk>",
                                  "<mask>"],
                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                              show_progress=False))
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
                            pad_token="<pad>",
                            unk_token="<unk>", mask_token="<mask>", model_max_length=128).save_pretrained(folder)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    config = RobertaConfig(vocab_size=t.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                           intermediate_size=64,
                           max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
                           bos_token_id=0, eos_token_id=2,
                           id2label=dict(enumerate(labels)), label2id={l: i for i, l in enumerate(labels)})
    model = RobertaForTokenClassification(config).eval()
    rng = np.random.default_rng(8)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            # wide enough that labels change within a word: the aggregation strategies must differ
            value = rng.normal(1 if "LayerNorm.weight" in name else 0, 0.1 if "LayerNorm" in name else 0.35,
                               tuple(p.shape))
            p.copy_(torch.tensor(value.astype(np.float32)))
    model.save_pretrained(folder)
    lines = [x for x in texts(60, names_only=True) if len(t.encode(x).ids) <= 128]
    write(out.parent / "roberta_ner_golden.json.gz",
          {"versions": versions(), "models": {"roberta-tiny": model_facts(folder)}, "texts": ner_texts(folder, lines)})
    from sluice_export.cli import main
    if main([str(folder), str(out), "--license", "CC0-1.0", "--force"]) != 0:
        sys.exit(1)


if __name__ == "__main__":
    commands = {"ner": (ner, 2), "cls": (cls, 3), "roberta": (roberta, 1)}
    if len(sys.argv) < 2 or sys.argv[1] not in commands or len(sys.argv) != 2 + commands[sys.argv[1]][1]:
        sys.exit(__doc__)
    commands[sys.argv[1]][0](*sys.argv[2:])
