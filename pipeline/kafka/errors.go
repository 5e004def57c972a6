package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	segmentio "github.com/segmentio/kafka-go"

	"sluice/pipeline"
)

// This file owns what errors mean: which are repeated, which end a membership or a transaction, which a person must
// mend.

// Kafka's error codes that decide something here.
const (
	errUnknownServerError           = -1
	errOffsetOutOfRange             = 1
	errCorrupt                      = 2
	errUnknownTopic                 = 3
	errLeaderNotAvailable           = 5
	errNotLeader                    = 6
	errRequestTimedOut              = 7
	errBrokerNotAvailable           = 8
	errReplicaNotAvailable          = 9
	errMessageTooLarge              = 10
	errMetadataTooLarge             = 12
	errNetwork                      = 13
	errCoordinatorLoading           = 14
	errNoCoordinator                = 15
	errNotCoordinator               = 16
	errInvalidTopic                 = 17
	errRecordListTooLarge           = 18
	errNotEnoughReplicas            = 19
	errNotEnoughReplicasAfterAppend = 20
	errIllegalGeneration            = 22
	errInconsistentProtocol         = 23
	errInvalidGroup                 = 24
	errUnknownMember                = 25
	errSessionTimeout               = 26
	errRebalancing                  = 27
	errOffsetsTooLarge              = 28
	errTopicAuth                    = 29
	errGroupAuth                    = 30
	errClusterAuth                  = 31
	errInvalidTimestamp             = 32
	errInvalidRequest               = 42
	errUnsupportedForMessage        = 43
	errPolicyViolation              = 44
	errOutOfOrder                   = 45
	errDuplicateSequence            = 46
	errInvalidProducerEpoch         = 47
	errInvalidTxnState              = 48
	errInvalidPidMapping            = 49
	errInvalidTxnTimeout            = 50
	errConcurrentTxn                = 51
	errTransactionalIDAuth          = 53
	errNotAttempted                 = 55
	errStorage                      = 56
	errUnsupportedCompression       = 76
	errMemberIDRequired             = 79
	errGroupMaxSize                 = 81
	errFencedInstance               = 82
	errInvalidRecord                = 87
	errUnstableOffsets              = 88
	errThrottled                    = 89
	errProducerFenced               = 90
)

// codeError is an error code that a broker answered with. API and resource say to what.
type codeError struct {
	code     int16
	api      string
	resource string
}

func (e *codeError) Error() string {
	k := segmentio.Error(e.code)
	return fmt.Sprintf("%s of %s: [%d] %s: %s", e.api, e.resource, e.code, k.Title(),
		strings.TrimSuffix(k.Description(), "."))
}

// answer is the error for the code of an answer; nil for 0.
func answer(code int16, api, format string, args ...any) error {
	if code == 0 {
		return nil
	}
	return &codeError{code: code, api: api, resource: fmt.Sprintf(format, args...)}
}

// codeOf is the Kafka error code in err's chain, 0 if there is none (nil, a network error, a timeout).
func codeOf(err error) int16 {
	var e *codeError
	if errors.As(err, &e) {
		return e.code
	}
	return 0
}

func is(err error, codes ...int16) bool {
	c := codeOf(err)
	for _, x := range codes {
		if c == x && c != 0 {
			return true
		}
	}
	return false
}

// retriable says that the same request may be sent again. So are all network errors and timeouts.
func retriable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if errors.As(err, new(*pipeline.Fault)) || errors.As(err, new(*pipeline.RefusedError)) {
		return false
	}
	switch codeOf(err) {
	case 0:
		return true
	case errUnknownTopic, errLeaderNotAvailable, errNotLeader, errRequestTimedOut, errBrokerNotAvailable,
		errReplicaNotAvailable, errNetwork,
		errCoordinatorLoading, errNoCoordinator, errNotCoordinator,
		errNotEnoughReplicas, /* also: "concurrent transactions", told to old clients */
		errNotEnoughReplicasAfterAppend,
		errConcurrentTxn, errStorage, errUnstableOffsets, errThrottled,
		errUnknownServerError: // a broker in trouble, which does not say which: no reason for the worker to end
		return true
	}
	return false
}

