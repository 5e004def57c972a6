//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// On says whether this binary has failpoints.
const On = true

// Env is the variable that says what happens where: a comma-separated list of name:count:action. The action happens when
// the worker passes the place for the count-th time, once. (It has no SLUICE_ in front: such variables are configuration.)
//
//	kill   SIGKILL to the process itself
//	pause  SIGSTOP to the process itself, until somebody sends SIGCONT
//	panic  a panic of the goroutine that passes
const Env = "FAILPOINT"

type plan struct {
	at     int64
	action string
	passed atomic.Int64
}

var plans = must(os.Getenv(Env))

func must(spec string) map[string]*plan {
	p, err := parse(spec)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", Env, err))
	}
	return p
}

func parse(spec string) (map[string]*plan, error) {
	all := map[string]*plan{}
	if spec == "" {
		return all, nil
	}
	for _, one := range strings.Split(spec, ",") {
		part := strings.Split(one, ":")
		if len(part) != 3 {
			return nil, fmt.Errorf("%q is not name:count:action", one)
		}
		at, err := strconv.ParseInt(part[1], 10, 64)
		if err != nil || at < 1 {
			return nil, fmt.Errorf("%q: the count must be a number from 1", one)
		}
		switch part[2] {
		case "kill", "pause", "panic":
		default:
			return nil, fmt.Errorf("%q: the action must be kill, pause or panic", one)
		}
		if all[part[0]] != nil {
			return nil, fmt.Errorf("%q is given twice", part[0])
		}
		all[part[0]] = &plan{at: at, action: part[2]}
	}
	return all, nil
}

// Hit is called at the place of that name.
func Hit(name string) {
	p := plans[name]
	if p == nil || p.passed.Add(1) != p.at {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s %s\n", name, p.action)
	switch p.action {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it arrives
	case "pause":
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "panic":
		panic("failpoint " + name)
	}
}
