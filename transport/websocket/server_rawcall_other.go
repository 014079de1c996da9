//go:build unix && (!linux || race)

package websocket

import "syscall"

// The race detector needs the calls of package syscall: a write happens before the read of its
// bytes.

func read(fd int, p []byte) (int, error)  { return syscall.Read(fd, p) }
func write(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }
