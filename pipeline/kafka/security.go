package kafka

import (
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
)

// This file owns how a connection is secured, and the sentences for what goes wrong with that.

// mechanism is the kafka-go mechanism for s; nil without SASL.
func (s SASL) mechanism() (sasl.Mechanism, error) {
	if s.Mechanism == "" {
		if s.User != "" || s.Password != "" {
			return nil, errors.New("a user or password is given but no mechanism; use plain, scram-sha-256 or scram-sha-512")
		}
		return nil, nil
	}
	if s.User == "" {
		return nil, fmt.Errorf("mechanism %s needs a user", s.Mechanism)
	}
	switch strings.ToLower(s.Mechanism) {
	case "plain":
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.User, s.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.User, s.Password)
	}
	return nil, fmt.Errorf("mechanism %q is not known; use plain, scram-sha-256 or scram-sha-512", s.Mechanism)
}

// connectionProblem turns the error of a connection attempt into a sentence. hopeless says that trying again cannot help
// because the two sides disagree on how to talk or who may.
func (c *Client) connectionProblem(err error) (sentence string, hopeless bool) {
	var (
		kafkaErr segmentio.Error
		verify   *tls.CertificateVerificationError
		host     x509.HostnameError
		record   tls.RecordHeaderError
		op       *net.OpError
	)
	brokers := strings.Join(c.cfg.Brokers, ", ")
	switch {
	case errors.As(err, &kafkaErr) && kafkaErr == segmentio.SASLAuthenticationFailed:
		return fmt.Sprintf("the brokers (%s) refuse the login of user %q with %s: wrong user or password", brokers, c.cfg.SASL.User, c.cfg.SASL.Mechanism), true
	case errors.As(err, &kafkaErr) && kafkaErr == segmentio.UnsupportedSASLMechanism:
		return fmt.Sprintf("the brokers (%s) do not offer the SASL mechanism %s on this port: use another mechanism or another listener", brokers, c.cfg.SASL.Mechanism), true
	case errors.As(err, &host):
		return fmt.Sprintf("the certificate of the brokers (%s) is for other names: %v; connect by one of those names or set tls.server_name", brokers, host), true
	case errors.As(err, &verify):
		return fmt.Sprintf("the certificate of the brokers (%s) cannot be verified: %v; set tls.ca_file to the CA that signed it", brokers, verify.Err), true
	case errors.As(err, &record):
		return fmt.Sprintf("the brokers (%s) do not speak TLS on this port: remove tls, or use the TLS listener", brokers), true
	case err != nil && strings.Contains(err.Error(), "appears to be expecting TLS"):
		return fmt.Sprintf("the brokers (%s) expect TLS on this port: set tls, or use the plaintext listener", brokers), true
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Sprintf("the brokers (%s) end the TLS handshake: %v; they probably want a client certificate (tls.cert_file, tls.key_file)", brokers, op.Err), true
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
