package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"sluice/pipeline"
)

// This file owns membership: the state machine of Run.
//
//	START  contact, versions, topics, producer identity with scrub            (start)
//	JOIN   JoinGroup, SyncGroup                                               (join)
//	POS    committed offsets, Flow.Assign                                     (live)
//	LOOP   fetch; heartbeats beside it; the flow commits through the sink     (live)
//	       ends when a rebalance is due -> Flow.Quiesce -> JOIN
//	       or the offsets turned out to have moved -> Flow.Quiesce -> POS
//	STOP   no LeaveGroup: the membership waits for the next start
//
// The protocol is Kafka's classic one, eager, with static membership (KIP-345): at a rebalance everybody stops fetching
// and joins again; what is in flight of partitions that stay is kept by the flow.

// Why a session ended.
var (
	errReposition = errors.New("the group's offsets are not where this worker thought they were")
	errGrown      = errors.New("an input topic has more partitions now")
)

// session is one generation of membership.
type session struct {
	member     string
	generation int32
	leads      bool
	ended      chan struct{} // closed at the end
	once       sync.Once
	cause      error // valid once ended is closed
}

func newSession(member string, generation int32, leads bool) *session {
	return &session{member: member, generation: generation, leads: leads, ended: make(chan struct{})}
}

// end tells Run that the session is over, and why. The first call counts.
func (s *session) end(cause error) {
	s.once.Do(func() {
		s.cause = cause
		close(s.ended)
	})
}

func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// until is a context that ends with ctx or with the session.
func (s *session) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// membership is what Run carries from session to session.
type membership struct {
	member     string // id the broker gave; new at every start
	generation int32
	owned      []pipeline.TopicPartition
	counts     map[string]int                       // partitions of the input topics that the assignment was made from
	shares     map[string][]pipeline.TopicPartition // by instance id: the assignment this member made last as leader
	sharesGen  int32                                // its generation
	resets     map[pipeline.TopicPartition]int64    // positions to begin at instead of the committed ones
}

// Run implements pipeline.Source. It may be called once.
func (c *Client) Run(ctx context.Context, flow pipeline.Flow) error {
	c.mu.Lock()
	again := c.ran
	c.ran = true
	c.mu.Unlock()
	if again {
		return pipeline.Faultf(pipeline.Internal, "join", "run-twice", "Run was called twice: a second start in one "+
			"process would fence its own twin")
	}
	err := c.run(ctx, flow)
	c.mu.Lock()
	c.session = nil
	c.mu.Unlock()
	c.observeInGroup(false)
	if ctx.Err() != nil && pipeline.KindOf(err) != pipeline.Fenced {
		return nil
	}
	return err
}

func (c *Client) run(ctx context.Context, flow pipeline.Flow) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	m := &membership{generation: -1, resets: map[pipeline.TopicPartition]int64{}}
	for {
		s, err := c.join(ctx, m)
		if err != nil {
			return err
		}
		if err := c.live(ctx, flow, m, s); err != nil {
			return err
		}
	}
}

func (c *Client) observeInGroup(in bool) {
	if c.cfg.Observer.InGroup != nil {
		c.cfg.Observer.InGroup(in)
	}
}

func (c *Client) observeContact(there bool) {
	if c.cfg.Observer.Contact != nil {
		c.cfg.Observer.Contact(there)
	}
}

// start makes contact, checks what can be checked, and takes the producer identity.
func (c *Client) start(ctx context.Context) error {
	told := time.Now()
	for {
		err := c.refresh(ctx)
		if err == nil {
			break
		}
		sentence, hopeless := c.connectionProblem(err)
		if hopeless {
			return pipeline.Faultf(pipeline.Config, "start", "connection", "%s: %w", sentence, err)
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			c.log.Warn("waiting for Kafka", "problem", sentence)
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return stopped("start", err)
		}
	}
	if err := c.checkVersions(ctx, time.Time{}); err != nil {
		return err
	}
	if _, err := c.awaitTopics(ctx, "start", time.Time{}, c.allTopics()); err != nil {
		if f := c.configFault("start", err); f != nil {
			return f
		}
		return err
	}
	c.saySettings(ctx)
	if err := c.producer.begin(ctx); err != nil {
		return c.identityFault(ctx, "start", err)
	}
	return nil
}

// topicPatience is for how long a topic may be unknown: it may have just been made, or is being made anew.
const topicPatience = 10 * time.Second

