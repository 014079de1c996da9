//go:build !race

package socket

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"bennu.example/serializer"
)

const (
	// maxIdentity is the budget, in bytes, of a session's identity: the fields that were added to
	// session for it, and the two ids.
	maxIdentity = 128
	// anonymousSession is the size of a session without an identity.
	anonymousSession = 256
	// maxSocketChannel is the budget of the channel $socket beside another channel.
	maxSocketChannel = 700
)

// TestIdentityMemory checks what a session costs more if nobody joins the channel $socket on it.
func TestIdentityMemory(t *testing.T) {
	const class = 32 // the size class of both ids, of 26 and 32 bytes
	if a, b := len(newConnectionID()), len(newClientID()); max(a, b) > class {
		t.Errorf("ids of %d and %d bytes", a, b)
	}
	size := unsafe.Sizeof(session{})
	if got := size - anonymousSession + 2*class; got > maxIdentity {
		t.Errorf("%d bytes for the identity of a session, budget %d", got, maxIdentity)
	}
	t.Logf("a session has %d bytes", size)
}

// TestSocketChannelMemory checks what a connection costs more if its client has joined $socket.
func TestSocketChannelMemory(t *testing.T) { // not parallel: it measures the memory in use
	const n = 2000
	measure := func(frames ...string) int {
		h := NewHandler(Config{Channels: rooms(nil, make(chan error, n))})
		sessions := make([]*session, n)
		before := heapInUse()
		for i := range sessions {
			s := h.open(discardConn{}, serializer.V2(), identity{
				parent: context.Background(), connection: newConnectionID(), client: newClientID(),
			})
			for _, f := range frames {
				if err := s.Receive(serializer.OpText, []byte(f)); err != nil {
					t.Fatal(err)
				}
			}
			sessions[i] = s
		}
		h.workers.Wait()
		per := (heapInUse() - before) / n
		for _, s := range sessions {
			s.Closed(errors.New("connection lost"))
		}
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		return per
	}
	one := measure(join("1", "room:1"))
	two := measure(join("1", "room:1"), join("2", "$socket"))
	t.Logf("%d bytes for a session with a room, %d with $socket", one, two)
	if two-one > maxSocketChannel {
		t.Errorf("%d bytes for the channel $socket, budget %d", two-one, maxSocketChannel)
	}
}

func heapInUse() int {
	for range 3 { // pools and finalizers release memory one collection later
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
