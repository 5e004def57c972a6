package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/faults/history"
	"sluice/pipeline"
)

// This file owns the scenarios in which the log no longer has what the group wants to read, and what input.start says
// about it.

// exitConfig is the exit code of a worker for which a person must act first (docs/OPERATIONS.md), endsConfig the same
// in the words of the table.
const (
	exitConfig = 2
	endsConfig = "exit 2"
)

// span is a range of offsets of one partition: from first on, before behind.
type span struct{ first, behind int64 }

// skips are ranges of the input that no worker may have judged. The scenario's functions share one.
type skips map[int32]span

// forgive lets the checker do without outputs for what lies in the ranges.
func (s skips) forgive(in *history.Input) {
	if x, ok := s[in.Partition.Number]; ok && in.Offset >= x.first && in.Offset < x.behind {
		in.Optional = true
	}
}

func (s skips) records() int {
	n := 0
	for _, x := range s {
		n += int(x.behind - x.first)
	}
	return n
}

// only demands that exactly those records have no output: the checker finds what is lost, but not what came in spite of
// a skip.
func (s skips) only(r *run) error {
	judged := 0
	for _, topic := range []string{r.out, r.dlq} {
		out, err := r.read(topic, kgo.ReadCommitted())
		if err != nil {
			return err
		}
		judged += len(out)
	}
	if len(s) > 0 {
		r.note("%d skipped, as the policy says", s.records())
	}
	if want := r.produced - s.records(); judged != want {
		r.fail("%d outputs of %d records, %d of which were skipped: want %d", judged, r.produced, s.records(), want)
	}
	return nil
}

// stand gives the group offset 0 in every partition, so that a start policy has nothing to say about the first start.
func stand(r *run) error {
	offsets := kadm.Offsets{}
	for p := range r.partitions {
		offsets.AddOffset(r.in, int32(p), 0, -1)
	}
	return r.c.admin.CommitAllOffsets(r.ctx, r.group, offsets)
}

// absent stops the only worker cleanly, lets records come, deletes some of them before it could read them, and starts
// it again.
func absent(r *run) (*worker, skips, error) {
	w, err := r.start("w-0")
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(w.await(r.ctx), r.produce(400), r.settle(time.Minute)); err != nil {
		return nil, nil, err
	}
	w.stop(syscall.SIGTERM)
	if err := errors.Join(r.produce(400), r.keep()); err != nil {
		return nil, nil, err
	}
	gone, err := r.erase(2, func(committed, end int64) int64 { return committed + 10 + r.rng.Int64N(end-committed-20) })
	if err != nil {
		return nil, nil, err
	}
	w, err = r.start("w-0")
	return w, gone, err
}

// erase deletes records of the first partitions, from the committed offset to where upTo says.
func (r *run) erase(partitions int, upTo func(committed, end int64) int64) (skips, error) {
	g, err := r.standing()
	if err != nil {
		return nil, err
	}
	gone, to := skips{}, kadm.Offsets{}
	for p := range int32(partitions) {
		q := history.Partition{Topic: r.in, Number: p}
		gone[p] = span{g.Committed[q], upTo(g.Committed[q], g.Ends[q])}
		to.AddOffset(r.in, p, gone[p].behind, -1)
	}
	answer, err := r.c.admin.DeleteRecords(r.ctx, to)
	if err == nil {
		err = answer.Error()
	}
	return gone, err
}

var missedLine = regexp.MustCompile(
	`level=ERROR msg="offset out of range: .*partition=(\S+) offset=(\d+) start=(\S+) new_offset=(\d+) missed=(\d+)`)

// missed is what a worker's log says about records that it could not read.
func (r *run) missed(w *worker, policy string) skips {
	said := skips{}
	for _, m := range missedLine.FindAllStringSubmatch(w.log.String(), -1) {
		for p := range int32(r.partitions) {
			if m[1] != (pipeline.TopicPartition{Topic: r.in, Partition: p}).String() {
				continue
			}
			first, _ := strconv.ParseInt(m[2], 10, 64) // digits
			behind, _ := strconv.ParseInt(m[4], 10, 64)
			if _, twice := said[p]; twice || m[3] != policy || m[5] != fmt.Sprint(behind-first) {
				r.fail("%s says something else than was due: %s", w.name, m[0])
			}
			said[p] = span{first, behind}
		}
	}
	return said
}

// same demands that a worker's log names exactly what it could not read.
func (r *run) same(w *worker, said, want skips) {
	for p := range int32(r.partitions) {
		if said[p] != want[p] {
			r.fail("%s says that it missed offsets %v of partition %d, it missed %v", w.name, said[p], p, want[p])
		}
	}
}

// rangeEarliest goes on with what is left: first exactly, then with a frozen worker that may hold some of what is
// deleted.
func rangeEarliest(lost skips) func(*run) error {
	return func(r *run) error {
		w, gone, err := absent(r)
		if err != nil {
			return err
		}
		if err := errors.Join(w.await(r.ctx), r.settle(time.Minute)); err != nil {
			return err
		}
		said := r.missed(w, "earliest")
		r.same(w, said, gone)
		for p, x := range said {
			lost[p] = x
		}
		return nil
	}
}

