package demo

import (
	"bufio"
	_ "embed"
	"errors"
	"strings"
)

// This file owns the stream of real sentences; SOURCES.md says where they come from.

//go:embed stream.jsonl
var stream string

// Texts are the values of the bundled stream, one JSON object with a text each.
func Texts() ([][]byte, error) {
	var texts [][]byte
	for sc := bufio.NewScanner(strings.NewReader(stream)); sc.Scan(); {
		if line := sc.Bytes(); len(line) > 0 {
			texts = append(texts, append([]byte(nil), line...))
		}
	}
	if len(texts) == 0 {
		return nil, errors.New("demo: the embedded stream is empty")
	}
	return texts, nil
}
