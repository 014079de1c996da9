//go:build linux && !race

package websocket

import (
	"syscall"
	"unsafe"
)

// read and write are the system calls for descriptors that do not block. Unlike those of package
// syscall, they do not tell the scheduler: the call takes microseconds, and to give up the
// processor and get it back for that costs more.

func read(fd int, p []byte) (int, error)  { return rawCall(syscall.SYS_READ, fd, p) }
func write(fd int, p []byte) (int, error) { return rawCall(syscall.SYS_WRITE, fd, p) }

func rawCall(number uintptr, fd int, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, _, errno := syscall.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
