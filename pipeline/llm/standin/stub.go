// Package standin is an OpenAI-compatible endpoint for tests and for the demo: a strict one, that refuses what a real
// one might let pass, and that can be told to misbehave in every way that real ones do. It imports nothing of testing.
package standin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// This file owns the server: what it keeps of requests, and the way of a request through check, script and answer.

// Options say what the endpoint is like when nothing is scripted.
type Options struct {
	Model  string   // the one it has; "stub" if empty
	APIKey string   // it asks for; "": none
	Labels []string // of the closed set; required

	// Oracle is what the model thinks of a text: one of Labels. Nil: the first label.
	Oracle func(text string) string
	// Confidence is what the model says about its answer; 0 says 0.9.
	Confidence float64
	// Obey, where set, makes the model do whatever the text tells it: its result is the answer's content, for the
	// content of the last user message. "" answers as if it were not set.
	Obey func(user string) string

	Structured []string // modes it takes: json_schema, structured_outputs, guided_choice, json_object; nil: all of them
	// modes that it does not take are ignored without a word, and the answer is prose; else refused (400)
	Ignore bool

	Refuses   []string // parameters that it does not take: max_tokens, max_completion_tokens, temperature, stream
	Unbounded bool     // it bears with requests that do not bound the answer

	ContextTokens int     // longest question (a token a word); 0: no bound
	Slots         int     // requests served at once; further ones queue; 0: no bound
	Queue         int     // requests that may queue; further ones get 429; 0: no bound
	Latency       Latency // of an answer; nil: none
	FailureShare  float64 // of requests that fail (status 500), drawn from Seed
	Seed          uint64

	KeepBytes int // of request bodies, the newest; 16 MiB if 0
}

// Latency draws how long an answer takes.
type Latency func(*rand.Rand) time.Duration

// Server is the endpoint. It is an http.Handler; its methods may be called concurrently.
type Server struct {
	o     Options
	slots chan struct{}

	mu         sync.Mutex
	random     *rand.Rand
	normal     Step
	script     []Step
	bodies     [][]byte
	kept       int
	violations []string
	stats      Stats
	inFlight   int
}

// Stats are what the server has seen.
type Stats struct {
	Requests    int // chat completions, refused ones included
	Answers     int // with status 200
	Refused     int // for what the request was like
	Failed      int // by script or by FailureShare
	MostAtOnce  int
	DroppedKeep int // request bodies that were kept no longer
}

// New returns a server. It panics where the options make no sense: they are the test's own.
func New(o Options) *Server {
	if len(o.Labels) == 0 {
		panic("standin: no labels")
	}
	if o.Model == "" {
		o.Model = "stub"
	}
	if o.Confidence == 0 {
		o.Confidence = 0.9
	}
	if o.KeepBytes == 0 {
		o.KeepBytes = 16 << 20
	}
	if o.Oracle == nil {
		o.Oracle = func(string) string { return o.Labels[0] }
	}
	if o.Structured == nil {
		o.Structured = []string{"json_schema", "structured_outputs", "guided_choice", "json_object"}
	}
	s := &Server{o: o, random: rand.New(rand.NewPCG(o.Seed, 0x57ab))}
	if o.Slots > 0 {
		s.slots = make(chan struct{}, o.Slots)
	}
	return s
}

// Script lines steps up: each of the next requests takes one. A later call appends.
func (s *Server) Script(steps ...Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, steps...)
}

// Always sets what happens to requests for which nothing is lined up. The zero Step is a good answer.
func (s *Server) Always(step Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.normal, s.script = step, nil
}

