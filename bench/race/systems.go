package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// This file says who takes part, and how each is started. Settings that were tuned are in the READMEs of bench/peers.

// kind says what a system is in the race.
type kind string

const (
	ours    kind = "ours"
	peer    kind = "peer"
	ceiling kind = "ceiling" // no Kafka, nothing but the model
)

// system is one competitor.
type system struct {
	Name      string
	Title     string
	Kind      kind
	Guarantee string
	Precision string
	Settings  string
	Model     string // under build/race/models; also what it needs to run
	Ner       bool   // answers without meaning: no agreement, not ranked, rates of tokens only
	// a build step of prepare.sh; if build/race/<Needs>.skipped exists, the system does not run for the reason in it
	Needs    string
	Guess    float64 // messages a second, to size the first round
	Versions func() string
	Command  func(e *environment) (*exec.Cmd, error) // nil for bare-*: see bare.go
}

// environment is what one measurement gives to a system.
type environment struct {
	brokers, input, output, deadLetter, group string
	scratch                                   string // an empty directory
	model                                     string // absolute
}

const buildDir = "build/race"

func (e *environment) variables(more ...string) []string {
	return append(os.Environ(), append([]string{"RACE_BROKERS=" + e.brokers, "RACE_INPUT=" + e.input, "RACE_OUTPUT=" +
		e.output,
		"RACE_GROUP=" + e.group, "RACE_MODEL=" + e.model, "RACE_CORES=2", "RACE_STATE=" + e.scratch}, more...)...)
}

// sluice is the worker with its default settings; the cache and the student are off.
func sluice(guarantee string) func(*environment) (*exec.Cmd, error) {
	return func(e *environment) (*exec.Cmd, error) {
		file := filepath.Join(e.scratch, "sluice.yaml")
		yaml := fmt.Sprintf("kafka: {brokers: [%q], group: %s, instance_id: race-0, guarantee: %s}\ninput: {topics: "+
			"[%s]}\nmodels:\n  - {name: verdict, path: %q}\n"+
			"output: {topic: %s}\ndead_letter: {topic: %s}\nserver: {listen: \"off\"}\nlog: {level: warn}\n", e.brokers,
			e.group, guarantee, e.input, e.model, e.output, e.deadLetter)
		if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
			return nil, err
		}
		return exec.Command("dist/sluice", "run", "-c", file), nil
	}
}

func python(name, script string, more ...string) func(*environment) (*exec.Cmd, error) {
	return func(e *environment) (*exec.Cmd, error) {
		c := exec.Command(filepath.Join(buildDir, name, "bin/python"), script)
		c.Env = e.variables(more...)
		return c, nil
	}
}

