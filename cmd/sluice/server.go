package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sluice/cmd/sluice/settings"
	"sluice/pipeline"
	"sluice/pipeline/engine"
	"sluice/pipeline/tap"
)

// This file owns the HTTP endpoints. They answer from the moment the worker starts, so that a slow start can be
// watched:
//
//	/metrics  Prometheus
//	/healthz  200 while the process works
//	/readyz   200 when models are warm and partitions are assigned; otherwise 503 and a sentence that says why not
//	/status   what runs, with which models, on which partitions, as JSON
//	/debug/pprof/  Go's profiles, where server.pprof is set
type server struct {
	http *http.Server
	gate *turnstile
	ln   net.Listener
	done chan struct{}

	mu     sync.Mutex
	phase  string         // why the worker is not ready; "" when the stages decide
	stages []*workerStage // none before the worker is ready to join
	status statusPage     // without what changes
}

// statusPage is the answer of /status.
type statusPage struct {
	Version     string          `json:"version"`
	Started     time.Time       `json:"started"`
	Uptime      float64         `json:"uptime_seconds"`
	Ready       bool            `json:"ready"`
	NotReady    string          `json:"not_ready,omitempty"` // why
	Group       string          `json:"group"`
	InstanceID  string          `json:"instance_id"`
	Guarantee   string          `json:"guarantee"`
	Inputs      []string        `json:"inputs"`
	Output      string          `json:"output"`
	DeadLetter  string          `json:"dead_letter"`
	Runners     int             `json:"runners"`
	OnnxRuntime string          `json:"onnxruntime"`
	Models      []modelPage     `json:"models"`
	Stage       *stagePage      `json:"stage,omitempty"`
	Escalation  *escalationPage `json:"escalation,omitempty"`
	LastError   *lastError      `json:"last_error,omitempty"`
}

// stagePage is one stage in /status.
type stagePage struct {
	pipeline.Status
	Rates tap.RatesPage `json:"rates"`
}

// modelPage is one loaded model in /status.
type modelPage struct {
	Name          string               `json:"name"`
	Field         string               `json:"field"`
	Model         string               `json:"model"` // as verdicts name it
	Digest        string               `json:"digest"`
	Task          string               `json:"task"`
	Labels        []string             `json:"labels"`
	MaxTokens     int                  `json:"max_tokens"`
	Layout        string               `json:"layout"`
	Precision     string               `json:"precision"`
	Provider      string               `json:"provider"`
	BatchTokens   int                  `json:"batch_tokens"`                    // token budget of one run
	BatchMeasured []engine.BudgetPoint `json:"batch_tokens_measured,omitempty"` // what it was chosen from
	Directory     string               `json:"directory"`
	Warnings      []string             `json:"warnings,omitempty"`
}

// startServer listens and serves. address "off" gives a server that answers nobody.
func startServer(o settings.Server, reg *prometheus.Registry, problems *problemLog, page statusPage) (*server,
	error) {
	address := o.Listen
	s := &server{phase: "starting", status: page, done: make(chan struct{})}
	if address == "off" {
		close(s.done)
		return s, nil
	}
	who, config, err := guardOf(o)
	if err != nil {
		return nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "server", Reason: "server", Err: err}
	}
	if s.ln, err = listenTLS(address, config); err != nil {
		return nil, err
	}
	// Probes are open to everybody; the rest is behind the guard.
	mux := http.NewServeMux()
	protect := func(pattern string, h http.Handler) { mux.Handle(pattern, who.protect(h)) }
	protect("GET /metrics", promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		Registry: reg, EnableOpenMetrics: true, MaxRequestsInFlight: 3, Timeout: 10 * time.Second,
		ProcessStartTime: page.Started,
	})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := s.notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	protect("GET /status", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(s.page(problems)); err != nil {
			slog.Debug("status: the client went away", "error", err)
		}
	}))
	if o.Pprof {
		protect("GET /debug/pprof/", http.HandlerFunc(pprof.Index))
		protect("GET /debug/pprof/profile", http.HandlerFunc(pprof.Profile))
		protect("GET /debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "sluice\n\n/metrics\n/healthz\n/readyz\n/status\n")
	})
	s.http, s.gate = newHTTPServer(mux)
	ln := s.ln
	go func() {
		defer close(s.done)
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("the HTTP server ended", "error", err)
		}
	}()
	return s, nil
}

// listenFault says why an address cannot be listened on, and what to do.
func listenFault(address string, err error) error {
	advice := "give another address with --server.listen, or \"off\""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return pipeline.Faultf(pipeline.Config, "server", "address-in-use", "server.listen: %s is in use by another "+
			"process, perhaps another worker; %s", address, advice)
	case errors.Is(err, syscall.EACCES):
		return pipeline.Faultf(pipeline.Config, "server", "address-denied", "server.listen: %s may not be listened "+
			"on by this user (ports below 1024 are for root); %s", address, advice)
	}
	return pipeline.Faultf(pipeline.Config, "server", "address", "server.listen: %s: %v; %s", address, err, advice)
}

// address is where the server listens; "" if nowhere.
func (s *server) address() string {
	if s.ln == nil {
		return ""
	}
	return s.ln.Addr().String()
}

// enter says what the worker is busy with; until serve it is not ready.
func (s *server) enter(phase string) {
	s.mu.Lock()
	s.phase = phase
	s.mu.Unlock()
}

// serve says that models are warm: from now on the stages decide about readiness.
func (s *server) serve(stages []*workerStage, fill func(*statusPage)) {
	s.mu.Lock()
	s.phase, s.stages = "", stages
	fill(&s.status)
	s.mu.Unlock()
}

func (s *server) notReady() string {
	s.mu.Lock()
	phase, stages := s.phase, s.stages
	s.mu.Unlock()
	if phase != "" {
		return phase
	}
	for _, st := range stages {
		if why := notReady(st.stage.Status()); why != "" {
			return why
		}
	}
	return ""
}

func notReady(st pipeline.Status) string {
	switch {
	case st.Stopping:
		return "stopping: finishing what is in flight"
	case !st.Assigned:
		return "joining the group: no partitions assigned yet"
	case !st.Reachable:
		return "no heartbeat has got through to the brokers for a quarter of kafka.session_timeout: waiting for them"
	}
	return ""
}

func (s *server) page(problems *problemLog) statusPage {
	s.mu.Lock()
	page, phase, stages := s.status, s.phase, s.stages
	s.mu.Unlock()
	page.Uptime = time.Since(page.Started).Seconds()
	page.NotReady = phase
	for _, st := range stages {
		status := stagePage{st.stage.Status(), st.rates.Page()}
		if page.NotReady == "" {
			page.NotReady = notReady(status.Status)
		}
		if st.escalation != nil {
			page.Escalation = st.escalation()
			page.Escalation.Stage = status
		} else {
			page.Stage = &status
		}
	}
	page.Ready = page.NotReady == ""
	page.LastError = problems.last()
	if page.Models == nil {
		page.Models = []modelPage{}
	}
	return page
}

// close ends the server; requests in progress have a second.
func (s *server) close() {
	if s.http == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	<-s.done
}
