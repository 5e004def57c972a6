// Package settings is what a worker can be told: the sections of its configuration, with their keys, their defaults and
// the checks that they make sense, alone and together. How they are read, and how mistakes are told, is package
// config's.
//
// Whether the files and the cluster that the settings name are there is checked by those who use them.
package settings

import (
	"time"

	"sluice/cmd/sluice/config"
	"sluice/pipeline"
	"sluice/pipeline/kafka"
)

// Settings is the whole configuration of a worker. Each section stands in a file of its own, with its table of keys.
type Settings struct {
	Kafka      Kafka
	Input      Input
	Skip       []Skip
	Models     []Model
	Output     Output
	Routes     []Route
	DeadLetter DeadLetter
	Limits     Limits
	Work
	Urgent     Urgent
	Cache      Cache
	Escalation Escalation
	Server     Server
	Log        Log

	// Rooms are the values of the sections of other rooms, by their names; see Section.
	Rooms map[string]any
}

// Section is the values of another room's section: what its Value points to. nil where no room has handed in a section
// of that name and type.
func Section[T any](s *Settings, name string) *T {
	v, _ := s.Rooms[name].(*T)
	return v
}

// Default is what holds where nothing is said. What a room has a default for is the room's to say.
func Default() Settings {
	lim, client := pipeline.DefaultLimits, kafka.DefaultConfig()
	return Settings{
		Kafka: Kafka{
			InstanceID:         hostname,
			SessionTimeout:     client.SessionTimeout,
			RebalanceTimeout:   client.RebalanceTimeout,
			TransactionTimeout: client.TransactionTimeout,
			Guarantee:          string(client.Guarantee),
			CommitInterval:     100 * time.Millisecond,
			Compression:        client.Compression,
			Fetch:              Fetch{MaxBytes: config.Bytes(client.FetchMaxBytes), MaxWait: client.FetchMaxWait},
		},
		Input: Input{Format: "json", Text: "text", Start: string(client.Start), MaxTextBytes: 256 << 10,
			MaxDepth: 512},
		Output: Output{Field: "inference"},
		Limits: Limits{
			Partition: Limit{Records: lim.PartitionRecords, Bytes: config.Bytes(lim.PartitionBytes),
				Tokens: lim.PartitionTokens},
			Total: Limit{Records: lim.TotalRecords, Bytes: config.Bytes(lim.TotalBytes), Tokens: lim.TotalTokens},
		},
		Work:       Work{RunTimeout: 30 * time.Second},
		Escalation: defaultEscalation(),
		Server:     Server{Listen: "127.0.0.1:9464"},
		Log:        Log{Level: "info", Format: "text"},
	}
}

// Room makes the section of another room, whose check may look at the settings of the worker too: by then they are
// read.
type Room func(*Settings) config.Section

// Schema is the sections of a worker, which fill in s, and those of other rooms behind them. What s holds is taken for
// the defaults.
func (s *Settings) Schema(rooms ...Room) *config.Schema {
	sections := s.sections()
	for _, room := range rooms {
		section := room(s)
		if s.Rooms == nil {
			s.Rooms = map[string]any{}
		}
		s.Rooms[section.Name] = section.Value
		sections = append(sections, section)
	}
	return config.New(sections...)
}

// sections are in the order of help and of what is printed.
func (s *Settings) sections() []config.Section {
	check := func(f func(*config.Check, *Settings)) func(*config.Check) {
		return func(c *config.Check) { f(c, s) }
	}
	return []config.Section{
		{Name: "kafka", Value: &s.Kafka, Keys: kafkaKeys, Check: check(checkKafka)},
		{Name: "input", Value: &s.Input, Keys: inputKeys, Check: check(checkInput), Idle: s.idleInput},
		{Name: "skip", Value: &s.Skip, Entry: Skip{}, Keys: skipKeys, Check: check(checkSkip),
			Example: `[{name: deletes, when: 'field("payload.op") == "d"'}]`},
		{Name: "models", Value: &s.Models, Entry: DefaultModel(), Keys: modelKeys, Check: check(checkModels),
			Idle: s.idleModel, Need: true, Example: "[{name: sentiment, path: models/sentiment}]"},
		{Name: "output", Value: &s.Output, Keys: outputKeys, Check: check(checkTopics)},
		{Name: "routes", Value: &s.Routes, Entry: Route{}, Keys: routeKeys, Check: check(checkRoutes),
			Example: "[{name: urgent, when: 'sentiment.score > 0.95', topic: urgent_alerts}]"},
		{Name: "dead_letter", Value: &s.DeadLetter, Keys: deadLetterKeys},
		{Name: "limits", Value: &s.Limits, Keys: limitKeys, Check: check(checkLimits)},
		{Value: &s.Work, Keys: workKeys},
		{Name: "urgent", Value: &s.Urgent, Keys: urgentKeys, Check: check(checkUrgent)},
		{Name: "cache", Value: &s.Cache, Keys: cacheKeys},
		{Name: "escalation", Value: &s.Escalation, Keys: escalationKeys, On: s.Escalation.On,
			Check: check(checkEscalation)},
		{Name: "server", Value: &s.Server, Keys: serverKeys, Check: check(checkServer)},
		{Name: "log", Value: &s.Log, Keys: logKeys},
	}
}

// Loaded is a worker's configuration without mistakes.
type Loaded struct {
	Settings
	*config.Loaded
}

// Load reads and checks the configuration of a worker, with the sections of other rooms beside its own. The error is
// that of config.Schema.Load.
func Load(src config.Source, rooms ...Room) (*Loaded, error) {
	c := &Loaded{Settings: Default()}
	var err error
	if c.Loaded, err = c.Settings.Schema(rooms...).Load(src); err != nil {
		return nil, err
	}
	c.Kafka.TLS.Enabled = c.Kafka.TLS.On() // the other keys imply it
	return c, nil
}

// Keys are the keys of the worker's sections and of those of other rooms, for flags and help.
func Keys(rooms ...Room) *config.Schema {
	s := Default()
	return s.Schema(rooms...)
}

// idleInput and the like say which keys have no effect beside the values of others, and would be mistakes if they were
// given.
func (s *Settings) idleInput(_ int, name string) bool {
	return name == "text" && s.Input.Format == "text"
}

func (s *Settings) idleModel(entry int, name string) bool {
	switch m := s.Models[entry]; name {
	case "stride", "window_merge":
		return m.LongText == "truncate"
	case "student_threshold":
		return m.Student == ""
	case "device_fallback":
		return m.Device == "cpu"
	}
	return false
}
