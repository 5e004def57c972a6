package kafka

import "github.com/segmentio/kafka-go/protocol"

// This file owns the messages of transactions and of the log. See wire.go for the rules.

// initProducerRequest is InitProducerId v4 (KIP-360: the present id and epoch may be given).
type initProducerRequest struct {
	_               struct{} `kafka:"min=v4,max=v4,tag"`
	TransactionalID string   `kafka:"min=v4,max=v4,nullable"`
	TimeoutMs       int32    `kafka:"min=v4,max=v4"`
	ProducerID      int64    `kafka:"min=v4,max=v4"`
	ProducerEpoch   int16    `kafka:"min=v4,max=v4"`
	node            `kafka:"-"`
}

type initProducerResponse struct {
	_             struct{} `kafka:"min=v4,max=v4,tag"`
	ThrottleMs    int32    `kafka:"min=v4,max=v4"`
	ErrorCode     int16    `kafka:"min=v4,max=v4"`
	ProducerID    int64    `kafka:"min=v4,max=v4"`
	ProducerEpoch int16    `kafka:"min=v4,max=v4"`
}

func (*initProducerRequest) ApiKey() protocol.ApiKey  { return protocol.InitProducerId }
func (*initProducerResponse) ApiKey() protocol.ApiKey { return protocol.InitProducerId }

// addPartitionsRequest is AddPartitionsToTxn v3.
type addPartitionsRequest struct {
	_               struct{}             `kafka:"min=v3,max=v3,tag"`
	TransactionalID string               `kafka:"min=v3,max=v3"`
	ProducerID      int64                `kafka:"min=v3,max=v3"`
	ProducerEpoch   int16                `kafka:"min=v3,max=v3"`
	Topics          []addPartitionsTopic `kafka:"min=v3,max=v3"`
	node            `kafka:"-"`
}

type addPartitionsTopic struct {
	Name       string  `kafka:"min=v3,max=v3"`
	Partitions []int32 `kafka:"min=v3,max=v3"`
}

type addPartitionsResultTopic struct {
	Name       string             `kafka:"min=v3,max=v3"`
	Partitions []partitionResult3 `kafka:"min=v3,max=v3"`
}

type partitionResult3 struct {
	Partition int32 `kafka:"min=v3,max=v3"`
	ErrorCode int16 `kafka:"min=v3,max=v3"`
}

type addPartitionsResponse struct {
	_          struct{}                   `kafka:"min=v3,max=v3,tag"`
	ThrottleMs int32                      `kafka:"min=v3,max=v3"`
	Topics     []addPartitionsResultTopic `kafka:"min=v3,max=v3"`
}

func (*addPartitionsRequest) ApiKey() protocol.ApiKey  { return protocol.AddPartitionsToTxn }
func (*addPartitionsResponse) ApiKey() protocol.ApiKey { return protocol.AddPartitionsToTxn }

// addOffsetsRequest is AddOffsetsToTxn v3.
type addOffsetsRequest struct {
	_               struct{} `kafka:"min=v3,max=v3,tag"`
	TransactionalID string   `kafka:"min=v3,max=v3"`
	ProducerID      int64    `kafka:"min=v3,max=v3"`
	ProducerEpoch   int16    `kafka:"min=v3,max=v3"`
	GroupID         string   `kafka:"min=v3,max=v3"`
	node            `kafka:"-"`
}

type addOffsetsResponse struct {
	_          struct{} `kafka:"min=v3,max=v3,tag"`
	ThrottleMs int32    `kafka:"min=v3,max=v3"`
	ErrorCode  int16    `kafka:"min=v3,max=v3"`
}

func (*addOffsetsRequest) ApiKey() protocol.ApiKey  { return protocol.AddOffsetsToTxn }
func (*addOffsetsResponse) ApiKey() protocol.ApiKey { return protocol.AddOffsetsToTxn }

// txnOffsetCommitRequest is TxnOffsetCommit v3 (KIP-447: generation, member, instance).
type txnOffsetCommitRequest struct {
	_               struct{}         `kafka:"min=v3,max=v3,tag"`
	TransactionalID string           `kafka:"min=v3,max=v3"`
	GroupID         string           `kafka:"min=v3,max=v3"`
	ProducerID      int64            `kafka:"min=v3,max=v3"`
	ProducerEpoch   int16            `kafka:"min=v3,max=v3"`
	Generation      int32            `kafka:"min=v3,max=v3"`
	MemberID        string           `kafka:"min=v3,max=v3"`
	InstanceID      string           `kafka:"min=v3,max=v3,nullable"`
	Topics          []txnOffsetTopic `kafka:"min=v3,max=v3"`
	node            `kafka:"-"`
}

