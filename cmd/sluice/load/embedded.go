package load

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// This file owns the broker of a first look: in this process, for as long as a measurement takes.

// embeddedRetention is how long it keeps records, which it holds in memory.
const embeddedRetention = time.Minute

// Embedded is a broker in this process.
type Embedded struct{ cluster *kfake.Cluster }

// StartEmbedded starts one, until ctx ends.
func StartEmbedded(ctx context.Context) (*Embedded, error) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		return nil, fmt.Errorf("the embedded broker: %w", err)
	}
	go func() {
		defer cluster.Close()
		tick := time.NewTicker(embeddedRetention / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				cluster.ApplyRetention()
			case <-ctx.Done():
				return
			}
		}
	}()
	return &Embedded{cluster}, nil
}

// Brokers are its addresses.
func (e *Embedded) Brokers() []string { return e.cluster.ListenAddrs() }

// CreateTopics makes the topics of a target. Records that are older than a minute are dropped from them.
func (e *Embedded) CreateTopics(t Target, partitions int) error {
	keep := map[string]string{"retention.ms": strconv.FormatInt(embeddedRetention.Milliseconds(), 10)}
	for _, topic := range append(t.outputs(), t.Input) {
		if err := e.cluster.CreateTopic(topic, int32(partitions), keep); err != nil {
			return fmt.Errorf("creating topic %s: %w", topic, err)
		}
	}
	return nil
}
