package demo

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"
)

// This file owns the two clients beside the worker: who writes the stream, and who reads what was committed.

// produce writes the stream, over and over, at the rate that was asked for.
func produce(ctx context.Context, broker string, texts [][]byte, o Options, live *state) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic(inputTopic), kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("demo producer: %w", err)
	}
	defer client.Close()
	if err := live.ready(ctx); err != nil { // so that latency is the worker's, not that of loading models
		return nil
	}
	limit := rate.NewLimiter(rate.Inf, 1)
	if o.Rate > 0 {
		limit = rate.NewLimiter(rate.Limit(o.Rate), 1)
	}
	failed := make(chan error, 1)
	for n := 0; o.Records == 0 || n < o.Records; n++ {
		if limit.Wait(ctx) != nil || live.waitForAnswers(ctx, mostAhead) != nil {
			return nil
		}
		value := texts[n%len(texts)]
		r := &kgo.Record{Key: strconv.AppendInt(nil, int64(n), 10), Value: value, Timestamp: time.Now()}
		live.produced()
		client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		select {
		case err := <-failed:
			return fmt.Errorf("demo producer: %w", err)
		default:
		}
	}
	if err := client.Flush(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("demo producer: %w", err)
	}
	<-ctx.Done()
	return nil
}

// consume reads what is committed, as any downstream service would, and shows it, until ctx ends. done is called
// when all records have an answer.
func consume(ctx context.Context, broker string, live *state, view *view, records int, done func()) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(outputTopic, deadLetterTopic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(250*time.Millisecond))
	if err != nil {
		return fmt.Errorf("demo consumer: %w", err)
	}
	defer client.Close()
	take := func(fetches kgo.Fetches) error {
		if errs := fetches.Errors(); len(errs) > 0 {
			return fmt.Errorf("demo consumer: %s: %w", errs[0].Topic, errs[0].Err)
		}
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) { view.show(live.answered(newRow(r, now))) })
		return nil
	}
	for records == 0 || !live.complete(records) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		if err := take(fetches); err != nil {
			return err
		}
	}
	done()
	<-ctx.Done()
	for { // what the worker committed last, and whatever should not be there
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 300*time.Millisecond)
		fetches := client.PollFetches(last)
		cancel()
		if fetches.NumRecords() == 0 {
			return nil
		}
		if err := take(fetches); err != nil {
			return err
		}
	}
}
