//go:build linux && race

package websocket

import "syscall"

// epollWait is syscall.EpollWait without waiting.
func epollWait(fd int, events []syscall.EpollEvent) (int, error) {
	return syscall.EpollWait(fd, events, 0)
}