// rangeFrozen deletes records under a worker that is frozen: what it has in memory is delivered, the rest is said to be
// missed.
func rangeFrozen(lost skips) func(*run) error {
	return func(r *run) error {
		w := r.workers[0]
		if err := errors.Join(r.produce(400), r.settle(time.Minute)); err != nil {
			return err
		}
		w.signal(syscall.SIGSTOP)
		for range 20 { // of which the worker's last request gets the first
			if err := r.produce(40); err != nil {
				return err
			}
		}
		if err := r.keep(); err != nil {
			return err
		}
		if _, err := r.erase(2, func(_, end int64) int64 { return end - 20 }); err != nil {
			return err
		}
		w.signal(syscall.SIGCONT)
		if err := r.settle(time.Minute); err != nil {
			return err
		}
		for p, x := range r.missed(w, "earliest") {
			lost[p] = x
		}
		if len(lost) == 0 {
			return errors.New("the worker missed nothing: no offset was out of range")
		}
		return nil
	}
}

// rangeLatest goes on at the end: what was deleted and what was left are both skipped, in the partitions in which
// records were deleted.
func rangeLatest(lost skips) func(*run) error {
	return func(r *run) error {
		w, gone, err := absent(r)
		if err != nil {
			return err
		}
		g, err := r.standing()
		if err != nil {
			return err
		}
		for p, x := range gone {
			lost[p] = span{x.first, g.Ends[history.Partition{Topic: r.in, Number: p}]}
		}
		if err := errors.Join(w.await(r.ctx), r.settle(time.Minute)); err != nil {
			return err
		}
		r.same(w, r.missed(w, "latest"), lost)
		return r.produce(400)
	}
}

// rangeError ends the worker, until an operator has moved the group.
func rangeError(lost skips) func(*run) error {
	return func(r *run) error {
		w, gone, err := absent(r)
		if err != nil {
			return err
		}
		words := []string{"out-of-range", "has no offset ", "kafka-consumer-groups --reset-offsets --group " + r.group,
			"--to-earliest --execute", "input.start is error"}
		if err := r.refuses(w, slices.Collect(func(yield func(string) bool) {
			for p := range gone {
				if strings.Contains(w.log.String(), fmt.Sprintf("--topic %s:%d ", r.in, p)) &&
					!yield(fmt.Sprintf("%s-%d has no offset %d", r.in, p, gone[p].first)) {
					return
				}
			}
		}), words...); err != nil {
			return err
		}
		for p, x := range gone {
			if err := r.reset(fmt.Sprintf("%s:%d", r.in, p), "--to-earliest"); err != nil {
				return err
			}
			lost[p] = x
		}
		if w, err = r.start("w-0"); err != nil {
			return err
		}
		return w.await(r.ctx)
	}
}

// refuses waits until a worker has ended as one for which a person must act, looks whether its log has the words that
// tell that person what to do, and stops its supervisor.
func (r *run) refuses(w *worker, also []string, words ...string) error {
	if err := await(r.ctx, time.Minute, w.name+" to end", func() error {
		if _, exits := w.counts(); len(exits) == 0 {
			return errors.New("it lives")
		}
		return nil
	}); err != nil {
		return err
	}
	w.stop(syscall.SIGKILL)
	_, exits := w.counts()
	if exits[0] != exitConfig {
		r.fail("%s ended with exit code %d, want %d", w.name, exits[0], exitConfig)
	}
	r.says(w, append(words, also...)...)
	return nil
}

// says demands words of a worker that has ended.
func (r *run) says(w *worker, words ...string) {
	log := w.log.String()
	for _, s := range words {
		if !strings.Contains(log, s) {
			r.fail("%s ended and its log does not say %q: %s", w.name, s, lastLine(log))
		}
	}
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1]
}

// reset moves the group in one partition, as an operator would: the worker has been stopped, it is taken out of the
// group (which its session's end would do as well), and Kafka's own tool does the rest.
func (r *run) reset(partition string, to ...string) error {
	if _, err := r.c.admin.LeaveGroup(r.ctx, kadm.LeaveGroup(r.group).InstanceIDs("w-0")); err != nil {
		return err
	}
	return await(r.ctx, 30*time.Second, "kafka-consumer-groups --reset-offsets", func() error {
		said, err := r.c.local(r.ctx, append([]string{"tool",
			"org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", r.c.direct[0],
			"--group", r.group, "--topic", partition, "--reset-offsets", "--execute"}, to...)...)
		if err == nil && !strings.Contains(said, r.in) {
			err = errors.New(strings.TrimSpace(said))
		}
		return err
	})
}

func policyScenarios() []scenario {
	var all []scenario
	add := func(name, fault, injected, start string, do func(skips) func(*run) error, workers int) {
		lost := skips{}
		all = append(all, scenario{name: name, fault: fault, injected: injected, args: []string{"--input.start=" +
			start}, brokers: 1, workers: workers, rate: -1,
			before: stand, do: do(lost), inputs: lost.forgive, after: lost.only})
	}
	add("out-of-range-earliest", "records are deleted before they are read; start: earliest",
		"DeleteRecords beyond the committed offsets of 2 of 4 partitions while the worker is down. All that is left "+
			"is delivered; the log names exactly the offsets missed", "earliest", rangeEarliest, 0)
	add("out-of-range-frozen", "records are deleted under a frozen worker; start: earliest",
		"SIGSTOP, DeleteRecords, SIGCONT. What the worker has in memory is delivered; what the log calls missed is "+
			"exactly what has no output", "earliest", rangeFrozen, 1)
	add("out-of-range-latest", "records are deleted before they are read; start: latest",
		"DeleteRecords as above. Reading goes on at the end of those partitions; the log names exactly the offsets "+
			"skipped; the others lose nothing", "latest", rangeLatest, 0)
	add("out-of-range-error", "records are deleted before they are read; start: error",
		"DeleteRecords as above. Exit code 2, the message names partition, offset and command; after "+
			"kafka-consumer-groups --reset-offsets all that is left is delivered", "error", rangeError, 0)
	all[len(all)-1].ends = []string{endsConfig}
	return append(all, damageScenarios()...)
}
