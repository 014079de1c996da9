//go:build unix

// Package cputime returns the processor time of this process. Other load on the machine affects it
// less than it affects the elapsed time.
package cputime

import (
	"syscall"
	"time"
)

// Used returns the time spent in user code and in the kernel, or 0 if it is unknown.
func Used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
