// Package witness makes the franz-go client of the commands that look at a worker from outside (bench, verify): an
// independent client, with the worker's own certificates and login.
package witness

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"sluice/pipeline/kafka"
)

// Options are those of a client for the brokers that a worker's client is configured for, their addresses apart. The
// error is about certificates that cannot be read.
func Options(k kafka.Config) ([]kgo.Opt, error) {
	var options []kgo.Opt
	if k.TLS != nil {
		config, err := k.TLS()
		if err != nil {
			return nil, err
		}
		options = append(options, kgo.DialTLSConfig(config))
	}
	l := k.SASL
	secret := func(ctx context.Context) (string, error) {
		s, err := l.Secret(ctx)
		return s.Reveal(), err
	}
	user := func(ctx context.Context) (scram.Auth, error) {
		pass, err := secret(ctx)
		return scram.Auth{User: l.User, Pass: pass}, err
	}
	mechanism, ok := map[string]sasl.Mechanism{
		kafka.Plain: plain.Plain(func(ctx context.Context) (plain.Auth, error) {
			a, err := user(ctx)
			return plain.Auth{User: a.User, Pass: a.Pass}, err
		}),
		kafka.ScramSHA256: scram.Sha256(user),
		kafka.ScramSHA512: scram.Sha512(user),
		kafka.OAuthBearer: oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := secret(ctx)
			return oauth.Auth{Token: token}, err
		}),
	}[l.Mechanism]
	if ok {
		options = append(options, kgo.SASL(mechanism))
	}
	return options, nil
}