// awaitTopics is the number of partitions of each topic, from fresh metadata. It waits for brokers that cannot be
// reached, until the deadline (zero: until ctx ends). A topic that all answers within topicPatience do not know is a
// fault.
func (c *Client) awaitTopics(ctx context.Context, stage string, deadline time.Time, topics []string) (
	counts map[string]int, err error) {
	var missing time.Time
	err = c.retry(ctx, "metadata", deadline, func() (err error) {
		if err = c.refresh(ctx); err == nil {
			counts, err = c.partitions(topics)
		}
		switch {
		case !is(err, errUnknownTopic):
			missing = time.Time{}
		case missing.IsZero():
			missing = time.Now()
		case time.Since(missing) > topicPatience:
			return missingTopic(stage, err)
		}
		return err
	})
	return counts, err
}

// live is a session from assignment to the end of its membership. It returns nil when the group is to be joined again.
func (c *Client) live(ctx context.Context, flow pipeline.Flow, m *membership, s *session) error {
	beat, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	// Sessions that only differ in their positions share heartbeats: current is the one they end.
	current := &sessionRef{s: s}
	wg.Go(func() { c.heartbeats(beat, current) })
	if s.leads {
		wg.Go(func() { c.watchGrowth(beat, current, m.counts) })
	}
	for {
		err := c.own(ctx, flow, m, s)
		if ctx.Err() != nil && pipeline.KindOf(err) != pipeline.Fenced {
			return stopped("fetch", ctx.Err())
		}
		if f := new(pipeline.Fault); errors.As(err, &f) {
			return err
		}
		if f := c.configFault("fetch", err); f != nil {
			return f
		}
		c.observeInGroup(false)
		if is(err, errFencedInstance) {
			c.mu.Lock()
			c.session = nil // the group takes no commit of it
			c.mu.Unlock()
			if fault := c.twin(ctx, "heartbeat", err); fault != nil {
				return fault
			}
		}
		c.log.Info("assignment ends", "generation", s.generation, "reason", err)
		// The flow may still commit what is ready: a group that prepares a rebalance takes offsets of the old
		// generation.
		quiesce, done := context.WithTimeout(ctx, max(c.cfg.RebalanceTimeout-2*c.cfg.heartbeatInterval(),
			c.cfg.RebalanceTimeout/2))
		flow.Quiesce(quiesce)
		done()
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
		if !errors.Is(err, errReposition) {
			if is(err, errUnknownMember, errFencedInstance) {
				m.member = ""
			}
			return nil
		}
		s = newSession(s.member, s.generation, s.leads)
		current.set(s)
	}
}

// own fetches from one assignment of positions to the end of the session, whose cause it returns.
func (c *Client) own(ctx context.Context, flow pipeline.Flow, m *membership, s *session) error {
	committed, from, err := c.positions(ctx, s, m)
	if s.over() {
		return s.cause
	}
	if err != nil {
		return err
	}
	clear(m.resets)
	c.mu.Lock()
	c.session, c.committed = s, committed
	c.mu.Unlock()
	at := flow.Assign(from)
	c.observeInGroup(true)

	f := newFetcher(c, flow, s, m.owned, at)
	ctx, cancel := s.until(ctx)
	defer cancel()
	err = f.run(ctx)
	maps.Copy(m.resets, f.resets)
	if s.over() {
		return s.cause
	}
	return err
}

// sessionRef is the session that heartbeats speak for.
type sessionRef struct {
	mu sync.Mutex
	s  *session
}

func (r *sessionRef) get() *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.s
}

func (r *sessionRef) set(s *session) {
	r.mu.Lock()
	r.s = s
	r.mu.Unlock()
}

// heartbeats keeps the membership alive until ctx ends, also while the flow quiesces. A network error says nothing
// about the group.
func (c *Client) heartbeats(ctx context.Context, current *sessionRef) {
	every := c.cfg.heartbeatInterval()
	silent, warned, contact := time.Now(), false, true
	c.observeContact(true) // the group has just answered
	for sleep(ctx, every) {
		s := current.get()
		r, err := askCoordinator[*heartbeatResponse](ctx, c, groupCoordinator, max(c.cfg.SessionTimeout/4, time.Second),
			&heartbeatRequest{GroupID: c.cfg.Group, Generation: s.generation, MemberID: s.member,
				InstanceID: c.cfg.InstanceID})
		if err == nil {
			err = c.coordinated(groupCoordinator, r.ErrorCode, "Heartbeat", "group %s", c.cfg.Group)
		}
		if ctx.Err() != nil {
			return
		}
		lost := err != nil && (codeOf(err) == 0 || is(err, errCoordinatorLoading, errNoCoordinator, errNotCoordinator))
		if !lost {
			silent, warned = time.Now(), false
		}
		if now := !lost || time.Since(silent) < c.cfg.SessionTimeout/4; now != contact {
			contact = now
			c.observeContact(contact)
		}
		switch {
		case err == nil:
		case is(err, errRebalancing):
			s.end(err)
		case lost:
			c.observeRetry("heartbeat", err)
			if !warned && time.Since(silent) > c.cfg.SessionTimeout/2 {
				warned = true
				c.log.Warn("no heartbeat has got through for half the session timeout", "error", err)
			}
		default: // 22, 25, 82, 30; go on, for the session may have been replaced meanwhile
			s.end(err)
		}
	}
}

