package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline/llm/standin"
)

// This file gives the demo an endpoint to escalate to: a stand-in in this process, on an address of this machine, with
// the latency of a small Llama on a GPU. It speaks the protocol strictly; what it "thinks" is a count of words, no
// model.

const (
	demoEscalations = "review_escalations"
	demoEndpoint    = "stand-in"
	demoUnsure      = 0.8 // sentiment scores below are asked about
)

// demoWords are what the stand-in judges by.
var demoWords = map[string]int{}

func init() {
	for word := range strings.FieldsSeq(`bad broken cancel complaint crash crashed declined delay delayed disappointed dull error fail failed fails fault hate hated
		issue lost mess missing never not no nothing pending poor problem refund sad slow strange stuck terrible unable unfortunately useless waste worse worst wrong`) {
		demoWords[word] = -1
	}
	for word := range strings.FieldsSeq(`amazing awesome beautiful best better brilliant congratulations enjoy enjoyed excellent fantastic favorite finally fun glad good great
		happy helpful hope impressive interesting like love loved lovely nice perfect pleased thank thanks useful win wonderful works`) {
		demoWords[word] = 1
	}
}

// demoOracle is the stand-in's opinion.
func demoOracle(text string) string {
	sum := 0
	for word := range strings.FieldsFuncSeq(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) }) {
		sum += demoWords[word]
	}
	if sum > 0 {
		return "POSITIVE"
	}
	return "NEGATIVE"
}

// demoEscalate starts the stand-in and escalates to it. The result ends it.
func demoEscalate(s *settings.Settings) (end func(), err error) {
	for _, m := range s.Models {
		if m.Name == "sentiment" {
			s.Escalation.Verdict = m.VerdictField()
		}
	}
	if s.Escalation.Verdict == "" {
		return nil, usageErrorf("demo: --escalate asks about the verdict of a model named sentiment, and there is " +
			"none in the directory of --models")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("demo: the stand-in of the endpoint: %w", err)
	}
	stub := standin.New(standin.Options{Model: demoEndpoint, Labels: []string{"NEGATIVE", "POSITIVE"},
		Oracle: demoOracle, Confidence: 0.8,
		Latency: standin.LogNormal(350*time.Millisecond, 0.4), Seed: 1})
	server := &http.Server{Handler: stub, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()

	e := &s.Escalation
	e.When = fmt.Sprintf("%s.score < %v", e.Verdict, demoUnsure)
	e.Topic = demoEscalations
	e.Endpoint.URLs, e.Endpoint.Model = []string{"http://" + listener.Addr().String() + "/v1"}, demoEndpoint
	e.Prompt.Instruction = "Decide whether the text is favourable (POSITIVE) or not (NEGATIVE)."
	return func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("demo: the stand-in of the endpoint: %v", err)) // nothing else may end it
		}
	}, nil
}