func kafkaStreams(guarantee string) func(*environment) (*exec.Cmd, error) {
	return func(e *environment) (*exec.Cmd, error) {
		jars := filepath.Join(buildDir, "kafka-streams")
		c := exec.Command("java", "-Xmx512m", "-XX:+UseSerialGC", "-Dai.djl.offline=true",
			"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			"-cp", jars+"/kafka-streams-peer-1.jar:"+jars+"/lib/*", "peer.Peer")
		c.Env = e.variables("RACE_GUARANTEE=" + guarantee)
		return c, nil
	}
}

func hugot(e *environment) (*exec.Cmd, error) {
	c := exec.Command(filepath.Join(buildDir, "bin/hugot"))
	library, err := filepath.Abs(filepath.Join(buildDir, "onnxruntime-so"))
	c.Env = e.variables("RACE_ORT=" + library)
	return c, err
}

func bento(e *environment) (*exec.Cmd, error) {
	c := exec.Command(filepath.Join(buildDir, "bin/bento"), "-c", "bench/peers/bento/race.yaml")
	c.Env = e.variables()
	return c, nil
}

// systems are all competitors; the order is that of the first round.
func systems() []*system {
	const int8Model, sameModel, plainModel = "sentiment-768-int8", "sentiment-768-int8-padded", "sentiment-768-dynamic"
	workerVersion := func() string {
		out, _ := exec.Command("dist/sluice", "version").Output()
		line, _, _ := strings.Cut(string(out), "\n")
		return line
	}
	pythonPins := func(name string) func() string {
		return func() string { return pins("bench/peers/"+name+"/requirements.txt", `(?m)^([a-z-]+)==(\S+)`) }
	}
	goPins := func(name, modules string) func() string {
		return func() string {
			return pins("bench/peers/"+name+"/go.mod", `(?m)^(?:require )?\s*\S*/(`+modules+`) v(\S+)`)
		}
	}
	java := func() string {
		return pins("bench/peers/kafka-streams/pom.xml",
			`<artifactId>(kafka-streams|onnxruntime|tokenizers)</artifactId><version>([^<]+)`)
	}
	return []*system{
		{Name: "sluice", Title: "Sluice, exactly-once", Kind: ours, Guarantee: "exactly-once",
			Precision: "int8, static", Settings: "defaults; cache and student off", Model: int8Model, Guess: 400,
			Versions: workerVersion, Command: sluice("exactly-once")},
		{Name: "bare-sluice", Title: "bare loop, our packed int8 graph", Kind: ceiling, Precision: "int8, static",
			Settings: "windows of 512 sorted, 2 pinned threads", Model: int8Model, Guess: 500, Versions: workerVersion},
		{Name: "onnxruntime", Title: "Python, confluent-kafka + onnxruntime + tokenizers", Kind: peer,
			Guarantee: "at-least-once", Precision: "int8, dynamic", Settings: "2 processes pinned, windows of 256 " +
				"sorted, runs of 8; SkipLayerNormFusion off", Model: plainModel, Needs: "plain", Guess: 350,
			Versions: pythonPins("onnxruntime"), Command: python("onnxruntime", "bench/peers/onnxruntime/peer.py")},
		{Name: "sluice-alo", Title: "Sluice, at-least-once", Kind: ours, Guarantee: "at-least-once",
			Precision: "int8, static", Settings: "defaults; cache and student off", Model: int8Model, Guess: 400,
			Versions: workerVersion, Command: sluice("at-least-once")},
		{Name: "onnxruntime-same", Title: "the same Python, on the graph of our exporter (padded)", Kind: peer,
			Guarantee: "at-least-once", Precision: "int8, static", Settings: "as above", Model: sameModel,
			Needs: "onnxruntime", Guess: 350, Versions: pythonPins("onnxruntime"), Command: python("onnxruntime",
				"bench/peers/onnxruntime/peer.py")},
		{Name: "kafka-streams", Title: "Java, Kafka Streams + onnxruntime + DJL tokenizers", Kind: peer,
			Guarantee: "at-least-once", Precision: "int8, dynamic", Settings: "2 stream threads, one record a run",
			Model: plainModel, Needs: "kafka-streams", Guess: 250, Versions: java,
			Command: kafkaStreams("at_least_once")},
		{Name: "transformers", Title: "Python, confluent-kafka + transformers pipeline", Kind: peer,
			Guarantee: "at-least-once", Precision: "fp32", Settings: "2 processes, 1 torch thread each, batch_size " +
				"8, sorted", Model: "../source/sentiment-768", Needs: "transformers", Guess: 60,
			Versions: pythonPins("transformers"), Command: python("transformers", "bench/peers/transformers/peer.py")},
		{Name: "kafka-streams-eos", Title: "the same Java, exactly_once_v2", Kind: peer, Guarantee: "exactly-once",
			Precision: "int8, dynamic", Settings: "commit interval 100 ms", Model: plainModel, Needs: "kafka-streams",
			Guess: 250, Versions: java, Command: kafkaStreams("exactly_once_v2")},
		{Name: "hugot", Title: "Go, hugot (ONNX Runtime backend) + franz-go", Kind: peer, Guarantee: "at-least-once",
			Precision: "int8, dynamic", Settings: "2 consumers, windows of 256 sorted, runs of 8", Model: plainModel,
			Needs: "hugot", Guess: 250, Versions: goPins("hugot", "hugot|franz-go|onnxruntime_go"), Command: hugot},
		{Name: "bare-dynamic", Title: "bare loop, the usual dynamic int8 export", Kind: ceiling,
			Precision: "int8, dynamic", Settings: "as the Python peer, without Kafka, JSON and tokenizing",
			Model: plainModel, Needs: "plain", Guess: 450, Versions: pythonPins("onnxruntime")},
		{Name: "bento", Title: "Bento, nlp_classify_text", Kind: peer, Guarantee: "at-least-once", Precision: "fp32",
			Settings: "pure Go backend, 2 threads, batches of 8", Model: "sentiment-768-simple", Needs: "bento",
			Guess: 2, Versions: goPins("bento", "bento|hugot|gomlx"), Command: bento},
		{Name: "sluice-ner", Title: "Sluice, exactly-once, BERT-base NER shape", Kind: ours, Ner: true,
			Guarantee: "exactly-once", Precision: "int8, static", Settings: "defaults", Model: "ner-768-int8",
			Guess: 180, Versions: workerVersion, Command: sluice("exactly-once")},
		{Name: "bare-ner", Title: "bare loop, BERT-base NER shape", Kind: ceiling, Ner: true, Precision: "int8, static",
			Settings: "windows of 512 sorted, 2 pinned threads", Model: "ner-768-int8", Guess: 200,
			Versions: workerVersion},
	}
}

// skipped is why a system cannot run on this machine, or "".
func (s *system) skipped() string {
	if s.Needs != "" {
		if b, err := os.ReadFile(filepath.Join(buildDir, s.Needs+".skipped")); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	if _, err := os.Stat(s.modelDir()); err != nil {
		return fmt.Sprintf("%s is missing: run bench/race/prepare.sh", s.modelDir())
	}
	return ""
}

func (s *system) modelDir() string { return filepath.Join(buildDir, "models", s.Model) }

// pins are the names and versions that a file of dependencies fixes.
func pins(file, pattern string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(b), -1) {
		out = append(out, m[1]+" "+m[2])
	}
	return strings.Join(out, ", ")
}