// twin says whether cause, the group's word that another member has this worker's instance id, is true: the fault that
// ends this worker, or nil. The group knows members by their ids only, and the other one may be this worker itself: a
// join of its own under a name of its own that came late (each makes a new member id and fences the one before), or the
// member that it was before it joined last, of which a new coordinator still knows because no SyncGroup had made the
// later one durable (KIP-345). A twin takes the transactional id before it joins (producer.begin), so that this
// worker's epoch is gone; where it is not, nobody has come. With at-least-once there is no such id, and the group's
// word counts.
func (c *Client) twin(ctx context.Context, stage string, cause error) error {
	if c.cfg.Guarantee != ExactlyOnce {
		return c.fenced(stage, cause)
	}
	if !c.take(ctx) {
		return stopped(stage, ctx.Err())
	}
	defer c.release()
	if err := c.producer.renew(ctx); err != nil {
		return c.identityFault(ctx, stage, err)
	}
	c.log.Warn("the group takes this worker for one that another has replaced, but nobody has taken its "+
		"transactional id: it was replaced by itself, and joins again", "error", cause)
	return nil
}

// replaced asks the group whether another process has joined it under this worker's instance id. Before this worker has
// joined itself nobody can tell: then it says yes.
func (c *Client) replaced(ctx context.Context) (bool, error) {
	c.mu.Lock()
	s := c.joined
	c.mu.Unlock()
	if s == nil {
		return true, nil
	}
	err := c.retry(ctx, "heartbeat", time.Time{}, func() error {
		r, err := askCoordinator[*heartbeatResponse](ctx, c, groupCoordinator, requestTimeout,
			&heartbeatRequest{GroupID: c.cfg.Group, Generation: s.generation, MemberID: s.member,
				InstanceID: c.cfg.InstanceID})
		if err != nil {
			return err
		}
		return c.coordinated(groupCoordinator, r.ErrorCode, "Heartbeat", "group %s", c.cfg.Group)
	})
	switch {
	case is(err, errFencedInstance):
		return true, nil
	// whoever joins under the name of a member that is out gets a new member id: 82
	case err == nil || lostMembership(err):
		return false, nil
	}
	return false, err
}

// twinPatience is how long a worker that has lost its epoch waits for whoever took it to join the group.
const twinPatience = 2 * time.Second

// beingReplaced is replaced, and gives a process that has just begun the time to join: it takes the transactional id
// first. Without it the elder of two would take the id back, and the newer one would end.
func (c *Client) beingReplaced(ctx context.Context) (bool, error) {
	for began := time.Now(); ; {
		twin, err := c.replaced(ctx)
		if twin || err != nil || time.Since(began) > twinPatience {
			return twin, err
		}
		if !sleep(ctx, pauseCode) {
			return false, ctx.Err()
		}
	}
}

// watchGrowth looks for new partitions, as leader: brokers do not tell classic groups.
func (c *Client) watchGrowth(ctx context.Context, current *sessionRef, known map[string]int) {
	for first := true; ; first = false {
		// The first look is at once: a topic may have grown while the leader was restarting.
		if !first && !sleep(ctx, c.growthPoll) {
			return
		}
		if err := c.refresh(ctx); err != nil {
			c.observeRetry("metadata", err)
			continue
		}
		now, err := c.partitions(c.cfg.Topics)
		if err == nil && !maps.Equal(now, known) {
			c.log.Info("the partitions of the input topics have changed; joining again", "were", known, "are", now)
			// No end of the watch: a session that has ended for another reason may be followed by one with the same
			// assignment.
			current.get().end(fmt.Errorf("%w: %v, were %v", errGrown, now, known))
		}
	}
}
