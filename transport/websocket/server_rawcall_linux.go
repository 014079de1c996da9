//go:build linux && !race

package websocket

import (
	"syscall"
	"unsafe"
)

// read, write and epollWait are the system calls for descriptors that do not block. Unlike those of
// package syscall, they do not notify the scheduler: the call takes microseconds, and to give up
// the processor and get it back for that costs more.

func read(fd int, p []byte) (int, error)  { return rawCall(syscall.SYS_READ, fd, p) }
func write(fd int, p []byte) (int, error) { return rawCall(syscall.SYS_WRITE, fd, p) }

// epollWait is syscall.EpollWait without waiting.
func epollWait(fd int, events []syscall.EpollEvent) (int, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

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
