package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/faults/history"
)

// This file owns what an independent client sees of a run: where groups stand, what lies in the topics, and the history
// that is checked.

// standing is where the groups and the logs stand.
func (r *run) standing() (history.Group, error) {
	g := history.Group{Committed: map[history.Partition]int64{}, Ends: map[history.Partition]int64{}}
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	topics := []string{r.in, r.asks}
	for i, group := range r.groups() {
		offsets, err := r.c.admin.FetchOffsets(kadm.RequireStable(ctx), group)
		if err != nil {
			return g, err
		}
		ends, err := r.c.admin.ListEndOffsets(ctx, topics[i])
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return g, err
		}
		ends.Each(func(o kadm.ListedOffset) {
			p := history.Partition{Topic: o.Topic, Number: o.Partition}
			g.Ends[p] = o.Offset
			if c, ok := offsets.Lookup(o.Topic, o.Partition); ok && c.Err == nil {
				g.Committed[p] = c.At
			}
		})
	}
	return g, nil
}

// settle waits until the groups have committed everything.
func (r *run) settle(limit time.Duration) error {
	return await(r.ctx, limit, "the lag to go to zero", func() error {
		g, err := r.standing()
		if err != nil {
			return err
		}
		lag, behind := int64(0), []string{}
		for p, end := range g.Ends {
			if n := end - max(0, g.Committed[p]); n != 0 {
				lag += n
				behind = append(behind, fmt.Sprintf("%s at %d of %d", p, g.Committed[p], end))
			}
		}
		if lag != 0 {
			slices.Sort(behind)
			return fmt.Errorf("%d records behind: %s", lag, strings.Join(behind[:min(4, len(behind))], ", "))
		}
		return nil
	})
}

func (r *run) check() (*history.Report, error) {
	g, err := r.standing()
	if err != nil {
		return nil, err
	}
	x := history.Run{Samples: r.samples, Group: g, Remade: r.s.remade}
	in, err := r.read(r.in, kgo.ReadCommitted())
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, m := range in {
		there[string(m.Key)] = true
	}
	left := len(in)
	for _, m := range r.gone {
		if !there[string(m.Key)] {
			there[string(m.Key)] = true
			in = append(in, m)
		}
	}
	for at, m := range in {
		i := history.Input{Partition: history.Partition{Topic: m.Topic, Number: m.Partition}, Offset: m.Offset,
			Key: string(m.Key), Value: m.Value}
		if _, text, ok := bytes.Cut(m.Value, []byte(`"text":`)); ok {
			i.Same = string(text)
		}
		i.Optional = at >= left && !r.s.remade // all of a topic was read before it was deleted
		if r.s.inputs != nil {
			r.s.inputs(&i)
		}
		x.Inputs = append(x.Inputs, i)
	}
	topics := []string{r.out, r.dlq}
	if r.s.alerts {
		topics = append(topics, r.urgent)
	}
	hidden := 0
	for _, topic := range topics {
		seen, err := r.outputs(topic)
		if err != nil {
			return nil, err
		}
		if topic == r.urgent {
			x.Alerts = seen
		} else {
			x.Outputs = append(x.Outputs, seen...)
		}
		if err := r.each(topic, kgo.ReadUncommitted(), func(*kgo.Record) { hidden++ }); err != nil {
			return nil, err
		}
		hidden -= len(seen)
	}
	if hidden > 0 {
		r.note("%d aborted copies hidden", hidden)
	}
	r.finals(x.Outputs)
	return history.Check(x), nil
}

