package jsonvalue

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// This file owns what is said of a value that is no JSON: what it looks like instead, and what to do about that. What
// it looks like is told by its first bytes alone, so none of it is certain.

// byteOrderMark is U+FEFF in UTF-8.
var byteOrderMark = []byte("\xEF\xBB\xBF")

// reasonSchemaRegistry is the reason of dead letters that begin as Confluent's serializers write records.
const reasonSchemaRegistry = "schema-registry-format"

// look is something that a value which is no JSON may be instead.
type look struct {
	is     func(raw []byte) bool
	reason string
	says   func(raw []byte) string // what it looks like, and what to do
}

// looks are in the order in which they are tried.
var looks = []look{
	{func(b []byte) bool { return len(b) == 0 }, "invalid-json",
		says("the value is empty, which is no JSON (a record without a value is a null, a tombstone)")},
	{utf16Text, "invalid-json", says("the value looks like JSON in UTF-16 or UTF-32; write it in UTF-8, the only " +
		"encoding of JSON between systems (RFC 8259, section 8.1)")},
	{func(b []byte) bool { return len(b) > 5 && b[0] == 0 }, reasonSchemaRegistry, schemaRegistry},
	{func(b []byte) bool { return len(b) > 18 && b[0] == 3 && (b[1] == 0 || b[1] == 5) }, "invalid-json",
		says("the value looks like the AWS Glue Schema Registry's format (18 bytes before the data); let the " +
			"producer write plain JSON, without that serializer")},
	begins("\xC3\x01", "Avro's single-object encoding (its header C3 01, then the schema's fingerprint); let the "+
		"producer write JSON, or convert the topic"),
	begins("Obj\x01", "an Avro container file; let the producer write one JSON object for each record"),
	begins("\x1F\x8B", compressed+"gzip"+behindIt),
	begins("\x28\xB5\x2F\xFD", compressed+"zstd"+behindIt),
	begins("\x04\x22\x4D\x18", compressed+"lz4"+behindIt),
	begins("\xFF\x06\x00\x00sNaPpY", compressed+"snappy"+behindIt),
	begins("\x82SNAPPY\x00", compressed+"snappy (xerial)"+behindIt),
	{func(b []byte) bool { return len(b) > 9 && string(b[:3]) == "BZh" && string(b[4:10]) == "1AY&SY" }, "invalid-json",
		says(looksLike + compressed + "bzip2" + behindIt)},
	begins("\xFD7zXZ\x00", compressed+"xz"+behindIt),
	begins("\x78\x01", compressed+"zlib"+behindIt),
	begins("\x78\x9C", compressed+"zlib"+behindIt),
	begins("\x78\xDA", compressed+"zlib"+behindIt),
	begins("\xAC\xED\x00\x05", "a serialized Java object; let the producer write JSON"),
	begins("\xD9\xD9\xF7", "CBOR; let the producer write JSON"),
	begins(":)\n", "Smile, Jackson's binary form; let the producer write JSON"),
	{func(b []byte) bool {
		return len(b) > 4 && uint64(binary.LittleEndian.Uint32(b)) == uint64(len(b)) && b[len(b)-1] == 0
	}, "invalid-json", says(looksLike + "BSON; let the producer write JSON")},
}

const (
	looksLike  = "the value looks like "
	compressed = "a value compressed by the producer's own code, with "
	behindIt   = "; let it write plain JSON and set compression.type, which Kafka undoes by itself"
)

func says(s string) func([]byte) string { return func([]byte) string { return s } }

func begins(with, what string) look {
	return look{func(b []byte) bool { return bytes.HasPrefix(b, []byte(with)) }, "invalid-json", says(looksLike + what)}
}

// utf16Text recognises a byte order mark of UTF-16 or UTF-32, or an ASCII character that a JSON text may begin with,
// with zeros beside it.
func utf16Text(b []byte) bool {
	for _, mark := range []string{"\xFF\xFE", "\xFE\xFF", "\x00\x00\xFE\xFF"} {
		if bytes.HasPrefix(b, []byte(mark)) {
			return true
		}
	}
	starts := func(c byte) bool { return bytes.IndexByte([]byte("{[\" \t\r\n"), c) >= 0 }
	switch {
	case len(b) < 4:
		return false
	case b[0] == 0 && b[1] == 0 && b[2] == 0: // UTF-32, big-endian
		return starts(b[3]) && len(b) > 6 && b[4] == 0 && b[5] == 0 && b[6] == 0
	case b[0] == 0:
		return starts(b[1]) && b[2] == 0
	}
	return starts(b[0]) && b[1] == 0
}

// schemaRegistry is what is said of Confluent's wire format: a zero, four bytes of the schema's id, and the data.
// https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
func schemaRegistry(b []byte) string {
	data := "Avro or Protobuf data, it seems"
	if json.Valid(b[5:]) {
		data = "JSON"
	}
	return fmt.Sprintf("the value looks like the wire format of Confluent's Schema Registry: a zero byte, the schema "+
		"id %d, and behind these five bytes %s; this worker does not decode it: let the producer write plain JSON, "+
		"such as by org.apache.kafka.connect.json.JsonConverter with schemas.enable=false",
		binary.BigEndian.Uint32(b[1:5]), data)
}

// invalid is the fault of a value that is no JSON.
func invalid(raw []byte) error {
	for i := range looks {
		if l := &looks[i]; l.is(raw) {
			return poison(l.reason, "%s", l.says(raw))
		}
	}
	var at *json.SyntaxError
	var any json.RawMessage
	if err := json.Unmarshal(raw, &any); errors.As(err, &at) {
		return poison("invalid-json", "the value is not valid JSON: %v, at byte %d of %d", at, at.Offset, len(raw))
	}
	return poison("invalid-json", "the value is not valid JSON")
}
