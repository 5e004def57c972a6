package llm

import (
	"maps"
	"slices"
)

// This file owns how an endpoint wants to be asked, and how that is found out: which forms of an answer it enforces,
// and under which names it takes which parameters. Every attempt to find out is an attempt of a call, and counts as
// one. Everything here is under Pool.mu, but for search, which is one call's.

// manners are how an endpoint wants to be asked, as far as it is known.
type manners struct {
	mode   string // of structured output
	proven bool   // mode has worked
	// where the next call goes on with a search that the last one had no attempts left for; "": nowhere
	resume string
	// the refusal that every form has brought alike, so that it is not about the form; "": none
	anyway string

	names   Names           // of parameters
	unknown map[string]bool // names that it has refused
	ways    map[string]bool // of sending parameters, that the log has been told of
}

// search is how one call has asked one endpoint for an answer's form so far.
type search struct {
	next    string // the mode of the next attempt, where it is not the endpoint's; "": it is
	suspect string // the mode that was refused without a word about it, while ModeNone is tried; "": none
	refused bool   // the last attempt was refused for its form
	spared  bool   // the last attempt asked for no form only because there will be no other
}

// try is one attempt as it went out, for learning from what came back.
type try struct {
	*search
	call *Call
	use  string // mode
	kept bool   // of an answer: it may be one that is held to the mode
	left int    // attempts that the call has left
}

// choose is the mode of a call's next attempt. An attempt that is the last and follows a refusal of a form asks for
// none, so that the call has an answer.
func (p *Pool) choose(g *grant, s *search, c *Call, left int) string {
	s.spared = false
	mode := g.mode
	switch {
	case s.next != "":
		mode = s.next
	case s.refused && left == 0 && g.learn:
		s.spared = p.usable(mode, c) != ModeNone
		mode = ModeNone
	case g.resume != "":
		if mode = g.resume; mode == ModeNone {
			s.suspect = g.mode
		}
	}
	return p.usable(mode, c)
}

// learn takes from an attempt what it says about how the endpoint wants to be asked. It reports whether another attempt
// of the call, asked otherwise, may bring an answer.
//
// A mode that has worked is only left for a refusal that names it. One that has not is left for any refusal, and for an
// answer without text, which no enforced form can give; a refusal that does not say what it is about is held against no
// form at all next: if that is refused, too, it was not the form, and no other is tried until something else is
// said.
func (p *Pool) learn(g *grant, a *try, f *failure) (again bool) {
	if f == nil {
		p.learnFromAnswer(g, a)
		return false
	}
	if f.parameter != "" {
		return p.adapt(g, f)
	}
	if !g.learn || !f.form && !f.named {
		return false
	}
	e := g.e
	usual := p.usable(g.mode, a.call)
	if a.use == ModeNone {
		if e.mode == g.mode && a.use != usual && !a.spared {
			e.resume, e.anyway = "", f.key()
		}
		return false
	}
	switch {
	case e.mode != g.mode && a.use == usual: // another call has found out meanwhile
		a.refused, a.next = true, ""
		return true
	case f.named:
		a.refused, a.next = true, ""
		if a.use == usual {
			p.setMode(e, p.nextMode(a.use))
			e.proven, e.resume = false, ""
		} else {
			a.next = p.nextMode(a.use)
		}
		return true
	case e.proven, e.anyway != "" && e.anyway == f.key():
		return false
	case f.reason == ReasonEmpty:
		a.refused, a.next = false, p.nextMode(a.use)
	default:
		a.refused, a.suspect, a.next = true, g.mode, ModeNone
	}
	if a.left == 0 && e.mode == g.mode {
		e.resume = a.next
	}
	return true
}

func (p *Pool) learnFromAnswer(g *grant, a *try) {
	e := g.e
	e.anyway = ""
	if !g.learn || e.mode != g.mode || a.spared {
		return
	}
	e.resume = ""
	switch {
	case a.suspect != "" && p.usable(a.suspect, a.call) != ModeNone:
		// so it was the form; which of the others it takes is found by the next calls
		p.setMode(e, p.nextMode(a.suspect))
		e.proven = false
	case !a.kept:
		p.setMode(e, p.nextMode(a.use))
		e.proven = false
	case a.use != p.usable(g.mode, a.call):
		p.setMode(e, a.use)
		e.proven = true
	default:
		e.proven = a.use == e.mode
	}
}

// adapt sends a parameter under another name from now on, or not at all, because the endpoint does not take it. It
// reports whether that differs from what was sent.
func (p *Pool) adapt(g *grant, f *failure) bool {
	e := g.e
	for _, parameter := range p.o.Protocol.Parameters() {
		if g.names.Of(parameter.Name) != f.parameter {
			continue
		}
		if e.names.Of(parameter.Name) != f.parameter { // another call has learnt it meanwhile
			return true
		}
		e.unknown[f.parameter] = true
		name := Omit
		for _, other := range append([]string{parameter.Name}, parameter.Others...) {
			if !e.unknown[other] && (name == Omit || other == f.instead) {
				name = other
			}
		}
		e.names = maps.Clone(e.names)
		if e.names == nil {
			e.names = Names{}
		}
		e.names[parameter.Name] = name
		p.tellAdapted(e, parameter, f)
		return true
	}
	return false
}

// tellAdapted tells the log, once for each way, how a parameter is sent from now on.
func (p *Pool) tellAdapted(e *endpoint, parameter Parameter, f *failure) {
	name := e.names[parameter.Name]
	way := parameter.Name + "=" + name
	if e.ways[way] {
		return
	}
	e.ways[way] = true
	args := append([]any{"endpoint", e.url, "parameter", f.parameter}, f.words()...)
	p.tell(func() {
		if name != Omit {
			p.o.Logger.Info(article(p.o.Name)+" endpoint wants another name for a parameter, and gets it from now on",
				append(args, "name", name)...)
			return
		}
		p.o.Logger.Warn(article(p.o.Name)+" endpoint does not take a parameter, which is left out from now on: "+
			parameter.Without, args...)
	})
}

// relearn forgets what the endpoint understands: it may be another program now.
func (p *Pool) relearn(e *endpoint) {
	p.relearnMode(e)
	e.names, e.unknown = p.o.Parameters, map[string]bool{}
}

func (p *Pool) relearnMode(e *endpoint) {
	if p.o.Structured == ModeAuto {
		p.setMode(e, p.o.Protocol.Modes()[0])
		e.proven = false
	}
	e.resume, e.anyway = "", ""
}

func (p *Pool) setMode(e *endpoint, mode string) {
	if e.mode == mode {
		return
	}
	e.mode = mode
	p.tell(func() {
		p.o.Logger.Info("structured output of "+article(p.o.Name)+" endpoint", "endpoint", e.url, "mode", mode)
	})
}

// usable is mode, or the next that c has what it takes for.
func (p *Pool) usable(mode string, c *Call) string {
	for mode != ModeNone && !p.o.Protocol.Takes(mode, c) {
		mode = p.nextMode(mode)
	}
	return mode
}

// nextMode is the one to try where an endpoint does not understand mode.
func (p *Pool) nextMode(mode string) string {
	modes := p.o.Protocol.Modes()
	if i := slices.Index(modes, mode); i >= 0 && i+1 < len(modes) {
		return modes[i+1]
	}
	return ModeNone
}
