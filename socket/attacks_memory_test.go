//go:build !race

package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"bennu.example/channel"
	"bennu.example/serializer"
)

// TestManyClientIDs opens a million connections with a client id each, one after the other, which
// join $socket, a room and a room with AllowWill. No memory is left of them, except for the bounded
// number of arrivals that the store of wills knows.
func TestManyClientIDs(t *testing.T) { // not parallel: it measures the memory in use
	n := 10_000
	if os.Getenv("NIGHTLY") == "true" {
		n = 1_000_000
	}
	const (
		most = 256 << 10 // of the whole process, whatever n is
		// maxArrival is what the store knows of a connection, and maxArrivals the number of these: those
		// of will.NewMemory.
		maxArrival, maxArrivals = 1 << 10, 100_000
	)
	routes := channel.Routes{
		"room:*": channel.Define(joinMember),
		"wills:*": channel.Define(joinMember, channel.AllowWill(
			func(_ *member, _ context.Context, _ *channel.Channel, _ string, p serializer.Payload) (serializer.Payload, error) {
				return p, nil
			})),
	}
	for topic, bound := range map[string]int{"room:1": most, "wills:1": most + min(n, maxArrivals)*maxArrival} {
		t.Run(topic, func(t *testing.T) {
			h := NewHandler(Config{Channels: routes})
			open := func(i int) {
				s := h.open(discardConn{}, serializer.V2(), identity{
					parent: context.Background(), id: h.watch(fmt.Sprint("user", i%7)),
					connection: newConnectionID(), client: fmt.Sprintf("client-%016d", i), ownClient: true,
				})
				for _, f := range []string{join("1", "$socket"), join("2", topic)} {
					if err := s.Receive(serializer.OpText, []byte(f)); err != nil {
						t.Fatal(err)
					}
				}
				s.Closed(errors.New("connection lost"))
			}
			for i := range 1000 { // the workers and pools
				open(i)
			}
			h.workers.Wait()
			before := heapInUse()
			for i := range n {
				open(1000 + i)
			}
			h.workers.Wait()
			left := heapInUse() - before
			if t.Logf("%d bytes are left of %d connections", left, n); left > bound {
				t.Errorf("%d bytes are left of %d connections, bound %d", left, n, bound)
			}
			if len(h.sessions) > 0 {
				t.Errorf("%d sessions are left", len(h.sessions))
			}
			shutDown(t, h)
		})
	}
}
