//go:build unix

// Package cputime tells how much of the processors this process has used, which other work on a machine changes less than the time that passed.
package cputime

import (
	"syscall"
	"time"
)

// Used is the time in user code and in the kernel, 0 if it is not known.
func Used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
