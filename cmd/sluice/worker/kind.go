// Package worker puts a worker together from its settings and runs it: stages that read topics, with everything that
// they need, and the HTTP endpoints that show them. It is the only room that knows the tokenizer, the model runtime,
// the Kafka client and the pipeline at once.
//
// What a worker can do is a list of kinds of stages (Kinds). A Kind brings all that is its own: its name, its section
// of the configuration, its checks, what it touches in Kafka, its metrics, its part of /status, and how it is built.
// The commands ask the list, so a further kind is a file with a Kind in it, and one word in the list.
package worker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/cmd/sluice/audit"
	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
	"sluice/pipeline/store"
	"sluice/pipeline/tap"
)

// This file owns the list of kinds, and what a kind is.

// List is kinds of stages, in the order in which they are named, checked, built and shown. Their names, the prefixes of
// their metrics and the names of their members of /status differ.
type List []Kind

// Kinds are the kinds of stages that a worker has.
var Kinds = List{Classify, Escalate}

// Kind is a kind of stage: one consumer group, from its topics through a processor to topics.
type Kind struct {
	Name string // as --stage has it: a word, such as classify
	Help string // in a few words, for --stage: what a worker is that runs this alone

	// Section is what can be set. nil: package settings has the section itself, because other kinds look into it too.
	Section settings.Room
	// On says whether a configuration has this stage.
	On func(*settings.Settings) bool
	// Off is the sentence for who asks for the stage where the configuration does not have it: why not, and what to do.
	Off string

	// Kafka makes the client's configuration out of what all clients of a worker have in common, which is without
	// topics: Topics, Outputs, and Group where it is not kafka.group.
	Kafka func(s *settings.Settings, base kafka.Config) kafka.Config
	// Metrics are the prefix and the dispositions of the metrics that every stage has.
	Metrics pipeline.StageMetricsOptions
	// Absent is what /status shows while the stage does not run, in place of Running.Page. nil: nothing.
	Absent []Member

	// Check looks, for `sluice validate`, at what the configuration names beside the cluster: files, models. It tells
	// r. nil: there is nothing to look at.
	Check func(ctx context.Context, c *settings.Loaded, r Report)
	// Audit says, for `sluice verify`, which records to count. nil: the stage makes no promise that it can count.
	// The error is a configuration fault.
	Audit func(s *settings.Settings, p *audit.Plan) error
	// Build makes the stage. It may take long (models); when ctx ends, it gives up. The error is a *pipeline.Fault.
	Build func(ctx context.Context, e Env) (*Running, error)
}

// Env is what Build makes a stage of.
type Env struct {
	Settings *settings.Settings
	Process  *Process
	// Client is the stage's own client. The worker closes it after the stage.
	Client *kafka.Client
	// Stage begins the options of the stage: Limits, CommitInterval, Grace, Metrics, Logger and Watchdog, with a tap
	// that counts for /status.
	Stage    pipeline.StageOptions
	Registry prometheus.Registerer // for metrics that only this kind has
	Log      *slog.Logger
	Steps    Steps
	// Enter says what Build is busy with, for /readyz.
	Enter func(phase string)
	// Fail ends the stage with a fault, once NewStage has made it; until then it does nothing.
	Fail func(error)

	stage  *atomic.Pointer[pipeline.Stage]
	stores *[]store.Store
}

// Running is a stage that has been built.
type Running struct {
	Name   string // of the Kind
	Stage  *pipeline.Stage
	Source pipeline.Source // Env.Client
	// Page makes the stage's members of /status out of what every stage can say of itself.
	Page   func(StagePage) []Member
	Models []ModelPage // that were loaded for the stage; nil: it runs none
	Close  func()      // after the stage has ended; nil: there is nothing to close

	rates  *tap.Rates
	client *kafka.Client
	stores []store.Store
	log    *slog.Logger
}

func (r *Running) close() {
	if r.Close != nil {
		r.Close()
	}
	for _, s := range r.stores {
		if err := s.Close(); err != nil {
			r.log.Warn("closing a store", "store", fmt.Sprintf("%T", s), "error", err)
		}
	}
	r.client.Close()
}

// page is what every stage can say of itself.
func (r *Running) page() StagePage { return StagePage{r.Stage.Status(), r.rates.Page()} }

// All is what --stage says for every kind that the configuration has.
const All = "all"

// Stages are what --stage may say.
func (l List) Stages() []string {
	names := []string{All}
	for _, k := range l {
		names = append(names, k.Name)
	}
	return names
}

// Explained are Stages as a sentence of a help text lists them: each kind with its Help.
func (l List) Explained() string {
	names := []string{All}
	for _, k := range l {
		names = append(names, fmt.Sprintf("%s (%s)", k.Name, k.Help))
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + ", or " + names[last]
}

// Sections are the sections of kinds that bring their own.
func (l List) Sections() []settings.Room {
	var rooms []settings.Room
	for _, k := range l {
		if k.Section != nil {
			rooms = append(rooms, k.Section)
		}
	}
	return rooms
}

// On are the kinds that a configuration has.
func (l List) On(s *settings.Settings) List {
	var on List
	for _, k := range l {
		if k.On(s) {
			on = append(on, k)
		}
	}
	return on
}

// Pick is the kinds that a worker runs by --stage, which is one of Stages; "" is All. A kind that is named and that the
// configuration does not have is a configuration fault.
func (l List) Pick(s *settings.Settings, stage string) (List, error) {
	if stage == "" || stage == All {
		return l.On(s), nil
	}
	i := slices.IndexFunc(l, func(k Kind) bool { return k.Name == stage })
	if i < 0 {
		return nil, pipeline.Faultf(pipeline.Config, "start", "stage", "--stage %s: it is one of %s", stage,
			strings.Join(l.Stages(), ", "))
	}
	if !l[i].On(s) {
		return nil, pipeline.Faultf(pipeline.Config, "start", "stage", "--stage %s: %s", stage, l[i].Off)
	}
	return l[i : i+1], nil
}

// Access is what the clients of the kinds touch in Kafka.
func (l List) Access(s *settings.Settings) []kafka.Access {
	base := kafkaBase(s)
	clients := make([]kafka.Access, len(l))
	for i, k := range l {
		c := k.Kafka(s, base)
		clients[i] = c.Access()
	}
	return clients
}

// Audit is the records that the kinds of a configuration promise something about. The error is a configuration fault.
func (l List) Audit(s *settings.Settings) (audit.Plan, error) {
	p := audit.Plan{Group: s.Kafka.Group, AtLeastOnce: s.Kafka.Guarantee == string(kafka.AtLeastOnce)}
	for _, k := range l.On(s) {
		if k.Audit != nil {
			if err := k.Audit(s, &p); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}
