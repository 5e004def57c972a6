//go:build !linux

package load

import (
	"errors"
	"os/exec"
	"runtime"
)

func bindThread(cores []int) error {
	if len(cores) == 0 {
		return nil
	}
	return errors.New("processes can be bound to cores on Linux only")
}

func dieWithParent(*exec.Cmd) {}

// Cores are those that this process may use.
func Cores() ([]int, error) {
	cores := make([]int, runtime.NumCPU())
	for i := range cores {
		cores[i] = i
	}
	return cores, nil
}
