package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// This file owns the full disk.

// fill writes a file until the disk of dir takes no more byte, and returns what frees it.
func fill(dir string) (free func() error, err error) {
	name := filepath.Join(dir, "filler")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	for _, size := range []int{1 << 20, 4096, 1} {
		for chunk := make([]byte, size); err == nil; {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return nil, errors.Join(fmt.Errorf("filling %s: %w", dir, err), f.Close(), os.Remove(name))
		}
		err = nil
	}
	return func() error { return os.Remove(name) }, f.Close()
}
