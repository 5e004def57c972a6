//go:build !linux

package ort

import "errors"

func allowedCPUs() []int { return nil }

func pin(int) (release func(), err error) {
	return nil, errors.New("threads can be pinned on Linux only")
}