// FailureShare sets Options.FailureShare from now on.
func (s *Server) FailureShare(p float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.FailureShare = p
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Violations are the sentences about every request that a strict endpoint must refuse.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// Bodies are the request bodies, oldest first, as far as they are kept.
func (s *Server) Bodies() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

// Saw says whether a canary was in any request that is kept: in its bytes, in a message's content, or in the text
// within that. It panics when requests were dropped, for then nobody can know.
func (s *Server) Saw(canary string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats.DroppedKeep > 0 {
		panic(fmt.Sprintf("standin: %d request bodies were dropped; set Options.KeepBytes", s.stats.DroppedKeep))
	}
	return slices.ContainsFunc(s.bodies, func(b []byte) bool {
		if bytes.Contains(b, []byte(canary)) {
			return true
		}
		var r request
		if json.Unmarshal(b, &r) != nil {
			return false
		}
		return slices.ContainsFunc(r.Messages, func(m message) bool {
			return strings.Contains(m.Content, canary) || strings.Contains(Text(m.Content), canary)
		})
	})
}

// ServeHTTP serves POST …/chat/completions and GET …/models below any prefix.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/chat/completions"):
		s.chat(w, r)
	case strings.HasSuffix(r.URL.Path, "/models"):
		if r.Method != http.MethodGet {
			refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "only GET")
			return
		}
		reply(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": s.o.Model, "object": "model",
			"owned_by": "standin"}}})
	default:
		refuse(w, http.StatusNotFound, "not_found", "there is no such path")
	}
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<20))
	step, fails, wait := s.arrive(body)
	defer s.leave()
	if step.refuses() {
		s.count(func(st *Stats) { st.Failed++ })
		step.write(w, r, nil)
		return
	}
	if err != nil {
		s.violate(w, http.StatusRequestEntityTooLarge, "request_too_large", "the body is larger than 4 MiB")
		return
	}
	req, status, code, sentence := s.check(r, body)
	if sentence != "" {
		s.violate(w, status, code, sentence)
		return
	}
	if name := s.refused(req); name != "" {
		s.count(func(st *Stats) { st.Refused++ })
		s.refuseParameter(w, name)
		return
	}
	if s.o.ContextTokens > 0 && req.tokens() > s.o.ContextTokens {
		s.count(func(st *Stats) { st.Refused++ })
		refuse(w, http.StatusBadRequest, "context_length_exceeded", fmt.Sprintf("This model's maximum context length "+
			"is %d tokens.", s.o.ContextTokens))
		return
	}
	mode := req.mode()
	if mode != "none" && !slices.Contains(s.o.Structured, mode) {
		if !s.o.Ignore {
			s.count(func(st *Stats) { st.Refused++ })
			refuse(w, http.StatusBadRequest, "invalid_request_error", "unknown field or value: "+field(mode))
			return
		}
		mode = "ignored"
	}
	if !s.slot(r) {
		s.count(func(st *Stats) { st.Failed++ })
		refuse(w, http.StatusTooManyRequests, "rate_limit_exceeded", "the queue is full")
		return
	}
	defer s.free()
	if wait > 0 {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(wait):
		}
	}
	if fails {
		s.count(func(st *Stats) { st.Failed++ })
		refuse(w, http.StatusInternalServerError, "server_error", "drawn to fail")
		return
	}
	a := s.answer(req, mode)
	if step.bends() {
		s.count(func(st *Stats) { st.Failed++ })
	} else {
		s.count(func(st *Stats) { st.Answers++ })
	}
	step.write(w, r, a)
}

// arrive notes a request, and takes its step and its draws in the order of arrival.
func (s *Server) arrive(body []byte) (step Step, fails bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Requests++
	s.inFlight++
	s.stats.MostAtOnce = max(s.stats.MostAtOnce, s.inFlight)
	s.bodies = append(s.bodies, body)
	s.kept += len(body)
	for s.kept > s.o.KeepBytes && len(s.bodies) > 1 {
		s.kept -= len(s.bodies[0])
		s.bodies = s.bodies[1:]
		s.stats.DroppedKeep++
	}
	step = s.normal
	if len(s.script) > 0 {
		step, s.script = s.script[0], s.script[1:]
	}
	fails = s.random.Float64() < s.o.FailureShare
	if s.o.Latency != nil {
		wait = s.o.Latency(s.random)
	}
	return step, fails, wait + step.Delay
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
}

func (s *Server) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// slot waits for one of Options.Slots; false when the queue is full or the client has gone.
func (s *Server) slot(r *http.Request) bool {
	if s.slots == nil {
		return true
	}
	s.mu.Lock()
	full := s.o.Queue > 0 && s.inFlight > s.o.Slots+s.o.Queue
	s.mu.Unlock()
	if full {
		return false
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (s *Server) free() {
	if s.slots != nil {
		<-s.slots
	}
}

func (s *Server) violate(w http.ResponseWriter, status int, code, sentence string) {
	s.mu.Lock()
	s.stats.Refused++
	if len(s.violations) < 1000 {
		s.violations = append(s.violations, sentence)
	}
	s.mu.Unlock()
	refuse(w, status, code, sentence)
}

func refuse(w http.ResponseWriter, status int, code, sentence string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": sentence,
		"type": "invalid_request_error", "code": code}})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
