package kafka

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"sluice/pipeline"
)

// This file owns joining and leaving: JoinGroup, SyncGroup, the leader's work in between, LeaveGroup.

// join joins the group, for as long as it takes.
func (c *Client) join(ctx context.Context, m *membership) (*session, error) {
	began, told := time.Now(), time.Now()
	for {
		s, err := c.joinOnce(ctx, m)
		if err == nil {
			c.failpoint("after-join")
			c.log.Info("joined the group", "generation", s.generation, "leader", s.leads, "partitions", len(m.owned),
				"took", time.Since(began).Round(time.Millisecond))
			if c.cfg.Observer.Rebalance != nil {
				c.cfg.Observer.Rebalance(s.generation, len(m.owned))
			}
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, stopped("join", err)
		}
		c.observeRetry("join", err)
		switch {
		case errors.As(err, new(*pipeline.Fault)):
			return nil, err
		case is(err, errFencedInstance):
			if fault := c.twin(ctx, "join", err); fault != nil {
				return nil, fault
			}
			m.member = ""
		case is(err, errUnknownMember):
			m.member = ""
		case is(err, errMemberIDRequired), lostMembership(err), retriable(err):
		default:
			if f := c.configFault("join", err); f != nil {
				return nil, f
			}
			return nil, pipeline.Faultf(pipeline.Internal, "join", "join", "joining group %s failed: %w", c.cfg.Group,
				err)
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			c.log.Warn("still joining the group", "for", time.Since(began).Round(time.Second), "error", err)
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// joinOnce is JoinGroup and SyncGroup. As leader it shares the partitions out.
func (c *Client) joinOnce(ctx context.Context, m *membership) (*session, error) {
	counts, err := c.awaitTopics(ctx, "join", time.Time{}, c.cfg.Topics)
	if err != nil {
		return nil, err
	}
	wait := c.cfg.RebalanceTimeout + requestTimeout
	self := member{topics: c.cfg.Topics, owned: m.owned, generation: m.generation}
	j, err := askCoordinator[*joinResponse](ctx, c, groupCoordinator, wait, &joinRequest{
		GroupID: c.cfg.Group, SessionTimeoutMs: int32(c.cfg.SessionTimeout.Milliseconds()),
		RebalanceTimeoutMs: int32(c.cfg.RebalanceTimeout.Milliseconds()),
		MemberID:           m.member, InstanceID: c.cfg.InstanceID, ProtocolType: "consumer",
		Protocols: []joinProtocol{{Name: protocolName, Metadata: self.subscription()}}})
	if err != nil {
		return nil, err
	}
	if j.ErrorCode == errMemberIDRequired {
		m.member = j.MemberID
	}
	if err := c.coordinated(groupCoordinator, j.ErrorCode, "JoinGroup", "group %s", c.cfg.Group); err != nil {
		return nil, err
	}
	m.member = j.MemberID
	leads := j.LeaderID == j.MemberID
	c.mu.Lock()
	c.joined = newSession(j.MemberID, j.Generation, leads)
	c.mu.Unlock()
	c.failpoint("while-joining")
	req := &syncRequest{GroupID: c.cfg.Group, Generation: j.Generation, MemberID: j.MemberID,
		InstanceID:   c.cfg.InstanceID,
		ProtocolType: "consumer", ProtocolName: protocolName}
	// A static leader that comes back leads, but must not assign anew (KIP-814).
	if leads && !j.SkipAssignment {
		if req.Assignments, err = c.shareOut(m, j, counts); err != nil {
			return nil, err
		}
	}
	s, err := askCoordinator[*syncResponse](ctx, c, groupCoordinator, wait, req)
	if err == nil {
		err = c.coordinated(groupCoordinator, s.ErrorCode, "SyncGroup", "group %s", c.cfg.Group)
	}
	if err != nil {
		return nil, err
	}
	owned, counts, err := readAssignment(s.Assignment)
	if err != nil {
		return nil, pipeline.Faultf(pipeline.Config, "join", "assignment", "group %s: %w", c.cfg.Group, err)
	}
	m.owned, m.counts, m.generation = owned, counts, j.Generation
	return newSession(j.MemberID, j.Generation, leads), nil
}

// shareOut makes the assignment of a generation.
func (c *Client) shareOut(m *membership, j *joinResponse, counts map[string]int) ([]syncAssignment, error) {
	members := make([]member, len(j.Members))
	ids := map[string]string{}
	for i, x := range j.Members {
		key := x.InstanceID
		if key == "" {
			key = x.MemberID // a dynamic member: not one of ours, but it may have a share
		}
		one, err := readSubscription(key, x.Metadata)
		if err != nil {
			return nil, pipeline.Faultf(pipeline.Config, "join", "subscription", "group %s: %w: does another program "+
				"use this group?", c.cfg.Group, err)
		}
		// A member that has restarted claims nothing. What this leader gave it last is still what it should keep.
		if share, ok := m.shares[key]; ok && m.sharesGen > one.generation {
			one.owned, one.generation = share, m.sharesGen
		}
		members[i], ids[key] = one, x.MemberID
	}
	m.shares, m.sharesGen = assign(members, counts), j.Generation
	var out []syncAssignment
	for _, instance := range slices.Sorted(maps.Keys(m.shares)) {
		out = append(out, syncAssignment{MemberID: ids[instance], Assignment: assignment(m.shares[instance], counts)})
	}
	return out, nil
}

// Leave takes this instance out of the group for good, for a scale-in: its partitions go to the others at once instead
// of after the session timeout. Not for restarts.
func (c *Client) Leave(ctx context.Context) error {
	return c.retry(ctx, "leave", time.Now().Add(requestTimeout), func() error {
		r, err := askCoordinator[*leaveResponse](ctx, c, groupCoordinator, requestTimeout, &leaveRequest{
			GroupID: c.cfg.Group, Members: []leaveMember{{InstanceID: c.cfg.InstanceID, Reason: "scale-in"}}})
		if err != nil {
			return err
		}
		if err := c.coordinated(groupCoordinator, r.ErrorCode, "LeaveGroup", "group %s", c.cfg.Group); err != nil {
			return err
		}
		for _, x := range r.Members {
			if err := answer(x.ErrorCode, "LeaveGroup", "instance %s", x.InstanceID); err != nil {
				return err
			}
		}
		return nil
	})
}
