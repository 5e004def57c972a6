package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// This file starts systems, watches what their processes use, and stops them.

// running is one started system with all processes that it made.
type running struct {
	command *exec.Cmd
	log     *os.File
	done    chan struct{} // closed when the first process has ended
	err     error         // of the end; valid once done is closed
	quit    chan struct{}
	watch   sync.WaitGroup

	mu    sync.Mutex
	uses  []use
	peak  float64
	ended map[int]float64 // CPU seconds of processes, the last that was seen
}

// use is the CPU time that the processes had used at a time.
type use struct {
	at  time.Time
	cpu float64
}

func start(command *exec.Cmd, logFile string) (*running, error) {
	f, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	command.Stdout, command.Stderr = f, f
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		f.Close()
		return nil, err
	}
	r := &running{command: command, log: f, done: make(chan struct{}), quit: make(chan struct{}),
		ended: map[int]float64{}}
	go func() {
		r.err = command.Wait()
		close(r.done)
	}()
	r.watch.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.look()
			case <-r.quit:
				return
			}
		}
	})
	return r, nil
}

// look reads the CPU time and memory of every process of the group. A system's children stay in its group.
func (r *running) look() {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	now := time.Now()
	rss := 0.0
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		pid, group, cpu, pages, err := parseStat(b)
		if err != nil || group != r.command.Process.Pid {
			continue
		}
		r.ended[pid] = cpu
		rss += pages * float64(os.Getpagesize())
	}
	sum := 0.0
	for _, cpu := range r.ended {
		sum += cpu
	}
	r.uses = append(r.uses, use{now, sum})
	r.peak = max(r.peak, rss)
}

// cpuBetween is the CPU time used between two times, from the samples around them.
func (r *running) cpuBetween(from, to time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return interpolate(r.uses, to) - interpolate(r.uses, from)
}

func (r *running) rss() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peak
}

// interpolate is the CPU time at a time between samples; the first or last one outside of them.
func interpolate(uses []use, at time.Time) float64 {
	for i, u := range uses {
		if u.at.Before(at) {
			continue
		}
		if i == 0 {
			return u.cpu
		}
		before := uses[i-1]
		share := at.Sub(before.at).Seconds() / u.at.Sub(before.at).Seconds()
		return before.cpu + share*(u.cpu-before.cpu)
	}
	if len(uses) == 0 {
		return 0
	}
	return uses[len(uses)-1].cpu
}

// parseStat reads proc(5) stat: CPU in seconds, resident memory in pages.
func parseStat(b []byte) (pid, group int, cpu, pages float64, err error) {
	end := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[end+1:]))
	if end < 0 || len(fields) < 22 {
		return 0, 0, 0, 0, fmt.Errorf("not a line of /proc/PID/stat: %q", b)
	}
	pid, err = strconv.Atoi(strings.Fields(string(b))[0])
	if err != nil {
		return 0, 0, 0, 0, err
	}
	number := func(i int) float64 {
		v, e := strconv.ParseFloat(fields[i], 64)
		if e != nil && err == nil {
			err = e
		}
		return v
	}
	// the third field of the line is fields[0]: group is the 5th, utime the 14th, stime the 15th, rss the 24th
	const ticks = 100 // USER_HZ
	return pid, int(number(2)), (number(11) + number(12)) / ticks, number(21), err
}

// stop ends the system and everything in its group, and waits until no process of it is left.
func (r *running) stop() {
	group := -r.command.Process.Pid
	r.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
	case <-time.After(10 * time.Second):
	}
	close(r.quit)
	r.watch.Wait()
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(group, syscall.SIGKILL) == nil &&
		time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond) // until the children are reaped
	}
	<-r.done
	r.log.Close()
}

// tail is the end of a log, for error messages.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
