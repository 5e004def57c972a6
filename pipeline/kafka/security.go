package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	segmentio "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"sluice/pipeline"
)

// This file owns how a worker proves who it is, and the sentences for what goes wrong when a connection is secured.

// Names of the SASL mechanisms, as Kafka writes them. A configuration may write them in any case.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
	OAuthBearer = "OAUTHBEARER"
)

const mechanisms = Plain + ", " + ScramSHA256 + ", " + ScramSHA512 + " or " + OAuthBearer

// Fixed gives the same password or token at every login.
func Fixed(s pipeline.Secret) func(context.Context) (pipeline.Secret, error) {
	return func(context.Context) (pipeline.Secret, error) { return s, nil }
}

// validate says what lacks.
func (s SASL) validate() error {
	switch strings.ToUpper(s.Mechanism) {
	case "":
		if s.User != "" || s.Secret != nil {
			return errors.New("a user, password or token is given but no mechanism; use " + mechanisms)
		}
		return nil
	case Plain, ScramSHA256, ScramSHA512:
		if s.User == "" {
			return fmt.Errorf("mechanism %s needs a user", s.Mechanism)
		}
	case OAuthBearer:
		if s.User != "" {
			return fmt.Errorf("mechanism %s takes no user: the token names it", s.Mechanism)
		}
	default:
		return fmt.Errorf("mechanism %q is not known; use %s", s.Mechanism, mechanisms)
	}
	if s.Secret == nil {
		return fmt.Errorf("mechanism %s needs a password or token", s.Mechanism)
	}
	return nil
}

// mechanism is the exchange of one login, with the password or token as it is now.
func (s SASL) mechanism(ctx context.Context) (sasl.Mechanism, error) {
	secret, err := s.Secret(ctx)
	if err == nil && secret.IsZero() {
		err = errNoCredential
	}
	if err != nil {
		return nil, &credentialError{err}
	}
	switch strings.ToUpper(s.Mechanism) {
	case Plain:
		return plain.Mechanism{Username: s.User, Password: secret.Reveal()}, nil
	case ScramSHA256:
		return scram.Mechanism(scram.SHA256, s.User, secret.Reveal())
	case ScramSHA512:
		return scram.Mechanism(scram.SHA512, s.User, secret.Reveal())
	case OAuthBearer:
		return bearer{secret}, nil
	}
	return nil, s.validate()
}

// bearer is SASL OAUTHBEARER (RFC 7628, KIP-255): one message with the token; a broker that refuses it says why in a
// JSON object, which the client answers with a single byte before it gets its error code.
type bearer struct{ token pipeline.Secret }

// Name implements sasl.Mechanism.
func (b bearer) Name() string { return OAuthBearer }

// Start implements sasl.Mechanism.
func (b bearer) Start(context.Context) (sasl.StateMachine, []byte, error) {
	if strings.ContainsFunc(b.token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, nil, &credentialError{errors.New("the token has blanks or control characters, which no token " +
			"has: give the file that holds the token alone")}
	}
	return b, []byte("n,,\x01auth=Bearer " + b.token.Reveal() + "\x01\x01"), nil
}

// Next implements sasl.StateMachine.
func (b bearer) Next(_ context.Context, challenge []byte) (bool, []byte, error) {
	return len(challenge) == 0, []byte{1}, nil
}

// connectionProblem turns the error of a connection attempt into a sentence. hopeless says that trying again cannot
// help because the two sides disagree on how to talk or who may.
func (c *Client) connectionProblem(err error) (sentence string, hopeless bool) {
	var (
		credential *credentialError
		hungUp     *hungUpError
		kafkaErr   segmentio.Error
		verify     *tls.CertificateVerificationError
		host       x509.HostnameError
		invalid    x509.CertificateInvalidError
		record     tls.RecordHeaderError
		op         *net.OpError
	)
	brokers := strings.Join(c.cfg.Brokers, ", ")
	switch {
	case errors.As(err, &credential):
		return fmt.Sprintf("no connection to the brokers (%s) can be made: %v", brokers, credential.err), false
	case errors.As(err, &kafkaErr) && kafkaErr == segmentio.SASLAuthenticationFailed &&
		strings.EqualFold(c.cfg.SASL.Mechanism, OAuthBearer):
		return fmt.Sprintf("the brokers (%s) refuse the token: %v; it may have expired, or be for another audience "+
			"or issuer than the brokers accept", brokers, err), true
	case errors.As(err, &kafkaErr) && kafkaErr == segmentio.SASLAuthenticationFailed:
		return fmt.Sprintf("the brokers (%s) refuse the login of user %q with %s: wrong user or password", brokers,
			c.cfg.SASL.User, c.cfg.SASL.Mechanism), true
	case errors.As(err, &kafkaErr) && kafkaErr == segmentio.UnsupportedSASLMechanism:
		return fmt.Sprintf("the brokers (%s) do not offer the SASL mechanism %s on this port: use another mechanism "+
			"or another listener (%v)", brokers, c.cfg.SASL.Mechanism, err), true
	case errors.As(err, &host):
		return fmt.Sprintf("the certificate of the brokers (%s) is for other names: %v; connect by one of those "+
			"names or set tls.server_name", brokers, host), true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the certificate of the brokers (%s) is not valid at this time: %v; have it renewed, or "+
			"put this machine's clock right", brokers, invalid), true
	case errors.As(err, &verify):
		return fmt.Sprintf("the certificate of the brokers (%s) cannot be verified: %v; set tls.ca_file to the CA "+
			"that signed it", brokers, verify.Err), true
	case errors.As(err, &record):
		return fmt.Sprintf("the brokers (%s) do not speak TLS on this port: remove tls, or use the TLS listener",
			brokers), true
	case err != nil && strings.Contains(err.Error(), "appears to be expecting TLS"):
		return fmt.Sprintf("the brokers (%s) expect TLS on this port: set tls, or use the plaintext listener", brokers),
			true
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Sprintf("the brokers (%s) end the TLS handshake: %v; they probably want a client certificate "+
			"(tls.cert_file, tls.key_file)", brokers, op.Err), true
	case errors.As(err, &hungUp) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return fmt.Sprintf("a broker (%s) closed the connection during the login with %s: wrong user, password or "+
			"token, or it is stopping", brokers, hungUp.mechanism), false
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		hint := "it is starting or stopping, or this port wants TLS or SASL"
		switch {
		case c.cfg.TLS != nil && c.cfg.SASL.Mechanism == "":
			hint = "it is starting or stopping, or this port wants a SASL login, or does not speak TLS"
		case c.cfg.TLS != nil || c.cfg.SASL.Mechanism != "":
			hint = "it is starting or stopping, or this port does not speak TLS or SASL as configured"
		}
		return fmt.Sprintf("a broker (%s) closed the connection: %s", brokers, hint), false
	}
	return fmt.Sprintf("no answer from the brokers (%s): %v", brokers, err), false
}