// outputs are what a read_committed reader sees of a topic that workers write to.
func (r *run) outputs(topic string) ([]history.Output, error) {
	messages, err := r.read(topic, kgo.ReadCommitted())
	if err != nil {
		return nil, err
	}
	var all []history.Output
	for _, m := range messages {
		o := history.Output{Partition: history.Partition{Topic: m.Topic, Number: m.Partition}, Offset: m.Offset,
			Key: string(m.Key), Value: m.Value, Dead: topic == r.dlq}
		for _, h := range m.Headers {
			switch value := string(h.Value); h.Key {
			case "sluice.source":
				o.Source = value
			case "sluice.id":
				o.ID = value
			case "sluice.amends":
				o.Amends = value
			case "sluice.revision":
				if o.Revision, err = strconv.Atoi(value); err != nil {
					return nil, fmt.Errorf("%s/%d@%d: header %s: %w", m.Topic, m.Partition, m.Offset, h.Key, err)
				}
			}
		}
		o.Pointer = o.Dead && bytes.Contains(o.Value, []byte(`"refused_by":`))
		if (r.s.alerts || r.s.escalate) && !o.Dead {
			if err := judge(&o); err != nil {
				return nil, fmt.Errorf("%s/%d@%d: %w", m.Topic, m.Partition, m.Offset, err)
			}
			o.Due, o.Asked = o.Due && r.s.alerts, o.Asked && r.s.escalate
		}
		all = append(all, o)
	}
	return all, nil
}

// finals counts how final verdicts came to be, and demands those without which the fault was not injected.
func (r *run) finals(outputs []history.Output) {
	if !r.s.escalate {
		return
	}
	how := map[string]int{}
	for _, o := range outputs {
		switch {
		case o.Dead || o.Revision < 2:
		case o.Fallback:
			how[o.Reason]++
		default:
			how["llm"]++
		}
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(how)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, how[k]))
	}
	r.note("final verdicts: %s", strings.Join(parts, ", "))
	for _, k := range r.s.finals {
		if how[k] == 0 {
			r.fail("no final verdict is %q: the fault was not injected", k)
		}
	}
}

// read is what an independent client sees of a topic from beginning to end.
func (r *run) read(topic string, level kgo.IsolationLevel) ([]*kgo.Record, error) {
	var all []*kgo.Record
	err := r.each(topic, level, func(m *kgo.Record) { all = append(all, m) })
	return all, err
}

// stalled is how long a reader waits for the next record of a topic that has more.
const stalled = time.Minute

// each reads a topic from beginning to end as an independent client.
func (r *run) each(topic string, level kgo.IsolationLevel, do func(*kgo.Record)) error {
	asked, cancel := context.WithTimeout(r.ctx, stalled)
	defer cancel()
	list := r.c.admin.ListCommittedOffsets
	if level == kgo.ReadUncommitted() {
		list = r.c.admin.ListEndOffsets
	}
	ends, err := list(asked, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	starts, err := r.c.admin.ListStartOffsets(asked, topic)
	if err != nil {
		return fmt.Errorf("reading %s: %w", topic, err)
	}
	left := map[int32]int64{} // partitions that are not at their end
	from := map[string]map[int32]kgo.Offset{topic: {}}
	ends.Each(func(o kadm.ListedOffset) {
		if s, ok := starts.Lookup(topic, o.Partition); ok && s.Offset < o.Offset {
			left[o.Partition] = o.Offset
			from[topic][o.Partition] = kgo.NewOffset().At(s.Offset)
		}
	})
	if len(left) == 0 {
		return nil
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(r.c.direct...), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(level),
		kgo.KeepControlRecords(), kgo.FetchMaxWait(300*time.Millisecond))
	if err != nil {
		return err
	}
	defer c.Close()
	for len(left) > 0 {
		polled, cancel := context.WithTimeout(r.ctx, stalled)
		f := c.PollFetches(polled)
		err := polled.Err()
		cancel()
		if err != nil {
			return fmt.Errorf("reading %s: not at the end of partitions %v, and nothing came for %v: %w", topic,
				slices.Sorted(maps.Keys(left)), stalled, err)
		}
		f.EachRecord(func(m *kgo.Record) {
			end, more := left[m.Partition]
			if !more {
				return
			}
			if !m.Attrs.IsControl() && m.Offset < end {
				do(m)
			}
			if m.Offset+1 >= end {
				delete(left, m.Partition)
			}
		})
	}
	return nil
}
