// Package pipelinetest holds what the tests of several packages share: a real Kafka broker, a fake Flow that checks the
// contract of Source, and the history checker.
package pipelinetest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// This file owns real brokers for tests, made by scripts/kafka-local.

// Broker is a running Apache Kafka cluster of one broker (or more, see Kafka).
type Broker struct {
	Env  map[string]string // what `kafka-local env` prints: KAFKA_BOOTSTRAP, KAFKA_CA, ...
	dir  string
	args []string // of `kafka-local start`

	renewing, providing sync.Once // see Listener
	stopTokens          func()
	provider            *Provider
}

var (
	brokersMu sync.Mutex
	brokers   = map[string]*Broker{} // by arguments
)

// Kafka is a broker that all tests of this process with the same arguments share: the arguments of `kafka-local start`,
// such as "--acl". Call StopKafka at the end of TestMain. Without Java or Maven the test is skipped, loudly; with
// CI=true it fails.
func Kafka(tb testing.TB, args ...string) *Broker {
	tb.Helper()
	brokersMu.Lock()
	defer brokersMu.Unlock()
	key := strings.Join(args, " ")
	if b := brokers[key]; b != nil {
		return b
	}
	for _, tool := range []string{"java", "mvn", "bash", "flock", "setsid"} {
		if _, err := exec.LookPath(tool); err != nil && !(tool == "mvn" && jarsThere()) {
			Missing(tb, "real Kafka broker: %s is not on PATH; install it (apt-get install default-jre-headless "+
				"maven util-linux)", tool)
		}
	}
	clearStale(tb)
	b := &Broker{dir: filepath.Join(stateRoot(), fmt.Sprintf("%d-%d", os.Getpid(), len(brokers))), args: args}
	if out, err := b.run(append([]string{"start"}, args...)...); err != nil {
		Missing(tb, "real Kafka broker: %v\n%s", err, out)
	}
	out, err := b.run("env")
	if err != nil {
		tb.Fatalf("kafka-local env: %v\n%s", err, out)
	}
	b.Env = map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		line, export := strings.CutPrefix(line, "export ")
		if !export {
			continue
		}
		for _, kv := range strings.Fields(line) {
			if k, v, ok := strings.Cut(kv, "="); ok {
				b.Env[k] = v
			}
		}
	}
	brokers[key] = b
	return b
}

// StopKafka stops every broker of this process and deletes its data.
func StopKafka() {
	brokersMu.Lock()
	defer brokersMu.Unlock()
	for key, b := range brokers {
		b.remove()
		delete(brokers, key)
	}
}

// Addrs is the plaintext address list.
func (b *Broker) Addrs() []string { return b.at("KAFKA_BOOTSTRAP") }

// at is the address list of a listener.
func (b *Broker) at(key string) []string { return strings.Split(b.Env[key], ",") }

// Do runs another verb of kafka-local, such as "kill", "1", and fails the test when it fails.
func (b *Broker) Do(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := b.run(args...)
	if err != nil {
		tb.Fatalf("kafka-local %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (b *Broker) run(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(repository(), "scripts", "kafka-local"), args...)
	cmd.Env = append(os.Environ(), "KAFKA_LOCAL_DIR="+b.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String() + errs.String(), fmt.Errorf("kafka-local %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), nil
}

func (b *Broker) remove() {
	if b.stopTokens != nil {
		b.stopTokens()
	}
	if b.provider != nil {
		b.provider.Close()
	}
	if out, err := b.run("wipe"); err != nil {
		fmt.Fprintln(os.Stderr, "kafka-local wipe:", err, out)
		return
	}
	os.RemoveAll(b.dir)
}

// clearStale stops brokers that a killed test process has left.
func clearStale(tb testing.TB) {
	dirs, err := filepath.Glob(filepath.Join(stateRoot(), "*-*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range dirs {
		pid, _, _ := strings.Cut(filepath.Base(d), "-")
		if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() && syscall.Kill(n, 0) == syscall.ESRCH {
			(&Broker{dir: d}).remove()
		}
	}
}

func stateRoot() string { return filepath.Join(repository(), "build", "kafka-test") }

func jarsThere() bool {
	cache := os.Getenv("KAFKA_LOCAL_CACHE")
	if cache == "" {
		cache = filepath.Join(repository(), "build", "kafka-jars")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "*", ".complete"))
	return len(found) > 0
}

// repository is the root of the source tree that this file was compiled from.
func repository() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}
