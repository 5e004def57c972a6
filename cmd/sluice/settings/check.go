package settings

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"

	"sluice/cmd/sluice/config"
	"sluice/pipeline"
)

// This file owns checks that several sections share, and those of topics, which all sections name.

var (
	topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)
	// ModelName is what names of models look like.
	ModelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

func checkTopics(c *config.Check, s *Settings) {
	type use struct{ path, topic string }
	uses := []use{{"output.topic", s.Output.Topic}, {"dead_letter.topic", s.DeadLetter.Topic}}
	for _, t := range s.Input.Topics {
		uses = append(uses, use{"input.topics", t})
	}
	for i, r := range s.Routes {
		uses = append(uses, use{fmt.Sprintf("routes[%d].topic", i), r.Topic})
	}
	if s.Escalation.On() {
		uses = append(uses, use{"escalation.topic", s.Escalation.Topic})
	}
	for _, u := range uses {
		if u.topic != "" && (!topicName.MatchString(u.topic) || u.topic == "." || u.topic == "..") {
			c.Mistake(u.path, "%q cannot be the name of a topic: only letters, digits, dot, dash and underscore, at "+
				"most 249", u.topic)
		}
	}
	for i, t := range s.Input.Topics {
		if slices.Contains(s.Input.Topics[:i], t) {
			c.Mistake("input.topics", "%q is there twice; keep one", t)
		}
	}
	for _, u := range uses {
		if u.path != "input.topics" && u.topic != "" && slices.Contains(s.Input.Topics, u.topic) {
			c.Between([]string{u.path, "input.topics"}, "%q is also an input topic, so the worker would read what it "+
				"writes, for ever; write to another topic, or remove it from input.topics", u.topic)
		}
	}
	if t := s.Escalation.Topic; s.Escalation.On() && t != "" {
		for _, u := range uses {
			if u.path != "escalation.topic" && u.path != "input.topics" && u.topic == t {
				c.Between([]string{"escalation.topic", u.path}, "%q is also %s, whose readers do not expect "+
					"requests; give the requests a topic of their own", t, u.path)
			}
		}
	}
	if s.Output.Topic != "" && s.Output.Topic == s.DeadLetter.Topic {
		c.Between([]string{"dead_letter.topic", "output.topic"}, "%q is also output.topic, whose readers expect "+
			"results; give dead letters a topic of their own, or send results to another", s.Output.Topic)
	}
}

// idleKeys notes keys that were given and have no effect.
func idleKeys(c *config.Check, paths []string, why, because string) {
	for _, path := range paths {
		if c.Given(path) {
			c.Between([]string{path, because}, "has no effect %s", why)
		}
	}
}

// oneSecret: exactly one of a file and a variable gives a secret.
func oneSecret(c *config.Check, at, need, fileKey, file, key string, secret pipeline.Secret) {
	switch {
	case file == "" && secret.IsZero():
		c.Between([]string{at, fileKey, key}, "%s; give %s, or set the environment variable %s", need, fileKey,
			config.EnvName(key))
	case file != "" && !secret.IsZero():
		c.Between([]string{fileKey, key}, "%s is set too; keep the file, or the variable", config.EnvName(key))
	}
}

func checkAddress(c *config.Check, path, address, example string) {
	host, port, err := net.SplitHostPort(address)
	n, numErr := strconv.Atoi(port)
	switch {
	case err != nil || host == "" && path == "kafka.brokers":
		c.Mistake(path, "%q is not host:port; write for example %s", address, example)
	case numErr != nil || n < 0 || n > 65535 || n == 0 && path == "kafka.brokers":
		c.Mistake(path, "%q has no port between 1 and 65535; write for example %s", address, example)
	}
}

// IsLoopback says that a host can be reached from this machine only. Another name than localhost may mean any address.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
