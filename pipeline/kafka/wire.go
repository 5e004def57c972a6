// Package kafka is Sluice's Kafka client: group membership, fetching and transactional publishing, built on the low
// level of github.com/segmentio/kafka-go (its transport and its protocol codec). Client implements pipeline.Source and
// pipeline.Sink.
//
// It is the only package that imports kafka-go, and must stay so: wire.go replaces kafka-go's message types of fourteen
// APIs in a table that is global to the process, after which the stock calls of these APIs (kafka.Client.Heartbeat,
// JoinGroup, OffsetFetch, Fetch, Produce, Reader, Writer, ...) panic.
//
// File map: config.go (what a user sets), client.go (requests, routing, cluster view), wire.go and wire_data.go
// (messages), errors.go (which error means what), group.go (the state machine of Source.Run), join.go (joining and
// leaving), assign.go (who gets which partition), position.go (where reading begins), fetch.go (the fetcher), batch.go
// (record batches), filter.go (read_committed), producer.go (the transactional producer), sink.go (Commit), security.go
// (TLS and SASL), check.go (Check).
package kafka

import (
	"fmt"

	segmentio "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// This file owns the messages on the wire. One version per API, each of them in every broker from 3.2 to 4.x; check.go
// compares with what the brokers offer. Why not kafka-go's own types: Heartbeat and LeaveGroup read the throttle time
// as the error code; JoinGroup lacks SkipAssignment (KIP-814), OffsetFetch lacks RequireStable (KIP-447); Produce
// cannot carry a producer id; Fetch drops the last offset of a batch and does not say which partition is corrupt; and
// all group and transaction calls swallow the error of the coordinator look-up. Ours name the node they go to.

// node routes a message to one broker of the transport's cluster view. The view is up to a second old, so a node can be
// unknown: a transient error.
type node int32

func (n node) Broker(c protocol.Cluster) (protocol.Broker, error) {
	b, ok := c.Brokers[int32(n)]
	if !ok {
		return protocol.Broker{ID: -1}, fmt.Errorf("broker %d is not in the cluster's metadata: %w", int32(n),
			segmentio.BrokerNotAvailable)
	}
	return b, nil
}

func init() {
	protocol.Register(&joinRequest{}, &joinResponse{})
	protocol.Register(&syncRequest{}, &syncResponse{})
	protocol.Register(&heartbeatRequest{}, &heartbeatResponse{})
	protocol.Register(&leaveRequest{}, &leaveResponse{})
	protocol.Register(&offsetFetchRequest{}, &offsetFetchResponse{})
	protocol.Register(&offsetCommitRequest{}, &offsetCommitResponse{})
	protocol.Register(&initProducerRequest{}, &initProducerResponse{})
	protocol.Register(&addPartitionsRequest{}, &addPartitionsResponse{})
	protocol.Register(&addOffsetsRequest{}, &addOffsetsResponse{})
	protocol.Register(&txnOffsetCommitRequest{}, &txnOffsetCommitResponse{})
	protocol.Register(&endTxnRequest{}, &endTxnResponse{})
	protocol.Register(&produceRequest{}, &produceResponse{})
	protocol.Register(&fetchRequest{}, &fetchResponse{})
	protocol.Register(&listOffsetsRequest{}, &listOffsetsResponse{})
}

// joinRequest is JoinGroup v9 (KIP-814: SkipAssignment).
type joinRequest struct {
	_                  struct{}       `kafka:"min=v9,max=v9,tag"`
	GroupID            string         `kafka:"min=v9,max=v9"`
	SessionTimeoutMs   int32          `kafka:"min=v9,max=v9"`
	RebalanceTimeoutMs int32          `kafka:"min=v9,max=v9"`
	MemberID           string         `kafka:"min=v9,max=v9"`
	InstanceID         string         `kafka:"min=v9,max=v9,nullable"`
	ProtocolType       string         `kafka:"min=v9,max=v9"`
	Protocols          []joinProtocol `kafka:"min=v9,max=v9"`
	Reason             string         `kafka:"min=v9,max=v9,nullable"`
	node               `kafka:"-"`
}

type joinProtocol struct {
	Name     string `kafka:"min=v9,max=v9"`
	Metadata []byte `kafka:"min=v9,max=v9"`
}

type joinMember struct {
	MemberID   string `kafka:"min=v9,max=v9"`
	InstanceID string `kafka:"min=v9,max=v9,nullable"`
	Metadata   []byte `kafka:"min=v9,max=v9"`
}

type joinResponse struct {
	_              struct{}     `kafka:"min=v9,max=v9,tag"`
	ThrottleMs     int32        `kafka:"min=v9,max=v9"`
	ErrorCode      int16        `kafka:"min=v9,max=v9"`
	Generation     int32        `kafka:"min=v9,max=v9"`
	ProtocolType   string       `kafka:"min=v9,max=v9,nullable"`
	ProtocolName   string       `kafka:"min=v9,max=v9,nullable"`
	LeaderID       string       `kafka:"min=v9,max=v9"`
	SkipAssignment bool         `kafka:"min=v9,max=v9"`
	MemberID       string       `kafka:"min=v9,max=v9"`
	Members        []joinMember `kafka:"min=v9,max=v9"`
}

func (*joinRequest) ApiKey() protocol.ApiKey  { return protocol.JoinGroup }
func (*joinResponse) ApiKey() protocol.ApiKey { return protocol.JoinGroup }

// syncRequest is SyncGroup v5.
type syncRequest struct {
	_            struct{}         `kafka:"min=v5,max=v5,tag"`
	GroupID      string           `kafka:"min=v5,max=v5"`
	Generation   int32            `kafka:"min=v5,max=v5"`
	MemberID     string           `kafka:"min=v5,max=v5"`
	InstanceID   string           `kafka:"min=v5,max=v5,nullable"`
	ProtocolType string           `kafka:"min=v5,max=v5,nullable"`
	ProtocolName string           `kafka:"min=v5,max=v5,nullable"`
	Assignments  []syncAssignment `kafka:"min=v5,max=v5"`
	node         `kafka:"-"`
}

type syncAssignment struct {
	MemberID   string `kafka:"min=v5,max=v5"`
	Assignment []byte `kafka:"min=v5,max=v5"`
}

type syncResponse struct {
	_            struct{} `kafka:"min=v5,max=v5,tag"`
	ThrottleMs   int32    `kafka:"min=v5,max=v5"`
	ErrorCode    int16    `kafka:"min=v5,max=v5"`
	ProtocolType string   `kafka:"min=v5,max=v5,nullable"`
	ProtocolName string   `kafka:"min=v5,max=v5,nullable"`
	Assignment   []byte   `kafka:"min=v5,max=v5"`
}

func (*syncRequest) ApiKey() protocol.ApiKey  { return protocol.SyncGroup }
func (*syncResponse) ApiKey() protocol.ApiKey { return protocol.SyncGroup }

// heartbeatRequest is Heartbeat v4.
type heartbeatRequest struct {
	_          struct{} `kafka:"min=v4,max=v4,tag"`
	GroupID    string   `kafka:"min=v4,max=v4"`
	Generation int32    `kafka:"min=v4,max=v4"`
	MemberID   string   `kafka:"min=v4,max=v4"`
	InstanceID string   `kafka:"min=v4,max=v4,nullable"`
	node       `kafka:"-"`
}

type heartbeatResponse struct {
	_          struct{} `kafka:"min=v4,max=v4,tag"`
	ThrottleMs int32    `kafka:"min=v4,max=v4"`
	ErrorCode  int16    `kafka:"min=v4,max=v4"`
}

func (*heartbeatRequest) ApiKey() protocol.ApiKey  { return protocol.Heartbeat }
func (*heartbeatResponse) ApiKey() protocol.ApiKey { return protocol.Heartbeat }

// leaveRequest is LeaveGroup v5, by instance id alone.
type leaveRequest struct {
	_       struct{}      `kafka:"min=v5,max=v5,tag"`
	GroupID string        `kafka:"min=v5,max=v5"`
	Members []leaveMember `kafka:"min=v5,max=v5"`
	node    `kafka:"-"`
}

type leaveMember struct {
	MemberID   string `kafka:"min=v5,max=v5"`
	InstanceID string `kafka:"min=v5,max=v5,nullable"`
	Reason     string `kafka:"min=v5,max=v5,nullable"`
}

type leaveResult struct {
	MemberID   string `kafka:"min=v5,max=v5"`
	InstanceID string `kafka:"min=v5,max=v5,nullable"`
	ErrorCode  int16  `kafka:"min=v5,max=v5"`
}

type leaveResponse struct {
	_          struct{}      `kafka:"min=v5,max=v5,tag"`
	ThrottleMs int32         `kafka:"min=v5,max=v5"`
	ErrorCode  int16         `kafka:"min=v5,max=v5"`
	Members    []leaveResult `kafka:"min=v5,max=v5"`
}

func (*leaveRequest) ApiKey() protocol.ApiKey  { return protocol.LeaveGroup }
func (*leaveResponse) ApiKey() protocol.ApiKey { return protocol.LeaveGroup }

// offsetFetchRequest is OffsetFetch v7 (KIP-447: RequireStable).
type offsetFetchRequest struct {
	_             struct{}           `kafka:"min=v7,max=v7,tag"`
	GroupID       string             `kafka:"min=v7,max=v7"`
	Topics        []offsetFetchTopic `kafka:"min=v7,max=v7,nullable"`
	RequireStable bool               `kafka:"min=v7,max=v7"`
	node          `kafka:"-"`
}

type offsetFetchTopic struct {
	Name       string  `kafka:"min=v7,max=v7"`
	Partitions []int32 `kafka:"min=v7,max=v7"`
}

type offsetFetchResultTopic struct {
	Name       string              `kafka:"min=v7,max=v7"`
	Partitions []offsetFetchResult `kafka:"min=v7,max=v7"`
}

type offsetFetchResult struct {
	Partition   int32  `kafka:"min=v7,max=v7"`
	Offset      int64  `kafka:"min=v7,max=v7"`
	LeaderEpoch int32  `kafka:"min=v7,max=v7"`
	Metadata    string `kafka:"min=v7,max=v7,nullable"`
	ErrorCode   int16  `kafka:"min=v7,max=v7"`
}

type offsetFetchResponse struct {
	_          struct{}                 `kafka:"min=v7,max=v7,tag"`
	ThrottleMs int32                    `kafka:"min=v7,max=v7"`
	Topics     []offsetFetchResultTopic `kafka:"min=v7,max=v7"`
	ErrorCode  int16                    `kafka:"min=v7,max=v7"`
}

func (*offsetFetchRequest) ApiKey() protocol.ApiKey  { return protocol.OffsetFetch }
func (*offsetFetchResponse) ApiKey() protocol.ApiKey { return protocol.OffsetFetch }

// offsetCommitRequest is OffsetCommit v7.
type offsetCommitRequest struct {
	GroupID    string              `kafka:"min=v7,max=v7"`
	Generation int32               `kafka:"min=v7,max=v7"`
	MemberID   string              `kafka:"min=v7,max=v7"`
	InstanceID string              `kafka:"min=v7,max=v7,nullable"`
	Topics     []offsetCommitTopic `kafka:"min=v7,max=v7"`
	node       `kafka:"-"`
}

type offsetCommitTopic struct {
	Name       string                  `kafka:"min=v7,max=v7"`
	Partitions []offsetCommitPartition `kafka:"min=v7,max=v7"`
}

type offsetCommitPartition struct {
	Partition   int32  `kafka:"min=v7,max=v7"`
	Offset      int64  `kafka:"min=v7,max=v7"`
	LeaderEpoch int32  `kafka:"min=v7,max=v7"`
	Metadata    string `kafka:"min=v7,max=v7,nullable"`
}

type offsetCommitResultTopic struct {
	Name       string             `kafka:"min=v7,max=v7"`
	Partitions []partitionResult7 `kafka:"min=v7,max=v7"`
}

type partitionResult7 struct {
	Partition int32 `kafka:"min=v7,max=v7"`
	ErrorCode int16 `kafka:"min=v7,max=v7"`
}

type offsetCommitResponse struct {
	ThrottleMs int32                     `kafka:"min=v7,max=v7"`
	Topics     []offsetCommitResultTopic `kafka:"min=v7,max=v7"`
}

func (*offsetCommitRequest) ApiKey() protocol.ApiKey  { return protocol.OffsetCommit }
func (*offsetCommitResponse) ApiKey() protocol.ApiKey { return protocol.OffsetCommit }

// freshMetadata is a Metadata request that really goes to a broker: the transport answers a plain metadata.Request from
// its cache, and one that is not created by a Splitter would be taken for that (transport.go, roundTrip).
type freshMetadata struct{ topics []string }

type freshMetadataResponse struct{ *metadata.Response }

func (*freshMetadata) ApiKey() protocol.ApiKey { return protocol.Metadata }

func (f *freshMetadata) Split(protocol.Cluster) ([]protocol.Message, protocol.Merger, error) {
	return []protocol.Message{&metadata.Request{TopicNames: f.topics}}, f, nil
}

func (*freshMetadata) Merge(_ []protocol.Message, results []any) (protocol.Message, error) {
	if m, ok := results[0].(*metadata.Response); ok {
		return &freshMetadataResponse{m}, nil
	}
	return nil, results[0].(error)
}
