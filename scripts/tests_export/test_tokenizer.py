"""The exported tokenizer is the one that transformers builds of the folder, whatever files it is made of."""
import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from sluice_export import pretrained
from sluice_export.errors import ExportError
import tiny_models

ROOT = Path(__file__).resolve().parent.parent


def script(name):
    """A script of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


goldens = script("make_pretrained_goldens")


def edit(folder, name, **members):
    """Changes members of a JSON file; dots in a name lead into objects."""
    path = folder / name
    value = json.loads(path.read_text()) if path.is_file() else {}
    for key, new in members.items():
        *above, last = key.split("__")
        at = value
        for step in above:
            at = at[step]
        at[last] = new
    path.write_text(json.dumps(value))


def tokens(directory, text):
    """What the exported tokenizer.json makes of a text."""
    return Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).tokens


def manifest(directory):
    return json.loads((directory / "manifest.json").read_text())


# checkpoint, edits of tokenizer.json, tokenizer_config.json (None: no such file), a text, what transformers reads
CASES = [
    ("bert-token", {"normalizer__lowercase": True, "normalizer__strip_accents": None},
     {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": False}, "Zoë THE words",
     ["[CLS]", "[UNK]", "[UNK]", "words", "[SEP]"]),
    ("bert-token", {"normalizer__lowercase": False},
     {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}, "Zoë THE words",
     ["[CLS]", "z", "##o", "##e", "the", "words", "[SEP]"]),
    ("bert-token", {"normalizer__lowercase": False}, None, "Zoë THE words",
     ["[CLS]", "z", "##o", "##e", "the", "words", "[SEP]"]),
    ("distilbert-sequence", {"normalizer__lowercase": True}, {"do_lower_case": False}, "Zoë THE words",
     ["[CLS]", "[UNK]", "[UNK]", "words", "[SEP]"]),
    ("electra-sequence", {"normalizer__lowercase": True}, {"do_lower_case": False}, "Zoë THE words",
     ["[CLS]", "[UNK]", "[UNK]", "words", "[SEP]"]),
    ("roberta-token", {}, {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, "model_max_length": 512},
     "Zoë THE words", ["<s>", "Ġ", "Z", "o", "Ã", "«", "Ġ", "T", "H", "E", "Ġ", "w", "o", "r", "d", "s", "</s>"]),
]


@pytest.mark.parametrize("case, change, config, text, right", CASES)
def test_the_class_overrules_tokenizer_json(checkpoint, tmp_path, export, case, change, config, text, right):
    folder = checkpoint(case)
    edit(folder, "tokenizer.json", **change)
    (folder / "tokenizer_config.json").unlink()
    if config is not None:
        edit(folder, "tokenizer_config.json", **config)
    assert export(folder, tmp_path / "out")[0] == 0
    assert tokens(tmp_path / "out", text) == right
    golden = manifest(tmp_path / "out")["golden"]["texts"]
    auto = AutoTokenizer.from_pretrained(folder)
    longest = manifest(tmp_path / "out")["max_tokens"]
    for g in golden:
        assert g["input_ids"] == auto(g["text"], truncation=True, max_length=longest)["input_ids"]


def test_offsets_are_trimmed_as_the_class_says(checkpoint, tmp_path, export):
    folder = checkpoint("roberta-token")
    edit(folder, "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    assert export(folder, tmp_path / "out")[0] == 0
    text = "  lead and trail  "
    written = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode(text).offsets
    assert written == AutoTokenizer.from_pretrained(folder)(text, return_offsets_mapping=True)["offset_mapping"]


def test_the_left_side_is_cut_off_where_the_folder_says_so(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer", truncation_side="left", model_max_length=10)
    assert export(folder, tmp_path / "out")[0] == 0
    assert manifest(tmp_path / "out")["truncation_side"] == "left" and manifest(tmp_path / "out")["max_tokens"] == 10
    auto = AutoTokenizer.from_pretrained(folder)
    long = [g for g in manifest(tmp_path / "out")["golden"]["texts"] if len(auto(g["text"])["input_ids"]) > 10]
    assert long, "no golden text is longer than the model"
    for g in long:
        assert g["input_ids"] == auto(g["text"], truncation=True)["input_ids"]
    assert "truncation_side" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("case", ["bert-sequence", "roberta-sequence"])
def test_the_right_side_leaves_the_manifest_as_it_was(checkpoint, tmp_path, export, case):
    assert export(checkpoint(case), tmp_path / "out")[0] == 0
    assert not {"truncation_side", "special_tokens"} & set(manifest(tmp_path / "out"))


def marked(folder):
    """bert-sequence with markers that were added as special tokens, and one that is not special."""
    t = Tokenizer.from_file(str(folder / "tokenizer.json"))
    t.add_special_tokens([AddedToken("[E1]", special=True, normalized=False),
                          AddedToken("[/E1]", special=True, normalized=False)])
    t.add_tokens([AddedToken("@USER", special=False, normalized=False)])
    t.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": t.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))
    tiny_models.save_weights(folder, tiny_models.weights("bert-sequence", config))
    edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True,
         additional_special_tokens=["[E1]", "[/E1]"])
    return folder


def test_markers_of_the_models_own_are_told_and_can_be_asked_for(checkpoint, tmp_path, export):
    folder = marked(checkpoint("bert-sequence"))
    status, said = export(folder, tmp_path / "silent")
    assert status == 0 and "[E1], [/E1]" in said and "--special-tokens model" in said
    assert "special_tokens" not in manifest(tmp_path / "silent")
    for choice in ("text", "model"):
        status, said = export(folder, tmp_path / choice, "--special-tokens", choice)
        assert status == 0 and "[E1]" not in said
        assert manifest(tmp_path / choice)["special_tokens"] == choice


def test_texts_with_markers_are_judged_as_they_will_be(checkpoint, tmp_path):
    folder = marked(checkpoint("bert-sequence"))
    text = "the [E1] london [/E1] words"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert pretrained.read(folder, "model").tokenizer.encode(text).ids == ids
    assert pretrained.read(folder, "text").tokenizer.encode(text).ids != ids


def test_vocab_txt_alone(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert export(folder, tmp_path / "out")[0] == 0
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("the two words").ids == [2, 4, 5, 6, 3]
    assert "vocab.txt" in manifest(tmp_path / "out")["source"]["files"]


def test_sentencepiece_alone_is_converted(checkpoint, tmp_path, export):
    import sentencepiece
    folder = checkpoint("xlm-roberta-sequence")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"the two words and {i} more words of the fox" for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spm"), vocab_size=30, model_type="unigram",
        unk_id=0, bos_id=1, eos_id=2, minloglevel=2)
    (tmp_path / "spm.model").rename(folder / "sentencepiece.bpe.model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    status, said = export(folder, tmp_path / "out")
    assert status == 0, said
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    pieces = tokens(tmp_path / "out", "the two words")
    assert pieces[1:-1] == processor.encode("the two words", out_type=str)
    assert pieces[0] == "<s>" and pieces[-1] == "</s>"


@pytest.mark.parametrize("change, says", [
    (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "holds no tokenizer"),
    (lambda f: edit(f, "tokenizer_config.json", model_max_length="512"), 'model_max_length is "512"'),
    (lambda f: edit(f, "tokenizer_config.json", tokenizer_class="BertTokenizer", unk_token="<none>"), "cannot read"),
    (lambda f: edit(f, "tokenizer_config.json", truncation_side="up"), "Truncation side"),
    (lambda f: edit(f, "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"), "transformers cannot build"),
    (lambda f: (f / "tokenizer.json").write_text("{"), "transformers cannot build"),
    (lambda f: (f / "tokenizer_config.json").write_text("[1]"), "transformers cannot build"),
    (lambda f: edit(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]},
                    tokenizer_class="NoSuchTokenizer"), ""),
])
def test_what_transformers_cannot_build_is_one_sentence(checkpoint, tmp_path, export, change, says):
    folder = checkpoint("bert-sequence")
    change(folder)
    status, said = export(folder, tmp_path / "out")
    if says:
        assert status == 2 and says in said and "Traceback" not in said
    assert "Traceback" not in said


def test_a_tokenizer_that_would_be_read_otherwise_is_refused(checkpoint):
    t = pretrained.read(checkpoint("bert-sequence"))
    t.cut(30)
    t.check(["the two words"])
    spec = json.loads(t.definition)
    spec["normalizer"]["lowercase"] = False
    t.tokenizer = Tokenizer.from_str(json.dumps(spec))
    with pytest.raises(ExportError, match="otherwise than"):
        t.check(["THE two words"])


@pytest.mark.parametrize("name", [n for i, n in enumerate(goldens.cases_once()) if i % 9 == 0])
def test_every_folder_of_the_goldens(tmp_path, name):
    """What is written gives transformers' ids and offsets for every argument of every class, or there is one sentence.
    """
    folder = goldens.cases_once()[name]
    made = goldens.made(folder)
    for file, content in folder.items():
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content), newline="")
    if "error" in made:
        with pytest.raises(ExportError):
            t = pretrained.read(tmp_path, "model")
            t.cut(512)
            t.check(goldens.TEXTS)
        return
    t = pretrained.read(tmp_path, "model")
    rows = []
    for text in goldens.TEXTS:
        e, at = t.tokenizer.encode(text), [len(text[:i].encode()) for i in range(len(text) + 1)]
        rows.append([[i, at[a], at[b]] for i, (a, b) in zip(e.ids, e.offsets)])
    assert rows == made["rows"]
    assert t.side == made["side"] and t.max_tokens == made["longest"]


def test_the_goldens_of_the_worker_are_those_of_this_transformers(monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_pretrained_goldens.py", "--check"])
    goldens.main()


def pair_logits(directory, folder, pairs):
    """(what the export gives for pairs of texts, what the checkpoint's own arithmetic gives for transformers' rows)."""
    import numpy as np
    from sluice_export import feeds, reference, source
    from sluice_export.row import Row
    auto = AutoTokenizer.from_pretrained(folder)
    typed = "token_type_ids" in auto.model_input_names
    rows = [Row(e["input_ids"], e.get("token_type_ids") if typed else None) for e in (auto(a, b) for a, b in pairs)]
    told = manifest(directory)
    ours = feeds.run(feeds.session(str(directory / "model.onnx")), rows, told["layout"], told["task"],
                     told["pad_token_id"])
    s = source.read(str(folder), pairs=True)
    return np.array(ours), np.array([reference.numpy_logits(s, r) for r in rows])


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("case", ["bert-sequence", "electra-sequence", "distilbert-sequence", "roberta-sequence",
                                  "xlm-roberta-sequence"])
def test_pairs_of_texts(checkpoint, tmp_path, export, case, layout):
    folder = checkpoint(case)
    if case in ("bert-sequence", "electra-sequence"):
        edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    status, said = export(folder, tmp_path / "out", "--pairs", "--layout", layout)
    assert status == 0, said
    ours, right = pair_logits(tmp_path / "out", folder, [("the two words", "london"), ("a", "the fox"), ("two", "two")])
    assert abs(ours - right).max() < 1e-4
    auto = AutoTokenizer.from_pretrained(folder)
    longest = manifest(tmp_path / "out")["max_tokens"]
    for g in manifest(tmp_path / "out")["golden"]["texts"]:
        e = auto(g["text"], g["text_pair"], truncation=True, max_length=longest)
        assert g["input_ids"] == e["input_ids"]
        assert g["token_type_ids"] == e.get("token_type_ids", [0] * len(e["input_ids"]))


def test_without_pairs_the_second_text_would_be_read_as_the_first(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert export(folder, tmp_path / "out")[0] == 0
    ours, right = pair_logits(tmp_path / "out", folder, [("the two words", "london")])
    assert abs(ours - right).max() > 1e-3       # so the worker refuses such a model where records have two texts


def test_int8_of_pairs_agrees_with_its_source(checkpoint, tmp_path, export, texts):
    folder = checkpoint("bert-sequence")
    edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    status, said = export(folder, tmp_path / "out", "--pairs", "--precision", "int8", "--calibration", texts,
                          "--accept-agreement", "80")
    assert status == 0, said
    ours, right = pair_logits(tmp_path / "out", folder, [("the two words", "london"), ("a", "the fox")])
    assert abs(ours - right).max() < 0.3


@pytest.mark.parametrize("case, more, says", [
    ("bert-token", (), "--pairs goes with sequence classification"),
    ("bert-sequence", ("--labelled", "x.tsv"), "--labelled holds single texts"),
])
def test_pairs_are_refused_where_they_mean_nothing(checkpoint, tmp_path, export, case, more, says):
    status, said = export(checkpoint(case), tmp_path / "out", "--pairs", *more)
    assert status == 2 and says in said


def test_pairs_of_a_class_that_gives_no_token_types(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")        # PreTrainedTokenizerFast: model_input_names without token_type_ids
    assert export(folder, tmp_path / "out", "--pairs")[0] == 0
    ours, right = pair_logits(tmp_path / "out", folder, [("the two words", "london"), ("a", "the fox")])
    assert abs(ours - right).max() < 1e-4
    assert not any(any(g["token_type_ids"]) for g in manifest(tmp_path / "out")["golden"]["texts"])


@pytest.mark.parametrize("case, pairs, limit, status", [
    ("bert-sequence", True, 3, 2), ("bert-sequence", True, 4, 2), ("bert-sequence", True, 5, 0),
    ("bert-sequence", False, 2, 2), ("bert-sequence", False, 3, 0)])
def test_rows_have_room_for_text(checkpoint, tmp_path, export, case, pairs, limit, status):
    more = ("--pairs",) if pairs else ()
    folder = checkpoint(case)
    edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    got, said = export(folder, tmp_path / "asked", "--max-tokens", limit, *more)
    assert got == status and "Traceback" not in said, said
    edit(folder, "tokenizer_config.json", model_max_length=limit)
    got, said = export(folder, tmp_path / "told", *more)
    assert got == status and "Traceback" not in said, said


def test_a_default_that_goes_before_tokenizer_json_is_told(checkpoint, tmp_path, export):
    folder = checkpoint("bert-sequence")
    edit(folder, "tokenizer.json", normalizer__lowercase=False)
    (folder / "tokenizer_config.json").unlink()
    status, said = export(folder, tmp_path / "out")
    assert status == 0 and 'write "do_lower_case": false into tokenizer_config.json' in said
    edit(folder, "tokenizer_config.json", do_lower_case=True)
    assert "do_lower_case" not in export(folder, tmp_path / "said")[1]


def test_pairs_that_would_be_read_otherwise_are_refused(checkpoint):
    folder = checkpoint("bert-sequence")
    edit(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    t = pretrained.read(folder)
    t.cut(30)
    t.check_pairs([("the two", "words")])
    spec = json.loads(t.definition)
    spec["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 0
    t.tokenizer = Tokenizer.from_str(json.dumps(spec))
    with pytest.raises(ExportError, match="the pair"):
        t.check_pairs([("the two", "words")])