type txnOffsetTopic struct {
	Name       string               `kafka:"min=v3,max=v3"`
	Partitions []txnOffsetPartition `kafka:"min=v3,max=v3"`
}

type txnOffsetPartition struct {
	Partition   int32  `kafka:"min=v3,max=v3"`
	Offset      int64  `kafka:"min=v3,max=v3"`
	LeaderEpoch int32  `kafka:"min=v3,max=v3"`
	Metadata    string `kafka:"min=v3,max=v3,nullable"`
}

type txnOffsetCommitResponse struct {
	_          struct{}                   `kafka:"min=v3,max=v3,tag"`
	ThrottleMs int32                      `kafka:"min=v3,max=v3"`
	Topics     []addPartitionsResultTopic `kafka:"min=v3,max=v3"`
}

func (*txnOffsetCommitRequest) ApiKey() protocol.ApiKey  { return protocol.TxnOffsetCommit }
func (*txnOffsetCommitResponse) ApiKey() protocol.ApiKey { return protocol.TxnOffsetCommit }

// endTxnRequest is EndTxn v3.
type endTxnRequest struct {
	_               struct{} `kafka:"min=v3,max=v3,tag"`
	TransactionalID string   `kafka:"min=v3,max=v3"`
	ProducerID      int64    `kafka:"min=v3,max=v3"`
	ProducerEpoch   int16    `kafka:"min=v3,max=v3"`
	Commit          bool     `kafka:"min=v3,max=v3"`
	node            `kafka:"-"`
}

type endTxnResponse struct {
	_          struct{} `kafka:"min=v3,max=v3,tag"`
	ThrottleMs int32    `kafka:"min=v3,max=v3"`
	ErrorCode  int16    `kafka:"min=v3,max=v3"`
}

func (*endTxnRequest) ApiKey() protocol.ApiKey  { return protocol.EndTxn }
func (*endTxnResponse) ApiKey() protocol.ApiKey { return protocol.EndTxn }

// produceRequest is Produce v8; Records is exactly one encoded batch.
type produceRequest struct {
	TransactionalID string         `kafka:"min=v8,max=v8,nullable"`
	Acks            int16          `kafka:"min=v8,max=v8"`
	TimeoutMs       int32          `kafka:"min=v8,max=v8"`
	Topics          []produceTopic `kafka:"min=v8,max=v8"`
	node            `kafka:"-"`
}

type produceTopic struct {
	Name       string             `kafka:"min=v8,max=v8"`
	Partitions []producePartition `kafka:"min=v8,max=v8"`
}

type producePartition struct {
	Partition int32  `kafka:"min=v8,max=v8"`
	Records   []byte `kafka:"min=v8,max=v8,nullable"`
}

type produceResultTopic struct {
	Name       string          `kafka:"min=v8,max=v8"`
	Partitions []produceResult `kafka:"min=v8,max=v8"`
}

type produceResult struct {
	Partition      int32                `kafka:"min=v8,max=v8"`
	ErrorCode      int16                `kafka:"min=v8,max=v8"`
	BaseOffset     int64                `kafka:"min=v8,max=v8"`
	LogAppendTime  int64                `kafka:"min=v8,max=v8"`
	LogStartOffset int64                `kafka:"min=v8,max=v8"`
	RecordErrors   []produceRecordError `kafka:"min=v8,max=v8"`
	ErrorMessage   string               `kafka:"min=v8,max=v8,nullable"`
}

type produceRecordError struct {
	Index   int32  `kafka:"min=v8,max=v8"`
	Message string `kafka:"min=v8,max=v8,nullable"`
}

type produceResponse struct {
	Topics     []produceResultTopic `kafka:"min=v8,max=v8"`
	ThrottleMs int32                `kafka:"min=v8,max=v8"`
}

func (*produceRequest) ApiKey() protocol.ApiKey  { return protocol.Produce }
func (*produceResponse) ApiKey() protocol.ApiKey { return protocol.Produce }

