package trial

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Broker is a real Kafka broker on this machine, for as long as a measurement takes.
type Broker struct {
	Dir     string // of the broker's state; the measurement's own files may lie there too
	Address string
}

var localAddress = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// StartBroker starts one with scripts/kafka-local, which needs Java and Maven; the working directory must be the
// repository's root.
func StartBroker() (*Broker, error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	b := &Broker{Dir: dir}
	if _, err := b.local("start", "1"); err != nil {
		return nil, err
	}
	env, err := b.local("env")
	if err != nil {
		return nil, err
	}
	if b.Address = localAddress.FindString(env); b.Address == "" {
		return nil, fmt.Errorf("scripts/kafka-local env names no address:\n%s", env)
	}
	return b, nil
}

func (b *Broker) local(args ...string) (string, error) {
	c := exec.Command("scripts/kafka-local", args...)
	c.Env = append(os.Environ(), "KAFKA_LOCAL_DIR="+filepath.Join(b.Dir, "kafka"))
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("scripts/kafka-local %s: %w\n%s", args[0], err, stderr.String())
	}
	return stdout.String(), nil
}

// Stop ends the broker and removes its state.
func (b *Broker) Stop() error {
	_, err := b.local("stop")
	os.RemoveAll(b.Dir)
	return err
}

// Forget deletes topics, so that the broker's work does not grow over the rounds. A failure costs disk, nothing else.
func (b *Broker) Forget(topics ...string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Address))
	if err != nil {
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	kadm.NewClient(client).DeleteTopics(ctx, topics...)
}
