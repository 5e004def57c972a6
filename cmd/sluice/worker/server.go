package worker

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

	kinds List
	about about

	mu     sync.Mutex
	phase  string     // why the worker is not ready; "" when the stages decide
	stages []*Running // none before the worker is ready to join
}

// about is what /status says of the worker as a whole.
type about struct {
	Version  string
	Started  time.Time
	Settings *settings.Settings
}

// startServer listens and serves. address "off" gives a server that answers nobody.
func startServer(o settings.Server, reg *prometheus.Registry, problems *Problems, kinds List, page about) (*server,
	error) {
	s := &server{phase: "starting", kinds: kinds, about: page, done: make(chan struct{})}
	if o.Listen == "off" {
		close(s.done)
		return s, nil
	}
	who, config, err := guardOf(o)
	if err != nil {
		return nil, &pipeline.Fault{Kind: pipeline.Config, Stage: "server", Reason: "server", Err: err}
	}
	if s.ln, err = listenTLS(o.Listen, config); err != nil {
		return nil, err
	}
	s.http, s.gate = newHTTPServer(s.endpoints(o, who, reg, problems))
	ln := s.ln
	go func() {
		defer close(s.done)
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("the HTTP server ended", "error", err)
		}
	}()
	return s, nil
}

// endpoints are all that is served.
func (s *server) endpoints(o settings.Server, who guard, reg *prometheus.Registry, problems *Problems) http.Handler {
	// Probes are open to everybody; the rest is behind the guard.
	mux := http.NewServeMux()
	protect := func(pattern string, h http.Handler) { mux.Handle(pattern, who.protect(h)) }
	protect("GET /metrics", promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		Registry: reg, EnableOpenMetrics: true, MaxRequestsInFlight: 3, Timeout: 10 * time.Second,
		ProcessStartTime: s.about.Started,
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
	return mux
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
func (s *server) serve(stages []*Running) {
	s.mu.Lock()
	s.phase, s.stages = "", stages
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
		if why := notReady(st.Stage.Status()); why != "" {
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
