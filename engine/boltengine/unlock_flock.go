//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package boltengine

import (
	"os"
	"syscall"
)

// unlock releases the lock of a file. Closing it is not enough while it is still mapped.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
