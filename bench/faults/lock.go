package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// This file owns the lock (flock(2)) by which the harness shares a machine with other heavy programs.

// lockedAtMost is how long lanes keep the lock between them: then no lane begins another scenario until all have ended
// theirs, and others have their turn.
const lockedAtMost = 4 * time.Minute

// sharedLock is an exclusive lock on a file that all lanes hold together, as long as one of them runs a scenario.
type sharedLock struct {
	path string // empty: nothing is locked

	mu      sync.Mutex
	waiting bool     // in line for the lock
	file    *os.File // nil: not held
	err     error    // of waiting
	users   int
	since   time.Time
	waited  time.Duration // in line, while no scenario ran
}

// take waits until a scenario may begin and returns what is to be called after it.
func (l *sharedLock) take(ctx context.Context) (release func() error, err error) {
	if l.path == "" {
		return func() error { return nil }, ctx.Err()
	}
	for {
		got, err := l.try()
		if err != nil {
			return nil, fmt.Errorf("-lock %s: %w", l.path, err)
		}
		if got {
			return l.release, nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// try takes the lock if this process has it and may begin another scenario, and else sees to it that it stands in line.
func (l *sharedLock) try() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return false, l.err
	case l.file != nil && time.Since(l.since) > lockedAtMost && l.users > 0:
		return false, nil
	case l.file != nil:
		l.users++
		return true, nil
	case !l.waiting:
		l.waiting = true
		go l.wait()
	}
	return false, nil
}

// wait stands in line for the lock, as other programs do: who only asks now and then never gets it while others wait.
// Nothing but the end of the process ends it earlier.
func (l *sharedLock) wait() {
	began := time.Now()
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR, 0o666)
	if err == nil {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
			say("waiting for %s", l.path)
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	l.waited += time.Since(began)
	if l.err = err; err == nil {
		l.file, l.since = f, time.Now()
	}
}

func (l *sharedLock) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users > 0 {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

// idle is how long no scenario could run because others had the lock.
func (l *sharedLock) idle() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waited
}
