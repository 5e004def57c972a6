package main

import (
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// witnessOptions let an independent client (verify, bench topics) log in as the worker of a configuration does.
func witnessOptions(s *Settings) ([]kgo.Opt, error) {
	k, err := kafkaConfig(s)
	if err != nil {
		return nil, err
	}
	var options []kgo.Opt
	if k.TLS != nil {
		options = append(options, kgo.DialTLSConfig(k.TLS))
	}
	switch l := k.SASL; l.Mechanism {
	case "PLAIN":
		options = append(options, kgo.SASL(plain.Auth{User: l.User, Pass: l.Password}.AsMechanism()))
	case "SCRAM-SHA-256":
		options = append(options, kgo.SASL(scram.Auth{User: l.User, Pass: l.Password}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		options = append(options, kgo.SASL(scram.Auth{User: l.User, Pass: l.Password}.AsSha512Mechanism()))
	}
	return options, nil
}
