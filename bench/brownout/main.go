// Command brownout measures what an endpoint in trouble does to the fast path: one worker with escalation on a real
// broker, under an open load and saturated, with the endpoint in one state after the other, all states once a round.
// What counts is revision 1: the results of the local model.
//
//	make bench-brownout
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"sluice/bench/trial"
	"sluice/cmd/sluice/load"
	"sluice/pipeline/llm/standin"
)

// state is what the endpoint does.
type state struct {
	name   string
	asks   bool     // escalation is on
	serves bool     // there is a process
	stub   []string // its flags
}

var states = []state{
	{name: "no escalation"},
	{name: "healthy", asks: true, serves: true},
	{name: "10 % failures", asks: true, serves: true, stub: []string{"-fail", "0.1"}},
	{name: "100 % failures", asks: true, serves: true, stub: []string{"-fail", "1"}},
	{name: "hangs (30 s)", asks: true, serves: true, stub: []string{"-hang"}},
	{name: "connection refused", asks: true},
	{name: "no escalation, again"}, // how far equal things differ on this machine
}

type options struct {
	*trial.Command
	when    string
	records int
	length  time.Duration
	share   float64
}

func main() {
	o := &options{Command: trial.NewCommand("bench/brownout", "bench/results/brownout.md")}
	o.Rounds, o.Partitions = 3, 4
	flag.StringVar(&o.when, "when", "verdict.score < 0.7", "escalation.when; the verdict's name is verdict")
	flag.IntVar(&o.records, "records", 3000, "records of a saturated run")
	flag.DurationVar(&o.length, "length", 20*time.Second, "length of an open load")
	flag.Float64Var(&o.share, "share", 0.6, "of the saturated rate that is offered under open load")
	listen := flag.String("stub", "", "be the endpoint at this address (the command starts itself so)")
	fail := flag.Float64("fail", 0, "share of calls that the endpoint fails")
	hang := flag.Bool("hang", false, "the endpoint never answers")
	o.Main(func(ctx context.Context) error {
		if *listen != "" {
			return serve(*listen, *fail, *hang)
		}
		return run(ctx, o)
	})
}

// latency of a healthy answer, as of a served model.
const latency = 150 * time.Millisecond

func serve(address string, fail float64, hang bool) error {
	s := standin.New(standin.Options{Labels: []string{"NEGATIVE", "POSITIVE"}, Latency: standin.LogNormal(latency, 0.5),
		FailureShare: fail, Seed: 1, KeepBytes: 1})
	if hang {
		s.Always(standin.Hang())
	}
	return http.ListenAndServe(address, s)
}

