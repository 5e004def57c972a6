package audit

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/pipeline/pipelinetest"
	"sluice/pipeline/publish"
)

func TestMain(m *testing.M) {
	code := m.Run()
	pipelinetest.StopKafka()
	os.Exit(code)
}

// stage is one pair of topics on a real broker, on which a test plays the worker.
type stage struct {
	t      *testing.T
	name   string
	client *kgo.Client
	admin  *kadm.Client
	sent   map[int32]int64 // records by partition
}

const partitions = 3

func newStage(t *testing.T, config map[string]*string) *stage {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no real broker")
	}
	client := pipelinetest.Kafka(t).Client(t)
	s := &stage{t: t, name: strings.ToLower(strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())), client: client,
		admin: kadm.NewClient(client), sent: map[int32]int64{}}
	for topic, c := range map[string]map[string]*string{"in": nil, "out": config, "dlq": nil} {
		if r, err := s.admin.CreateTopic(t.Context(), partitions, 1, c, s.topic(topic)); err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
	return s
}

func (s *stage) topic(kind string) string { return s.name + "." + kind }

func (s *stage) produce(records ...*kgo.Record) {
	s.t.Helper()
	if err := s.client.ProduceSync(s.t.Context(), records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// input writes n records to every partition.
func (s *stage) input(n int) {
	s.t.Helper()
	for p := range int32(partitions) {
		for range n {
			s.produce(&kgo.Record{Topic: s.topic("in"), Partition: p, Value: []byte("x")})
			s.sent[p]++
		}
	}
}

// answer writes one message about a record.
func (s *stage) answer(kind string, p int32, offset int64, number string) {
	s.t.Helper()
	s.produce(s.message(kind, p, offset, number))
}

func (s *stage) message(kind string, p int32, offset int64, number string) *kgo.Record {
	source := fmt.Sprintf("%s/%d/%d", s.topic("in"), p, offset)
	return &kgo.Record{Topic: s.topic(kind), Partition: p, Key: []byte("k"), Value: []byte("y"),
		Headers: []kgo.RecordHeader{
			{Key: publish.HeaderSource, Value: []byte(source)}, {Key: publish.HeaderID, Value: []byte(source + "#" +
				number)},
		}}
}

// commit sets the group's offset of a partition.
func (s *stage) commit(p int32, offset int64) {
	s.t.Helper()
	o := kadm.Offsets{}
	o.Add(kadm.Offset{Topic: s.topic("in"), Partition: p, At: offset, LeaderEpoch: -1})
	if r, err := s.admin.CommitOffsets(s.t.Context(), s.name, o); err != nil || r.Error() != nil {
		s.t.Fatal(err, r.Error())
	}
}

func (s *stage) run(change func(*Plan)) *Report {
	s.t.Helper()
	p := Plan{Group: s.name, Inputs: []string{s.topic("in")}, Output: s.topic("out"), DeadLetter: s.topic("dlq"),
		Since: time.Now().Add(-time.Hour)}
	if change != nil {
		change(&p)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	r, err := Run(ctx, s.client, p)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *stage) want(r *Report, want Partition) {
	s.t.Helper()
	got := r.Total
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		s.t.Errorf("found %+v\nwant  %+v\n%v %+v", got, want, r.Notes, r.Partitions)
	}
}

func TestAGoodRunOnARealBrokerIsClean(t *testing.T) {
	s := newStage(t, nil)
	s.input(40)
	// Aborted and committed transactions of other producers: offsets without a record, the last of the log among them.
	tx, err := kgo.NewClient(kgo.SeedBrokers(pipelinetest.Kafka(t).Addrs()[0]), kgo.TransactionalID(s.name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	end := func(how kgo.TransactionEndTry, kind string) {
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		r := &kgo.Record{Topic: s.topic("in"), Partition: 1, Value: []byte("z")}
		if kind == "out" { // aborted answers are none
			r = s.message("out", 1, 3, "0")
		}
		if err := tx.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := tx.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	end(kgo.TryAbort, "in")  // offsets 40, 41
	end(kgo.TryCommit, "in") // 42 is a record, 43 none
	end(kgo.TryAbort, "in")  // 44, 45
	end(kgo.TryAbort, "out")
	for p := range int32(partitions) {
		for o := range int64(40) {
			switch {
			case o == 7:
				s.answer("dlq", p, o, "0")
			default:
				s.answer("out", p, o, "0")
			}
		}
	}
	s.answer("out", 1, 42, "0")
	s.answer("out", 2, 5, "2") // an amendment
	s.commit(0, 40)
	s.commit(1, 46)
	s.commit(2, 30) // ten are in flight, although they have answers already
	s.answer("out", 2, 39, "0")
	r := s.run(nil)
	s.want(r, Partition{Records: 40 + 41 + 30, Gaps: 5, Results: 39 + 40 + 29, DeadLetters: 3, Amended: 1,
		InFlight: 10})
	if !r.Clean() || len(r.Notes) > 0 {
		t.Errorf("not clean: %v", r.Notes)
	}
}

func TestPlantedFaultsOnARealBrokerAreCounted(t *testing.T) {
	s := newStage(t, nil)
	s.input(30)
	for p := range int32(partitions) {
		for o := range int64(30) {
			switch {
			case p == 0 && o == 4: // lost
			case p == 1 && o == 9:
				s.answer("out", p, o, "0")
				s.answer("out", p, o, "0")
			case p == 2 && o == 20:
				s.answer("out", p, o+1, "0")
			case p == 2 && o == 21:
				s.answer("out", p, o-1, "0")
			default:
				s.answer("out", p, o, "0")
			}
		}
		s.commit(p, 30)
	}
	s.produce(&kgo.Record{Topic: s.topic("out"), Partition: 0, Value: []byte("of somebody else")})
	r := s.run(nil)
	s.want(r, Partition{Records: 90, Results: 89, Lost: 1, Doubled: 1, Disordered: 1})
	if r.Clean() || r.Foreign[s.topic("out")] != 1 {
		t.Errorf("clean: %v, foreign: %v", r.Clean(), r.Foreign)
	}
	for _, e := range []string{".in/0/4 has no answer", ".in/1/9 has its answer once more", ".in/2/20 is behind 21"} {
		if !strings.Contains(fmt.Sprint(r.Partitions), e) {
			t.Errorf("no example says %q: %v", e, r.Partitions)
		}
	}
	again := s.run(func(p *Plan) { p.AtLeastOnce = true })
	if again.Clean() {
		t.Error("at-least-once excuses a loss")
	}
}

func TestWhatRetentionRemovedIsUnverifiable(t *testing.T) {
	s := newStage(t, nil)
	s.input(20)
	for p := range int32(partitions) {
		for o := range int64(20) {
			if p == 0 && o == 15 {
				continue // truly lost, behind what was deleted
			}
			s.answer("out", p, o, "0")
		}
		s.commit(p, 20)
	}
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: s.topic("out"), Partition: 0, At: 8})
	offsets.Add(kadm.Offset{Topic: s.topic("in"), Partition: 1, At: 5})
	if r, err := s.admin.DeleteRecords(t.Context(), offsets); err != nil || r.Error() != nil {
		t.Fatal(err, r.Error())
	}
	r := s.run(nil)
	s.want(r, Partition{Records: 55, Results: 11 + 15 + 20, Unverifiable: 8, Lost: 1})
	notes := strings.Join(r.Notes, "\n")
	for _, want := range []string{".out-0: the log begins at 8", ".in-1: the log begins at 5"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note says %q:\n%s", want, notes)
		}
	}
}

func TestACompactedOutputCannotProveALoss(t *testing.T) {
	compact := "compact"
	s := newStage(t, map[string]*string{"cleanup.policy": &compact})
	s.input(5)
	for o := range int64(4) {
		s.answer("out", 0, o, "0")
	}
	s.commit(0, 5)
	r := s.run(nil)
	if r.Total.Lost != 0 || r.Total.Unverifiable != 1 || !strings.Contains(fmt.Sprint(r.Notes), "is compacted") {
		t.Errorf("%+v %v", r.Total, r.Notes)
	}
	if !strings.Contains(fmt.Sprint(r.Notes), "has committed nothing here") {
		t.Errorf("nothing about the partitions without an offset: %v", r.Notes)
	}
}

func TestAnOpenTransactionMakesTheReportIncomplete(t *testing.T) {
	s := newStage(t, nil)
	s.input(3)
	tx, err := kgo.NewClient(kgo.SeedBrokers(pipelinetest.Kafka(t).Addrs()[0]), kgo.TransactionalID(s.name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ProduceSync(t.Context(), s.message("out", 0, 0, "0")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for p := range int32(partitions) {
		s.commit(p, 3)
	}
	r := s.run(func(p *Plan) { p.Patience = 700 * time.Millisecond })
	if !r.Incomplete || r.Clean() || !strings.Contains(fmt.Sprint(r.Notes), "an open transaction holds up its "+
		"readers") {
		t.Errorf("%+v", r)
	}
	if err := tx.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if r := s.run(nil); r.Incomplete || r.Total.Results != 1 || r.Total.Lost != 8 {
		t.Errorf("after the transaction: %+v", r)
	}
}

func TestUntilAndTheMemoryBoundLimitWhatIsRead(t *testing.T) {
	s := newStage(t, nil)
	old := time.Now().Add(-30 * time.Minute)
	for o := range int64(10) {
		r := &kgo.Record{Topic: s.topic("in"), Partition: 0, Value: []byte("x")}
		if o < 6 {
			r.Timestamp = old
		}
		s.produce(r)
		if o != 3 {
			m := s.message("out", 0, o, "0")
			m.Timestamp = r.Timestamp
			s.produce(m)
		}
	}
	s.commit(0, 10)
	if r := s.run(func(p *Plan) { p.Until = time.Now().Add(-10 * time.Minute) }); r.Total.Records != 6 ||
		r.Total.Lost != 1 {
		t.Errorf("until: %+v", r.Total)
	}
	if r := s.run(func(p *Plan) { p.Since = time.Now().Add(-10 * time.Minute) }); r.Total.Records != 4 ||
		r.Total.Lost != 0 {
		t.Errorf("since: %+v", r.Total)
	}
	_, err := Run(t.Context(), s.client, Plan{Group: s.name, Inputs: []string{s.topic("in")}, Output: s.topic("out"),
		DeadLetter: s.topic("dlq"), MostRecords: 9})
	if err == nil || !strings.Contains(err.Error(), "look at a shorter time") {
		t.Errorf("ten records within a bound of nine: %v", err)
	}
}
