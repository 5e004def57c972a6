package worker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/failpoint"
	"sluice/pipeline/kafka"
)

// This file owns the way from settings to clients of Kafka.

// KafkaConfig is what all clients of a worker have in common: brokers, login, group and manner, without topics. The
// files of certificates and secrets are read once; the error joins all mistakes, and is a configuration fault.
func KafkaConfig(s *settings.Settings) (kafka.Config, error) {
	c := kafkaBase(s)
	if err := kafkaSecurity(&c, &s.Kafka); err != nil {
		return c, startFault("kafka", err)
	}
	return c, nil
}

// kafkaBase is KafkaConfig without its certificates and its login.
func kafkaBase(s *settings.Settings) kafka.Config {
	c := kafka.DefaultConfig()
	k := &s.Kafka
	c.Brokers, c.Group, c.InstanceID = k.Brokers, k.Group, k.InstanceID
	c.ClientID = "sluice-" + k.InstanceID
	c.SessionTimeout, c.RebalanceTimeout, c.TransactionTimeout = k.SessionTimeout, k.RebalanceTimeout,
		k.TransactionTimeout
	c.Guarantee, c.Start = kafka.Guarantee(k.Guarantee), kafka.Start(s.Input.Start)
	c.Compression, c.FetchMaxBytes, c.FetchMaxWait = k.Compression, int(k.Fetch.MaxBytes), k.Fetch.MaxWait
	return c
}

// newClient makes the client of a stage.
func newClient(c kafka.Config, m *pipeline.StageMetrics, log *slog.Logger) (*kafka.Client, error) {
	c.Logger, c.Observer = log, observe(m)
	if failpoint.On {
		c.Failpoint = failpoint.Hit
	}
	client, err := kafka.New(c)
	if err != nil {
		return nil, startFault("kafka", err)
	}
	return client, nil
}

// observe connects the Kafka client's events to metrics.
func observe(m *pipeline.StageMetrics) kafka.Observer {
	return kafka.Observer{
		Rebalance: func(int32, int) { m.Rebalanced() },
		Retry:     m.Retried,
		InGroup:   m.Joined,
		Contact:   m.Reached,

		UnstableOffsets: m.OffsetsUnstable,
	}
}

// Check looks, for `sluice validate`, at what the kinds of a configuration name beside the cluster: every mistake goes
// to the report.
func (l List) Check(ctx context.Context, c *settings.Loaded, r Report) {
	for _, k := range l.On(&c.Settings) {
		if k.Check != nil {
			k.Check(ctx, c, r)
		}
	}
}

// CheckBrokers asks the brokers about the topics and the permissions of every kind that a configuration has. base is
// that of KafkaConfig. Nothing is written, and no group is joined.
func (l List) CheckBrokers(ctx context.Context, s *settings.Settings, base kafka.Config, r Report) {
	for _, k := range l.On(s) {
		checkBrokers(ctx, k.Kafka(s, base), r)
	}
}

func checkBrokers(ctx context.Context, c kafka.Config, r Report) {
	c.Logger = slog.New(slog.DiscardHandler) // problems are returned
	client, err := kafka.New(c)
	if err != nil {
		r.Wrong(err)
		return
	}
	defer client.Close()
	problems := client.Check(ctx)
	for _, p := range problems {
		r.Wrong(Unfault(p))
	}
	if len(problems) > 0 {
		return // settings of topics that are not there, or of a cluster that does not answer
	}
	r.OK(fmt.Sprintf("brokers %s: topics and permissions of group %s, as far as they can be seen without writing",
		strings.Join(c.Brokers, ", "), c.Group))
	warnings, unseen, err := client.Settings(ctx)
	for _, w := range warnings {
		r.Warn("%s", w)
	}
	if len(unseen) > 0 {
		r.Unseen(kafka.Unseen(unseen))
	}
	if err != nil {
		r.Unseen(fmt.Sprintf("settings of topics: %v", err))
	}
}