// freeAddress is one where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// endpoint starts the process of a state and returns its address and what ends it.
func endpoint(ctx context.Context, st state) (address string, end func(), err error) {
	if address, err = freeAddress(); err != nil || !st.serves {
		return address, func() {}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	c := exec.CommandContext(ctx, exe, append([]string{"-stub", address}, st.stub...)...)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		return "", nil, err
	}
	end = func() {
		c.Process.Kill()
		c.Wait() // its exit code says that it was killed
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
			return address, end, nil
		}
		select {
		case <-ctx.Done():
			end()
			return "", nil, fmt.Errorf("the endpoint does not listen at %s: %w", address, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// measured is one state in one round.
type measured struct {
	saturated, p50, p99 float64 // results a second; ms
	cpu                 float64 // of the worker, seconds per 1,000 results under open load
	questions           float64 // of the whole run
	calls               float64
	lost                int
}

func run(ctx context.Context, o *options) error {
	texts, err := o.Generated("mixed")
	if err != nil {
		return err
	}
	broker, err := trial.StartBroker()
	if err != nil {
		return err
	}
	defer broker.Stop()
	all := make([][]measured, len(states))
	rate := 0.0 // of the open load, the same for all
	names := make([]string, len(states))
	for k, st := range states {
		names[k] = st.name
	}
	// the first of all is the baseline, whose rate the others need
	if err := trial.Turns(os.Stderr, o.Rounds, names, func(k int) error {
		m, err := measure(ctx, o, broker, texts, states[k], &rate)
		all[k] = append(all[k], m)
		return err
	}); err != nil {
		return err
	}
	var page bytes.Buffer
	write(&page, o, rate, all)
	return o.Publish(page.Bytes())
}

func measure(ctx context.Context, o *options, b *trial.Broker, texts *load.Texts, st state, rate *float64) (m measured,
	err error) {
	run := fmt.Sprint(time.Now().UnixNano())
	target := load.Target{Brokers: []string{b.Address}, Input: "in-" + run, Output: "out-" + run, DeadLetter: "dlq-" +
		run, Format: load.JSON}
	asks := load.Target{Brokers: target.Brokers, Input: "asks-" + run, Output: "unused-" + run}
	if err := errors.Join(load.CreateTopics(ctx, target, o.Partitions), load.CreateTopics(ctx, asks,
		o.Partitions)); err != nil {
		return m, err
	}
	defer b.Forget(target.Input, target.Output, target.DeadLetter, asks.Input, asks.Output)
	address, end, err := endpoint(ctx, st)
	if err != nil {
		return m, err
	}
	defer end()
	env := os.Environ()
	if st.asks {
		env = append(env, "SLUICE_ESCALATION__WHEN="+o.when, "SLUICE_ESCALATION__TOPIC="+asks.Input,
			"SLUICE_ESCALATION__ENDPOINT__URLS=http://"+address+"/v1",
			"SLUICE_ESCALATION__ENDPOINT__MODEL=stub", "SLUICE_ESCALATION__ENDPOINT__TIMEOUT=30s")
	}
	worker, err := load.StartWorker(ctx, load.WorkerPlan{Binary: o.Binary, Dir: b.Dir, Target: target, Model: o.Model,
		Group: "brownout-" + run, Name: "brownout-0", Serve: true, Env: env,
		Args: []string{"--grace=1s"}}) // questions that hang are not waited for
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, worker.Stop()) }()
	drain := func() error {
		texts.Rewind()
		if err := worker.Pause(); err != nil {
			return err
		}
		// an amendment carries the mark again
		d, err := load.Drain(ctx, load.DrainPlan{Target: target, Records: o.records, Texts: texts, From: 0.1,
			AllowTwice: true,
			Begin:      func(context.Context) ([]int, error) { return []int{worker.PID}, worker.Resume() }})
		m.saturated, m.lost = d.Rate, m.lost+d.Lost
		return err
	}
	if *rate == 0 {
		if err := drain(); err != nil {
			return m, err
		}
		*rate = o.share * m.saturated
	}
	s, err := load.Open(ctx, target, load.Options{Texts: texts, Seed: 1, Probe: load.Probe{PIDs: []int{worker.PID}}})
	if err != nil {
		return m, err
	}
	step, err := s.Step(ctx, *rate, o.length)
	s.Close()
	if err != nil {
		return m, err
	}
	m.p50, m.p99, m.lost, m.cpu = step.Latency.P50, step.Latency.P99, step.Lost, step.Worker.CPUPer1000
	if err := drain(); err != nil {
		return m, err
	}
	if st.asks {
		r, err := (load.Probe{Metrics: worker.HTTP + "/metrics"}).Read(ctx)
		if err != nil {
			return m, err
		}
		m.questions, m.calls = r["sluice_escalation_questions_total"], r["sluice_escalation_calls_total"]
	}
	return m, nil
}

func write(w io.Writer, o *options, rate float64, all [][]measured) {
	fmt.Fprintf(w, "# The fast path while the endpoint is in trouble\n\nModel `%s`, `escalation.when: %s`, mode "+
		"amend; one worker with both stages on a real broker. Mixed texts (5 to about 128 tokens). "+
		"Open load: %.0f msgs/s (%.0f %% of the saturated rate without escalation), Poisson arrivals fixed in "+
		"advance, %v; saturated: a backlog of %d records. "+
		"Latency from the intended send time until a read_committed consumer has revision 1. A healthy answer takes "+
		"%v (log-normal, sigma 0.5); the endpoint is a process of its own. "+
		"Broker, generator, endpoint and worker share the cores. Rounds: %d, every state once in each, in turns; "+
		"medians, and the least and the most of the ratios to the first row of the same round, and the median of "+
		"those to the healthy one. Made by `make bench-brownout`. Machine: %v; %s.\n\n",
		filepath.Base(o.Model), o.when, rate, 100*o.share, o.length, o.records, latency, o.Rounds,
		load.DescribeMachine(), time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(w, "| endpoint | saturated, msgs/s | ratio | to healthy | p50 ms | p99 ms | p99 ratio | to healthy | "+
		"worker CPU s per 1,000 | questions decided | calls | lost "+
		"|\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for i, st := range states {
		column := func(f func(measured) float64) []float64 {
			var v []float64
			for _, m := range all[i] {
				v = append(v, f(m))
			}
			return v
		}
		ratio := func(to int, f func(measured) float64) []float64 {
			var v []float64
			for round, m := range all[i] {
				v = append(v, f(m)/f(all[to][round]))
			}
			return v
		}
		saturated, p99 := func(m measured) float64 { return m.saturated }, func(m measured) float64 { return m.p99 }
		fmt.Fprintf(w, "| %s | %.0f | %s | %.2f | %.1f | %.1f | %s | %.2f | %.2f | %.0f | %.0f | %.0f |\n", st.name,
			median(column(saturated)), spread(ratio(0, saturated)), median(ratio(1, saturated)),
			median(column(func(m measured) float64 { return m.p50 })), median(column(p99)), spread(ratio(0, p99)),
			median(ratio(1, p99)), median(column(func(m measured) float64 { return m.cpu })),
			median(column(func(m measured) float64 { return m.questions })),
			median(column(func(m measured) float64 { return m.calls })),
			slices.Max(column(func(m measured) float64 { return float64(m.lost) })))
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func spread(v []float64) string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(v), slices.Min(v), slices.Max(v))
}
