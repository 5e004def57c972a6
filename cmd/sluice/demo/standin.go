package demo

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"sluice/pipeline"
	"sluice/pipeline/llm/standin"
)

// This file gives the demo an endpoint to escalate to: a stand-in in this process, on an address of this machine, with
// the latency of a small Llama on a GPU. It speaks the protocol strictly; what it "thinks" is a count of words, no
// model.

const (
	requestTopic = "review_escalations"
	standinModel = "stand-in"
	asked        = "sentiment" // name of the model whose verdicts are asked about
	unsure       = 0.8         // scores below are asked about
)

// words are what the stand-in judges by.
var words = map[string]int{}

func init() {
	for word := range strings.FieldsSeq(`bad broken cancel complaint crash crashed declined delay delayed disappointed
		dull error fail failed fails fault hate hated issue lost mess missing never not no nothing pending poor problem
		refund sad slow strange stuck terrible unable unfortunately useless waste worse worst wrong`) {
		words[word] = -1
	}
	for word := range strings.FieldsSeq(`amazing awesome beautiful best better brilliant congratulations enjoy enjoyed
		excellent fantastic favorite finally fun glad good great happy helpful hope impressive interesting like love
		loved lovely nice perfect pleased thank thanks useful win wonderful works`) {
		words[word] = 1
	}
}

// oracle is the stand-in's opinion.
func oracle(text string) string {
	sum := 0
	for word := range strings.FieldsFuncSeq(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) }) {
		sum += words[word]
	}
	if sum > 0 {
		return "POSITIVE"
	}
	return "NEGATIVE"
}

// escalate starts the stand-in and has the plan ask it. end ends it.
func escalate(p *Plan) (end func(), err error) {
	e := &Escalation{Topic: requestTopic, Model: standinModel,
		Instruction: "Decide whether the text is favourable (POSITIVE) or not (NEGATIVE)."}
	for _, m := range p.Models {
		if m.Name == asked {
			e.Verdict = m.Verdict()
		}
	}
	if e.Verdict == "" {
		return nil, pipeline.Faultf(pipeline.Config, "start", "models", "demo: --escalate asks about the verdict of a "+
			"model named %s, and there is none in the directory of --models", asked)
	}
	e.When = fmt.Sprintf("%s.score < %v", e.Verdict, unsure)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("demo: the stand-in of the endpoint: %w", err)
	}
	stub := standin.New(standin.Options{Model: standinModel, Labels: []string{"NEGATIVE", "POSITIVE"},
		Oracle: oracle, Confidence: 0.8,
		Latency: standin.LogNormal(350*time.Millisecond, 0.4), Seed: 1})
	server := &http.Server{Handler: stub, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	e.URL = "http://" + listener.Addr().String() + "/v1"
	p.Escalation = e
	return func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("demo: the stand-in of the endpoint: %v", err)) // nothing else may end it
		}
	}, nil
}