// lostMembership says that the group has moved on without this member.
func lostMembership(err error) bool {
	return is(err, errIllegalGeneration, errUnknownMember, errRebalancing)
}

// lostEpoch says that the producer epoch is no longer valid: a transaction timeout or a successor, InitProducerId
// tells.
func lostEpoch(err error) bool { return is(err, errInvalidProducerEpoch, errProducerFenced) }

// configFault is the fault for err when a person must act; nil otherwise.
func (c *Client) configFault(stage string, err error) *pipeline.Fault {
	var e *codeError
	if !errors.As(err, &e) {
		return nil
	}
	bad := func(reason, format string, args ...any) *pipeline.Fault {
		return &pipeline.Fault{Kind: pipeline.Config, Stage: stage, Reason: reason, Err: fmt.Errorf("%s: %w",
			fmt.Sprintf(format, args...), err)}
	}
	switch e.code {
	case errTopicAuth:
		op := "WRITE"
		if slices.Contains(c.cfg.Topics, strings.TrimPrefix(e.resource, "topic ")) {
			op = "READ"
		}
		return bad("permission", "%s lacks permission %s on %s: grant it with kafka-acls", c.principal(), op,
			e.resource)
	case errGroupAuth:
		return bad("permission", "%s lacks permission READ on group %s: grant it with kafka-acls", c.principal(),
			c.cfg.Group)
	case errTransactionalIDAuth:
		return bad("permission", "%s lacks permission WRITE on transactional id %s (best granted prefixed, %s.): "+
			"grant it with kafka-acls", c.principal(), c.cfg.TransactionalID(), c.cfg.Group)
	case errClusterAuth:
		return bad("permission", "%s lacks permission IDEMPOTENT_WRITE on the cluster, or WRITE on some topic: grant "+
			"it with kafka-acls", c.principal())
	case errSessionTimeout:
		return bad("session-timeout", "the broker refuses session_timeout %v: keep it between its "+
			"group.min.session.timeout.ms and group.max.session.timeout.ms", c.cfg.SessionTimeout)
	case errInvalidTxnTimeout:
		return bad("transaction-timeout", "the broker refuses transaction_timeout %v: keep it below its "+
			"transaction.max.timeout.ms", c.cfg.TransactionTimeout)
	case errInconsistentProtocol:
		return bad("group-protocol", "group %s has members of another program (another assignment protocol): use a "+
			"group of its own", c.cfg.Group)
	case errInvalidGroup:
		return bad("group", "group %q is not a valid group id", c.cfg.Group)
	case errGroupMaxSize:
		return bad("group-size", "group %s is full (group.max.size of the brokers)", c.cfg.Group)
	case errInvalidTopic:
		return bad("topic", "%s is not a valid topic name", e.resource)
	case errUnsupportedCompression:
		return bad("compression", "%s does not take compression %s: set kafka.compression to another",
			e.resource, c.cfg.Compression)
	case errOffsetsTooLarge:
		return bad("offsets-size", "__consumer_offsets does not take the offsets of one commit for their size: raise "+
			"its max.message.bytes")
	case errMetadataTooLarge:
		return bad("offset-metadata", "the brokers take too little beside a committed offset: set their "+
			"offset.metadata.max.bytes to 4096 (Kafka's default) or more")
	}
	return nil
}

// principal is how messages name the worker's identity.
func (c *Client) principal() string {
	if c.cfg.SASL.User != "" {
		return fmt.Sprintf("user %q", c.cfg.SASL.User)
	}
	return "this worker"
}

// fenced is the fault that ends a worker whose place a twin has taken.
func (c *Client) fenced(stage string, err error) *pipeline.Fault {
	return &pipeline.Fault{Kind: pipeline.Fenced, Stage: stage, Reason: "fenced", Err: fmt.Errorf(
		"another process runs as instance %q of group %q and has taken over: give every worker its own instance_id: %w",
		c.cfg.InstanceID, c.cfg.Group, err)}
}

// stopped is what a call returns whose context ended.
func stopped(stage string, err error) *pipeline.Fault {
	return &pipeline.Fault{Kind: pipeline.Transient, Stage: stage, Reason: "stopped",
		Err: fmt.Errorf("the worker is stopping: %w", err)}
}
