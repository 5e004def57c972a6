#!/usr/bin/env python3
"""Peer of the race: confluent-kafka and the transformers pipeline, torch in fp32. See README.md.

Environment: RACE_BROKERS, RACE_INPUT, RACE_OUTPUT, RACE_GROUP, RACE_MODEL (Hugging Face folder), RACE_CORES, and for
tuning RACE_PROCESSES (of RACE_CORES / RACE_PROCESSES torch threads each), RACE_WINDOW (records taken at once),
RACE_ROWS (batch_size of the pipeline).
"""
import json
import multiprocessing
import os
import signal
import sys


def work(number, processes, threads):
    """One consumer of the group: window, pipeline, produce, flush, commit."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if processes > 1:
        os.sched_setaffinity(0, set(range(number * threads, (number + 1) * threads)))
    import torch
    from confluent_kafka import Consumer, KafkaException, Producer
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    env = os.environ
    model = AutoModelForSequenceClassification.from_pretrained(env["RACE_MODEL"], dtype=torch.float32)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(env["RACE_MODEL"]),
                        device=-1, batch_size=int(env.get("RACE_ROWS", "8")))
    window = int(env.get("RACE_WINDOW", "128"))

    consumer = Consumer({"bootstrap.servers": env["RACE_BROKERS"], "group.id": env["RACE_GROUP"],
                         "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "fetch.wait.max.ms": 50,
                         "partition.assignment.strategy": "range"})
    producer = Producer({"bootstrap.servers": env["RACE_BROKERS"], "enable.idempotence": True, "linger.ms": 5})
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    failed = []

    def delivered(error, _):
        if error:
            failed.append(error)

    consumer.subscribe([env["RACE_INPUT"]])
    while not stop:
        messages = consumer.consume(window, 0.05)
        if not messages:
            continue
        for m in messages:
            if m.error():
                raise KafkaException(m.error())
        texts = [json.loads(m.value())["text"] for m in messages]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))      # like beside like: less padding
        results = [None] * len(texts)
        for i, result in zip(order, classify([texts[i] for i in order], truncation=True, max_length=128)):
            results[i] = result
        for m, result in zip(messages, results):
            producer.produce(env["RACE_OUTPUT"], json.dumps({"label": result["label"], "score": result["score"]}),
                             m.key(), on_delivery=delivered)
        producer.flush()
        if failed:
            raise KafkaException(failed[0])
        consumer.commit(asynchronous=False)
    consumer.close()


def main():
    cores = int(os.environ.get("RACE_CORES", "2"))
    count = int(os.environ.get("RACE_PROCESSES", str(cores)))
    processes = [multiprocessing.get_context("spawn").Process(target=work, args=(i, count, cores // count))
                 for i in range(count)]
    for p in processes:
        p.start()

    def end(*_):
        for p in processes:
            p.terminate()

    signal.signal(signal.SIGTERM, end)
    for p in processes:
        p.join()
    sys.exit(max(abs(p.exitcode) for p in processes))


if __name__ == "__main__":
    main()
