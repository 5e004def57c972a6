#!/usr/bin/env python3
"""Peer of the race: confluent-kafka, tokenizers and onnxruntime by hand, one process a core. See README.md.

Environment: RACE_BROKERS, RACE_INPUT, RACE_OUTPUT, RACE_GROUP, RACE_MODEL (folder with model.onnx, tokenizer.json,
config.json), RACE_CORES (processes), and for tuning RACE_WINDOW (records taken at once), RACE_ROWS (texts a run),
RACE_TOKENS (slots a run), RACE_PIN (1 or 0).
"""
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"      # one process a core does its own
import numpy as np          # noqa: E402
import onnxruntime          # noqa: E402
import orjson               # noqa: E402
from confluent_kafka import Consumer, KafkaException, Producer      # noqa: E402
from tokenizers import Tokenizer        # noqa: E402

LONGEST = 128       # tokens


def batches(lengths, rows, slots):
    """Indexes sorted by length, cut where a run would have more rows, or more slots with its padding."""
    cut = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if cut and (len(cut) == rows or (len(cut) + 1) * lengths[i] > slots):
            yield cut
            cut = []
        cut.append(i)
    if cut:
        yield cut


def feed(rows):
    """Inputs of a padded run."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for row, values in enumerate(rows):
        ids[row, :len(values)] = values
        mask[row, :len(values)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def load(model):
    """(session, tokenizer) of a model folder."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # 10-15 % faster without, see README.md
    options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    return onnxruntime.InferenceSession(str(model / "model.onnx"), options,
                                        providers=["CPUExecutionProvider"]), tokenizer


def work(core):
    """One consumer of the group: window, sort, run, produce, flush, commit."""
    env = os.environ
    if env.get("RACE_PIN", "1") == "1":
        os.sched_setaffinity(0, {core})
    model = Path(env["RACE_MODEL"])
    window, most_rows, slots = int(env.get("RACE_WINDOW", "256")), int(env.get("RACE_ROWS",
            "8")), int(env.get("RACE_TOKENS", "1024"))
    labels = {int(k): v for k, v in json.loads((model / "config.json").read_text())["id2label"].items()}
    session, tokenizer = load(model)

    consumer = Consumer({"bootstrap.servers": env["RACE_BROKERS"], "group.id": env["RACE_GROUP"],
                         "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "fetch.wait.max.ms": 50,
                         "partition.assignment.strategy": "range"})
    producer = Producer({"bootstrap.servers": env["RACE_BROKERS"], "enable.idempotence": True, "linger.ms": 5})
    stop, failed = [], []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))

    def delivered(error, _):
        if error:
            failed.append(error)

    consumer.subscribe([env["RACE_INPUT"]])
    while not stop:
        messages = consumer.consume(window, 0.05)
        for m in messages:
            if m.error():
                raise KafkaException(m.error())
        ids = [e.ids for e in tokenizer.encode_batch_fast([orjson.loads(m.value())["text"] for m in messages])]
        results = [None] * len(ids)
        for batch in batches([len(i) for i in ids], most_rows, slots):
            logits = session.run(["logits"], feed([ids[i] for i in batch]))[0]
            scores = np.exp(logits - logits.max(1, keepdims=True))
            scores /= scores.sum(1, keepdims=True)
            for i, best, row in zip(batch, scores.argmax(1).tolist(), scores.tolist()):
                results[i] = (labels[best], row[best])
        for m, (label, score) in zip(messages, results):
            producer.produce(env["RACE_OUTPUT"], orjson.dumps({"label": label, "score": score}), m.key(),
                             on_delivery=delivered)
        if messages:
            producer.flush()
            if failed:
                raise KafkaException(failed[0])
            consumer.commit(asynchronous=False)
    consumer.close()


def main():
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(core,)) for core in range(int(os.environ.get("RACE_CORES", "2")))]
    for p in processes:
        p.start()
    signal.signal(signal.SIGTERM, lambda *_: [p.terminate() for p in processes])
    for p in processes:
        p.join()
    sys.exit(max(abs(p.exitcode) for p in processes))


if __name__ == "__main__":
    main()
