package main

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// With no file descriptor left a worker opens nothing new; it neither ends nor loses anything, and goes on when there
// are some again.
func TestAWorkerOutlivesALackOfFileDescriptors(t *testing.T) {
	dir := needModel(t, "sentiment-tiny")
	address, _ := cluster(t, "customer_reviews", "review_analysis", "review_dlq")
	w := startWorker(t, "-c", runConfig(t, address, dir))
	w.waitReady(t)
	produce(t, address, `{"id":1,"text":"What a lovely day"}`)
	consume(t, address, 1, "review_analysis")

	pid := w.cmd.Process.Pid
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: before.Max} // what is open stays open
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	short := &http.Client{Timeout: 300 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	refused := 0
	for range 5 {
		if r, err := short.Get(w.http + "/healthz"); err != nil {
			refused++
		} else {
			r.Body.Close()
		}
	}
	if refused == 0 {
		t.Error("the limit has no effect: /healthz is answered over new connections")
	}
	for i := range 20 {
		produce(t, address, fmt.Sprintf(`{"id":%d,"text":"What a lovely day, number %d"}`, 2+i, i))
	}
	consume(t, address, 11, "review_analysis") // over the connections that are there
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	consume(t, address, 21, "review_analysis")
	w.waitReady(t)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Errorf("the worker is gone: %v\n%s", err, w.logs())
	}
}
