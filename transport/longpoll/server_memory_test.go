package longpoll_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// inUse returns the bytes of the heap and of stacks that are in use after garbage collection.
func inUse() int {
	for range 3 { // finalizers and pools release memory one collection later
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// Many sessions whose clients send and do not poll stay within the bounds of docs/limits.md:
// answers take half of MaxQueue and one answer, broadcasts and pushes take MaxQueue. The bodies of
// their POSTs are in memory once. All of it is free again when the sessions have ended.
//
// It is not parallel, because it measures the memory of the process.
func TestMemoryOfCongestedSessions(t *testing.T) {
	const (
		sessions = 100
		maxQueue = 128 << 10
		// perSession is the room for the session, its two POSTs, their goroutines and the requests and
		// recorders of the test.
		perSession = 48 << 10
	)
	for _, size := range []int{16, 1000, 20_000} {
		t.Run(fmt.Sprintf("frames of %d bytes", size), func(t *testing.T) {
			const bound = sessions * (maxQueue + maxQueue/2)
			s := newTestServer(t, longpoll.Config{MaxQueue: maxQueue, OnSlow: transport.DropOldest, Window: time.Minute})
			frame := func() *serializer.Frame {
				return &serializer.Frame{Op: serializer.OpText, Data: make([]byte, size)}
			}
			before := inUse()
			body := strings.TrimSuffix(strings.Repeat("["+strings.Repeat("1", 500)+"]\n", 100), "\n")
			var congested, posts sync.WaitGroup
			for range sessions {
				token, session := s.open()
				once := sync.OnceFunc(congested.Done)
				congested.Add(1)
				session.receive = func(serializer.Op, []byte) error {
					for !session.Congested(nil) { // as many answers as a channel's callbacks would send
						if err := session.Send(frame(), transport.Delivery{Answer: true}); err != nil {
							return err
						}
					}
					for range 2 * maxQueue / (size + 64) {
						if err := session.Send(frame(), transport.Delivery{}); err != nil {
							return err
						}
					}
					once()
					return nil
				}
				for range 2 {
					posts.Go(func() {
						if got := s.post(token, body).Status; got != 410 {
							t.Errorf("status %d", got)
						}
					})
				}
			}
			congested.Wait()
			used := inUse() - before
			t.Logf("%d bytes for each session, of which %d may wait", used/sessions, bound/sessions)
			// Small frames cost more than they count as: a Frame and its entry in the queue take more
			// than 64 bytes.
			most := bound + bound*64/(size+64) + sessions*(2*len(body)*5/4+perSession)
			if used > most {
				t.Errorf("%d bytes are in use, more than %d", used, most)
			}
			if used < bound*3/4 {
				t.Errorf("%d bytes are in use: the queues are not full", used)
			}
			if got := s.Stats(); got.Slow != 0 || got.Dropped == 0 {
				t.Errorf("%+v", got)
			}
			s.end()
			posts.Wait()
			s.sessions = nil
			if left := inUse() - before; left > bound/10 {
				t.Errorf("%d bytes are in use after the sessions have ended", left)
			}
		})
	}
}