// fetchRequest is Fetch v11 without a fetch session.
type fetchRequest struct {
	ReplicaID      int32            `kafka:"min=v11,max=v11"`
	MaxWaitMs      int32            `kafka:"min=v11,max=v11"`
	MinBytes       int32            `kafka:"min=v11,max=v11"`
	MaxBytes       int32            `kafka:"min=v11,max=v11"`
	IsolationLevel int8             `kafka:"min=v11,max=v11"`
	SessionID      int32            `kafka:"min=v11,max=v11"`
	SessionEpoch   int32            `kafka:"min=v11,max=v11"`
	Topics         []fetchTopic     `kafka:"min=v11,max=v11"`
	Forgotten      []fetchForgotten `kafka:"min=v11,max=v11"`
	RackID         string           `kafka:"min=v11,max=v11"`
	node           `kafka:"-"`
}

type fetchTopic struct {
	Name       string           `kafka:"min=v11,max=v11"`
	Partitions []fetchPartition `kafka:"min=v11,max=v11"`
}

type fetchPartition struct {
	Partition      int32 `kafka:"min=v11,max=v11"`
	LeaderEpoch    int32 `kafka:"min=v11,max=v11"`
	Offset         int64 `kafka:"min=v11,max=v11"`
	LogStartOffset int64 `kafka:"min=v11,max=v11"`
	MaxBytes       int32 `kafka:"min=v11,max=v11"`
}

type fetchForgotten struct {
	Name       string  `kafka:"min=v11,max=v11"`
	Partitions []int32 `kafka:"min=v11,max=v11"`
}

type fetchResultTopic struct {
	Name       string        `kafka:"min=v11,max=v11"`
	Partitions []fetchResult `kafka:"min=v11,max=v11"`
}

type fetchResult struct {
	Partition        int32        `kafka:"min=v11,max=v11"`
	ErrorCode        int16        `kafka:"min=v11,max=v11"`
	HighWatermark    int64        `kafka:"min=v11,max=v11"`
	LastStableOffset int64        `kafka:"min=v11,max=v11"`
	LogStartOffset   int64        `kafka:"min=v11,max=v11"`
	Aborted          []abortedTxn `kafka:"min=v11,max=v11"`
	PreferredReplica int32        `kafka:"min=v11,max=v11"`
	Records          []byte       `kafka:"min=v11,max=v11"`
}

type abortedTxn struct {
	ProducerID  int64 `kafka:"min=v11,max=v11"`
	FirstOffset int64 `kafka:"min=v11,max=v11"`
}

type fetchResponse struct {
	ThrottleMs int32              `kafka:"min=v11,max=v11"`
	ErrorCode  int16              `kafka:"min=v11,max=v11"`
	SessionID  int32              `kafka:"min=v11,max=v11"`
	Topics     []fetchResultTopic `kafka:"min=v11,max=v11"`
}

func (*fetchRequest) ApiKey() protocol.ApiKey  { return protocol.Fetch }
func (*fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

// listOffsetsRequest is ListOffsets v5.
type listOffsetsRequest struct {
	ReplicaID      int32              `kafka:"min=v5,max=v5"`
	IsolationLevel int8               `kafka:"min=v5,max=v5"`
	Topics         []listOffsetsTopic `kafka:"min=v5,max=v5"`
	node           `kafka:"-"`
}

type listOffsetsTopic struct {
	Name       string                 `kafka:"min=v5,max=v5"`
	Partitions []listOffsetsPartition `kafka:"min=v5,max=v5"`
}

type listOffsetsPartition struct {
	Partition   int32 `kafka:"min=v5,max=v5"`
	LeaderEpoch int32 `kafka:"min=v5,max=v5"`
	Timestamp   int64 `kafka:"min=v5,max=v5"`
}

type listOffsetsResultTopic struct {
	Name       string              `kafka:"min=v5,max=v5"`
	Partitions []listOffsetsResult `kafka:"min=v5,max=v5"`
}

type listOffsetsResult struct {
	Partition   int32 `kafka:"min=v5,max=v5"`
	ErrorCode   int16 `kafka:"min=v5,max=v5"`
	Timestamp   int64 `kafka:"min=v5,max=v5"`
	Offset      int64 `kafka:"min=v5,max=v5"`
	LeaderEpoch int32 `kafka:"min=v5,max=v5"`
}

type listOffsetsResponse struct {
	ThrottleMs int32                    `kafka:"min=v5,max=v5"`
	Topics     []listOffsetsResultTopic `kafka:"min=v5,max=v5"`
}

func (*listOffsetsRequest) ApiKey() protocol.ApiKey  { return protocol.ListOffsets }
func (*listOffsetsResponse) ApiKey() protocol.ApiKey { return protocol.ListOffsets }
