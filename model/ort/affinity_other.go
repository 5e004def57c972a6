//go:build !linux

package ort

import (
	"errors"
	"time"
)

var threadTime func() time.Duration // unknown here

func allowedCPUs() []int { return nil }

func pin(int) (release func(), err error) {
	return nil, errors.New("threads can be pinned on Linux only")
}
