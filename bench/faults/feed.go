package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// This file owns the records that go into the input topic: what they say, and how fast they come.

// texts are what records say: few, so that equal ones meet in different batches, before and after every fault.
var texts = func() []string {
	var all []string
	for i, opinion := range []string{"The room was clean and quiet, we slept well.", "Nobody answered the phone and " +
		"the parcel never came.", "It works.", "Not what the picture shows, and it broke after a week.",
		"A wonderful evening, thank you all so much!", "The battery lasts for two days if you are careful.",
		"I want my money back.", "Good value, slow delivery."} {
		for n := range 5 {
			all = append(all, strings.Repeat(opinion+" ", 1+n*n)+fmt.Sprint("No. ", i*5+n))
		}
	}
	return all
}()

// record is the n-th record: every 50th is no JSON and has to become a dead letter.
func (r *run) record(n int) *kgo.Record {
	text := texts[n%len(texts)]
	if r.s.distinct {
		text += fmt.Sprintf(" %d", n)
	}
	value := fmt.Sprintf(`{"id":%d,"text":%q}`, n, text)
	if n%50 == 17 {
		value = value[:len(value)-1]
	}
	return &kgo.Record{Topic: r.in, Partition: int32(n % r.partitions), Key: fmt.Appendf(nil, "r-%d", n),
		Value: []byte(value)}
}

// usualRate is records a second: three lanes of it leave two cores time for brokers that start.
const usualRate = 200

// feed produces records at the scenario's rate until fedAll.
func (r *run) feed() {
	rate := r.s.rate
	if rate == 0 {
		rate = usualRate
	}
	ctx, stop := context.WithCancel(r.ctx)
	r.feeding, r.fed = stop, make(chan error, 1)
	const tick = 20 * time.Millisecond
	go func() {
		var mu sync.Mutex
		var first error
		t := time.NewTicker(tick)
		defer t.Stop()
		began, base := time.Now(), r.produced
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				flush, cancel := context.WithTimeout(r.ctx, 90*time.Second)
				defer cancel()
				err := r.c.client.Flush(flush)
				mu.Lock()
				defer mu.Unlock()
				r.fed <- errors.Join(first, err)
				return
			}
			for due := base + int(time.Since(began).Seconds()*float64(rate)); r.produced < due; r.produced++ {
				r.c.client.TryProduce(r.ctx, r.record(r.produced), func(_ *kgo.Record, err error) {
					if err != nil {
						mu.Lock()
						first = fmt.Errorf("feeding: %w", err)
						mu.Unlock()
					}
				})
			}
		}
	}()
}

// fedAll ends the feeder when all that it has produced is in the log.
func (r *run) fedAll() error {
	if r.feeding == nil {
		return nil
	}
	r.feeding()
	r.feeding = nil
	return <-r.fed
}

// produce writes n records now.
func (r *run) produce(n int) error {
	var all []*kgo.Record
	for range n {
		all = append(all, r.record(r.produced))
		r.produced++
	}
	return r.c.client.ProduceSync(r.ctx, all...).FirstErr()
}
