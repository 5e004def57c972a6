package worker

// This file turns the settings of TLS and of logins into what connections ask for. Files of certificates, passwords and
// tokens are read at every use, so renewed ones take effect while the worker runs.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"sluice/cmd/sluice/config"
	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
)

// maxCertificateBytes bounds a PEM file; the system's own bundle has about 250 KiB.
const maxCertificateBytes = 4 << 20

// kafkaSecurity fills in c.TLS and c.SASL. Every file is read once, so that a mistake shows at the start; the error
// joins all mistakes.
func kafkaSecurity(c *kafka.Config, k *settings.Kafka) error {
	var errs []error
	if k.TLS.On() {
		c.TLS = func() (*tls.Config, error) { return clientTLS("kafka.tls", k.TLS) }
		if _, err := c.TLS(); err != nil {
			errs = append(errs, err)
		}
	}
	c.SASL = kafka.SASL{Mechanism: k.SASL.Mechanism, User: k.SASL.Username}
	if k.SASL.Mechanism == "" {
		return errors.Join(errs...)
	}
	secret, err := loginSecret(&k.SASL)
	if err != nil {
		errs = append(errs, err)
	}
	c.SASL.Secret = secret
	return errors.Join(errs...)
}

// loginSecret is where the password or the token comes from.
func loginSecret(s *settings.SASL) (func(context.Context) (pipeline.Secret, error), error) {
	file := func(key, path string) (func(context.Context) (pipeline.Secret, error), error) {
		read := secretFile(key, path)
		_, err := read()
		return func(context.Context) (pipeline.Secret, error) { return read() }, err
	}
	switch {
	case s.OIDC.On():
		o := kafka.OIDC{TokenURL: s.OIDC.TokenURL, ClientID: s.OIDC.ClientID, Scope: s.OIDC.Scope}
		o.ClientSecret = func() (pipeline.Secret, error) { return s.OIDC.ClientSecret, nil }
		if s.OIDC.ClientSecretFile != "" {
			o.ClientSecret = secretFile("kafka.sasl.oidc.client_secret_file", s.OIDC.ClientSecretFile)
		}
		var errs []error
		if _, err := o.ClientSecret(); err != nil {
			errs = append(errs, err)
		}
		if s.OIDC.CAFile != "" {
			o.RootCAs = func() (*x509.CertPool, error) { return readCAs("kafka.sasl.oidc.ca_file", s.OIDC.CAFile) }
			if _, err := o.RootCAs(); err != nil {
				errs = append(errs, err)
			}
		}
		return kafka.NewTokenSource(o).Token, errors.Join(errs...)
	case s.TokenFile != "":
		return file("kafka.sasl.token_file", s.TokenFile)
	case s.PasswordFile != "":
		return file("kafka.sasl.password_file", s.PasswordFile)
	}
	return kafka.Fixed(s.Password), nil
}

// secretFile reads a secret at every call. The error names the key.
func secretFile(key, path string) func() (pipeline.Secret, error) {
	return func() (pipeline.Secret, error) {
		s, err := pipeline.ReadSecret(path)
		if err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
		return s, nil
	}
}

// clientTLS is how a client of ours speaks TLS, from files as they are now. section is the path of the settings.
func clientTLS(section string, t settings.TLS) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	var errs []error
	if t.CAFile != "" {
		var err error
		if c.RootCAs, err = readCAs(section+".ca_file", t.CAFile); err != nil {
			errs = append(errs, err)
		}
	}
	if t.CertFile != "" {
		cert, err := readKeyPair(section, t.CertFile, t.KeyFile)
		if err != nil {
			errs = append(errs, err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, errors.Join(errs...)
}

func readCAs(key, path string) (*x509.CertPool, error) {
	pem, err := config.ReadFile(path, maxCertificateBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s holds no certificate in PEM form", key, path)
	}
	return pool, nil
}

func readKeyPair(section, certFile, keyFile string) (tls.Certificate, error) {
	certPEM, err := config.ReadFile(certFile, maxCertificateBytes)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s.cert_file: %w", section, err)
	}
	keyPEM, err := config.ReadFile(keyFile, maxCertificateBytes)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s.key_file: %w", section, err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil { // never quotes the files
		return tls.Certificate{}, fmt.Errorf("%s.cert_file and key_file (%s, %s): %w", section, certFile, keyFile, err)
	}
	return cert, nil
}
