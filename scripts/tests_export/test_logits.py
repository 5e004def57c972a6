"""Every architecture, exported, gives the logits of transformers: committed ones, and live ones where it is installed.
"""
import json
from pathlib import Path

import numpy as np
import pytest

import tiny_models
from conftest import has_transformers
from sluice_export import feeds, graph, reference, source

GOLDEN = json.loads((Path(__file__).parent / "transformers_logits.json").read_text())["cases"]


def gap(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert np.shape(a) == np.shape(b)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(ours, theirs))


@pytest.mark.parametrize("case", tiny_models.CASES)
def test_the_tokenizer_gives_the_ids_of_the_golden_file(case, checkpoint):
    s = source.read(checkpoint(case))
    s.tokenizer.enable_truncation(s.max_tokens)
    assert [s.tokenizer.encode(t).ids for t in tiny_models.TEXTS] == [r["input_ids"] for r in GOLDEN[case]]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("case", tiny_models.CASES)
def test_an_fp32_export_has_the_logits_of_transformers(case, layout, checkpoint, tmp_path, export):
    folder = checkpoint(case)
    status, said = export(folder, tmp_path / "out", "--layout", layout)
    assert status == 0, said
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    session = feeds.session(str(tmp_path / "out/model.onnx"))
    names = {i.name for i in session.get_inputs()}
    want = {"input_ids", "attention_mask"} if layout == "padded" else {"input_ids", "position_ids", "pad_idx",
            "unpad_idx", "lengths"}
    if layout == "packed" and manifest["task"] == "text-classification":
        want.add("cls_idx")
    assert names == want
    for batch in (1, len(GOLDEN[case])):
        ours = feeds.run(session, [r["input_ids"] for r in GOLDEN[case]], layout, manifest["task"],
                         manifest["pad_token_id"], batch=batch)
        assert gap(ours, [r["logits"] for r in GOLDEN[case]]) < 1e-4


@pytest.mark.parametrize("case", tiny_models.CASES)
def test_the_numpy_reference_has_the_logits_of_transformers(case, checkpoint):
    s = source.read(checkpoint(case))
    assert gap([reference.numpy_logits(s, r["input_ids"]) for r in GOLDEN[case]],
               [r["logits"] for r in GOLDEN[case]]) < 1e-4


