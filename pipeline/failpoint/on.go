//go:build failpoint

package failpoint

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// On says whether this binary has failpoints.
const On = true

// Env is the variable that says what happens where: a comma-separated list of name:count:action. The action happens
// when the worker passes the place for the count-th time, once. (It has no SLUICE_ in front: such variables are
// configuration.)
//
//	kill   SIGKILL to the process itself
//	pause  SIGSTOP to the process itself, until somebody sends SIGCONT
//	panic  a panic of the goroutine that passes
//	hang   the goroutine that passes stays there, as one in native code that never returns
const Env = "FAILPOINT"

type plan struct {
	at     int64
	action string
	passed atomic.Int64
}

var plans = must(os.Getenv(Env))

// harmful are the texts that do harm.
var harmful = mustTexts(os.Getenv(EnvTexts))

type harm struct {
	part   []byte
	action string
}

func mustTexts(spec string) []harm {
	h, err := parseTexts(spec)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", EnvTexts, err))
	}
	return h
}

func parseTexts(spec string) ([]harm, error) {
	if spec == "" {
		return nil, nil
	}
	var all []harm
	for _, one := range strings.Split(spec, ",") {
		part, action, ok := strings.Cut(one, ":")
		if !ok || part == "" {
			return nil, fmt.Errorf("%q is not part:action", one)
		}
		if err := known(one, action); err != nil {
			return nil, err
		}
		all = append(all, harm{[]byte(part), action})
	}
	return all, nil
}

// known says that an action is one.
func known(spec, action string) error {
	switch action {
	case "kill", "pause", "panic", "hang":
		return nil
	}
	return fmt.Errorf("%q: the action must be kill, pause, panic or hang", spec)
}

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
		if err := known(one, part[2]); err != nil {
			return nil, err
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
	act(name, p.action)
}

// Texts is called with texts that are about to be tokenized together.
func Texts(texts [][]byte) {
	for _, h := range harmful {
		for _, t := range texts {
			if bytes.Contains(t, h.part) {
				act("text", h.action)
			}
		}
	}
}

// act does what a plan says. The harness reads the line, so it is written before anything happens.
func act(name, action string) {
	fmt.Fprintf(os.Stderr, "failpoint %s %s\n", name, action)
	switch action {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it arrives
	case "pause":
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "panic":
		panic("failpoint " + name)
	case "hang":
		select {}
	}
}
