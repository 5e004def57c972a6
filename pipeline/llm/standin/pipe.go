package standin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
)

// This file owns a network of pipes in memory: many endpoints by host name, without a socket, so that tests can run in
// a synctest bubble, and endpoints can die and come back.

// Network connects by host name to handlers. Dial is for llm.Options.Dial or an http.Transport.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*host
}

type host struct {
	server *http.Server
	accept chan net.Conn
	gone   chan struct{}
	once   sync.Once
}

// Serve puts a handler at a host name, in place of the one that was there.
func (n *Network) Serve(name string, h http.Handler) {
	n.Stop(name)
	ho := &host{accept: make(chan net.Conn), gone: make(chan struct{})}
	ho.server = &http.Server{Handler: h}
	n.mu.Lock()
	if n.hosts == nil {
		n.hosts = map[string]*host{}
	}
	n.hosts[name] = ho
	n.mu.Unlock()
	go ho.server.Serve(ho)
}

// Stop breaks all connections to a host; further ones are refused until Serve.
func (n *Network) Stop(name string) {
	n.mu.Lock()
	ho := n.hosts[name]
	delete(n.hosts, name)
	n.mu.Unlock()
	if ho != nil {
		ho.server.Close()
		ho.Close()
	}
}

// Close stops all hosts.
func (n *Network) Close() {
	n.mu.Lock()
	var names []string
	for name := range n.hosts {
		names = append(names, name)
	}
	n.mu.Unlock()
	for _, name := range names {
		n.Stop(name)
	}
}

// Dial connects to the host of an address.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, _, _ := strings.Cut(address, ":")
	n.mu.Lock()
	ho := n.hosts[name]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	if ho == nil {
		return nil, refused
	}
	ours, theirs := net.Pipe()
	select {
	case ho.accept <- theirs:
		return ours, nil
	case <-ho.gone:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept, Close and Addr make a host a net.Listener.
func (h *host) Accept() (net.Conn, error) {
	select {
	case c := <-h.accept:
		return c, nil
	case <-h.gone:
		return nil, errors.New("the host is stopped")
	}
}

func (h *host) Close() error {
	h.once.Do(func() { close(h.gone) })
	return nil
}

func (h *host) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