@pytest.mark.parametrize("case", ["bert-token", "roberta-sequence", "electra-sequence", "distilbert-multi-label"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_fp16_is_near_and_int8_nearer_than_chance(case, layout, checkpoint, texts, tmp_path, export):
    folder = checkpoint(case)
    rows, ids = GOLDEN[case], [r["input_ids"] for r in GOLDEN[case]]
    scale = max(np.abs(np.array(r["logits"])).max() for r in rows)
    for precision, bound, more in (("fp16", 0.02, ()), ("int8", 0.25, ("--calibration", texts, "--accept-agreement",
            "80"))):
        status, said = export(folder, tmp_path / precision, "--layout", layout, "--precision", precision, *more)
        assert status == 0, said
        manifest = json.loads((tmp_path / precision / "manifest.json").read_text())
        session = feeds.session(str(tmp_path / precision / "model.onnx"))
        ours = feeds.run(session, ids, layout, manifest["task"], manifest["pad_token_id"])
        assert gap(ours, [r["logits"] for r in rows]) < bound * scale, precision


def test_static_int8_gives_the_same_bits_in_any_batch(checkpoint, texts, tmp_path, export):
    status, said = export(checkpoint("bert-token"), tmp_path / "out", "--precision", "int8", "--calibration", texts,
                          "--accept-agreement", "80")
    assert status == 0, said
    session = feeds.session(str(tmp_path / "out/model.onnx"))
    ids = [r["input_ids"] for r in GOLDEN["bert-token"]]
    alone = feeds.run(session, ids, "packed", "token-classification", 0, batch=1)
    for batch in (2, 3, 6):
        for a, b in zip(alone, feeds.run(session, ids, "packed", "token-classification", 0, batch=batch, sort=False)):
            assert np.array_equal(a, b)


def test_the_same_arguments_give_the_same_bytes(checkpoint, texts, tmp_path, export):
    folder = checkpoint("distilbert-sequence")
    for name in ("one", "two"):
        assert export(folder, tmp_path / name, "--precision", "int8", "--calibration", texts, "--accept-agreement",
                      "80", "--name", "x")[0] == 0
    for file in ("model.onnx", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_graph_reads_positions_from_the_start_of_each_text(checkpoint):
    """The packed graph must not take its position from the row: swap two texts and each keeps its logits."""
    s = source.read(checkpoint("roberta-token"))
    session = feeds.session(graph.build(source.encoder(s), s.task, len(s.labels), graph.Plan("packed", "fp32")))
    ids = [r["input_ids"] for r in GOLDEN["roberta-token"]][:2]
    there = feeds.run(session, ids, "packed", s.task, 1, sort=False)
    back = feeds.run(session, ids[::-1], "packed", s.task, 1, sort=False)[::-1]
    assert gap(there, back) < 1e-5


@pytest.mark.skipif(not has_transformers(), reason="transformers and torch are not installed: the committed logits "
                                                   "stand for them")
@pytest.mark.parametrize("case", tiny_models.CASES)
def test_live_transformers_agrees_with_the_committed_logits(case, checkpoint):
    s = source.read(checkpoint(case))
    assert gap(reference.transformers_logits(s.folder, s.task, [r["input_ids"] for r in GOLDEN[case]]),
               [r["logits"] for r in GOLDEN[case]]) < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("case", ["distilbert-multi-label", "bert-token"])
def test_logits_have_the_same_bits_whatever_the_neighbours(case, layout, precision, checkpoint):
    s = source.read(checkpoint(case))
    encoder = source.encoder(s)
    ranges = {n: (-4.0, 4.0) for n in graph.linears(encoder)}
    session = feeds.session(graph.build(encoder, s.task, len(s.labels), graph.Plan(layout, precision, ranges=ranges)))
    rng = np.random.RandomState(11)
    rows = [rng.randint(0, encoder.word.shape[0], n).tolist() for n in range(2, min(s.max_tokens, 60) + 1)]
    alone = feeds.run(session, rows, layout, s.task, s.pad_token_id, batch=1)
    for _ in range(40):
        chosen = rng.permutation(len(rows))[:rng.randint(2, 20)]
        for i, got in zip(chosen, feeds.run(session, [rows[i] for i in chosen], layout, s.task, s.pad_token_id,
                                            batch=len(chosen), sort=False)):
            assert got.tobytes() == alone[
                i].tobytes(), f"row of {len(rows[i])} tokens among rows of {sorted(len(rows[k]) for k in chosen)}"


@pytest.mark.parametrize("case", tiny_models.CASES)
def test_standard_operators_give_the_same_logits(case, checkpoint):
    s = source.read(checkpoint(case))
    encoder = source.encoder(s)
    ids = [r["input_ids"] for r in GOLDEN[case]]
    model = graph.build(encoder, s.task, len(s.labels), graph.Plan("padded", "fp32", ops="standard"))
    assert {n.domain for n in model.graph.node} == {""} and [o.domain for o in model.opset_import] == [""]
    assert gap(feeds.run(feeds.session(model), ids, "padded", s.task, s.pad_token_id),
               [r["logits"] for r in GOLDEN[case]]) < 1e-4
    ranges = {n: (-4.0, 4.0) for n in graph.linears(encoder)}
    both = [feeds.run(feeds.session(graph.build(encoder, s.task, len(s.labels), graph.Plan("padded", "int8",
            ranges=ranges, ops=ops))), ids, "padded", s.task, s.pad_token_id) for ops in ("contrib", "standard")]
    assert gap(*both) < 0.05 * max(1.0, max(float(np.abs(z).max()) for z in both[0]))
