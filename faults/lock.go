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

// lockedAtMost is how long lanes keep the lock between them: then no lane begins another scenario until all have ended theirs,
// and others have their turn.
const lockedAtMost = 4 * time.Minute

// sharedLock is an exclusive lock on a file that all lanes hold together, as long as one of them runs a scenario.
type sharedLock struct {
	path string // empty: nothing is locked

	mu    sync.Mutex
	file  *os.File // nil: not held
	users int
	since time.Time
}

// take waits until a scenario may begin and returns what is to be called after it. A lane waits by asking again and again:
// flock(2) has no wait that ends with a context.
func (l *sharedLock) take(ctx context.Context) (release func() error, err error) {
	if l.path == "" {
		return func() error { return nil }, ctx.Err()
	}
	for told := false; ; told = true {
		got, err := l.try()
		if err != nil {
			return nil, fmt.Errorf("-lock %s: %w", l.path, err)
		}
		if got {
			return l.release, nil
		}
		if !told {
			say("waiting for %s", l.path)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

func (l *sharedLock) try() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		if time.Since(l.since) > lockedAtMost {
			return false, nil
		}
		l.users++
		return true, nil
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return false, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, f.Close()
	case err != nil:
		return false, errors.Join(err, f.Close())
	}
	l.file, l.users, l.since = f, 1, time.Now()
	return true, nil
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
