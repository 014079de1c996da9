//go:build !linux

package main

import (
	"errors"
	"net"
)

// serveEpoll is not possible: other systems have no epoll.
func serveEpoll(net.Listener) error { return errors.New("the server with epoll needs Linux") }
