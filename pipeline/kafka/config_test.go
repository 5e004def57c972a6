package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol/apiversions"

	"sluice/pipeline"
)

func TestValidateNamesEveryMistake(t *testing.T) {
	good := DefaultConfig()
	good.Brokers, good.Group, good.InstanceID, good.Topics, good.Outputs = []string{"b:9092"}, "g", "i", []string{"in"},
		[]string{"out"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	bad := Config{Outputs: []string{"x"}, Topics: []string{"x"}, Compression: "brotli", SASL: SASL{Mechanism: "gssapi",
		User: "u"}, Start: "newest"}
	err := bad.Validate()
	for _, word := range []string{"brokers", "group", "instance_id", "input", "guarantee", "start", "session_timeout",
		"rebalance_timeout", "transaction_timeout", "fetch_max_wait", "fetch_max_bytes", "brotli", "gssapi"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not named in: %v", word, err)
		}
	}
	if _, err := New(bad); err == nil {
		t.Error("New takes a configuration that Validate refuses")
	}
}

func TestOldAndFutureBrokersAreRefusedWithASentence(t *testing.T) {
	all := func() (ks []apiversions.ApiKeyResponse) {
		for k, v := range needed {
			ks = append(ks, apiversions.ApiKeyResponse{ApiKey: int16(k), MinVersion: 0, MaxVersion: v})
		}
		return ks
	}
	if err := compareVersions(all()); err != nil {
		t.Fatal(err)
	}
	old, future := all(), all()
	old[0].MaxVersion--
	future[0].MinVersion, future[0].MaxVersion = 100, 101
	for _, ks := range [][]apiversions.ApiKeyResponse{old, future, all()[1:]} {
		if err := compareVersions(ks); pipeline.KindOf(err) != pipeline.Config || !strings.Contains(err.Error(),
			"Apache Kafka 3.2 to 4.x") {
			t.Errorf("%v", err)
		}
	}
}

func TestWhichErrorsAreRepeated(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("broken pipe"), true},
		{context.DeadlineExceeded, true},
		{context.Canceled, false},
		{fmt.Errorf("join: %w", errors.Join(context.Canceled, errors.New("EOF"))), false},
		{answer(errConcurrentTxn, "EndTxn", "x"), true},
		{fmt.Errorf("wrapped: %w", answer(errNotCoordinator, "EndTxn", "x")), true},
		{answer(errProducerFenced, "EndTxn", "x"), false},
		{answer(errTopicAuth, "Produce", "x"), false},
		{answer(errMessageTooLarge, "Produce", "x"), false},
		{&pipeline.RefusedError{Refusals: []pipeline.Refusal{{Err: answer(errMessageTooLarge, "Produce", "x")}}},
			false},
		{pipeline.Faultf(pipeline.Config, "start", "x", "a fault"), false},
	} {
		if got := retriable(c.err); got != c.want {
			t.Errorf("retriable(%v) = %v", c.err, got)
		}
	}
}

func TestRetryEndsAtItsDeadlineAndWithItsContext(t *testing.T) {
	c := &Client{log: testLogger(t)}
	calls := 0
	again := func() error { calls++; return answer(errConcurrentTxn, "EndTxn", "x") }
	if err := c.retry(t.Context(), "x", time.Now().Add(30*time.Millisecond), again); !is(err, errConcurrentTxn) ||
		calls < 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls = 0
	if err := c.retry(ctx, "x", time.Time{}, again); !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// TestOnlyThisRoomUsesKafkaGo: wire.go replaces kafka-go's message types for the whole process, so nobody else may use
// them.
func TestOnlyThisRoomUsesKafkaGo(t *testing.T) {
	root := filepath.Join("..", "..")
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	imports := regexp.MustCompile(`(?m)^(import )?\s*(\w+ )?"github\.com/segmentio/kafka-go[^"]*"$`)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (strings.HasPrefix(n, ".") && n != "..") || n == "build" || n == "dist" ||
				n == "target" {
				return fs.SkipDir
			}
			if abs, err := filepath.Abs(path); err == nil && abs == here {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if imports.Match(src) {
			t.Errorf("%s imports kafka-go", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The stock calls of the APIs that we replace panic in a goroutine of the transport.
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if imports.Match(src) {
			found++
		}
		for _, stock := range []string{"segmentio.Client{", "segmentio.NewReader", "segmentio.Writer{",
			"segmentio.NewConsumerGroup"} {
			if bytes.Contains(src, []byte(stock)) && f != "config_test.go" {
				t.Errorf("%s uses %s", f, stock)
			}
		}
	}
	if found == 0 {
		t.Error("the pattern finds no import of kafka-go, not even here")
	}
}
