package longpoll_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport/longpoll"
)

// openCongested begins a session on a node whose answers stay small, whatever its messages are, and
// congests it.
func (s *testServer) openCongested() (token string, session *testSession) {
	token, session = s.open()
	session.receive = func(serializer.Op, []byte) error { return session.respond([]byte("[1]")) }
	for range congestingAnswers {
		session.respond([]byte("[0]"))
	}
	return token, session
}

// wantFree checks that no POST of another node holds any bytes of a node's budgets.
func (s *testServer) wantFree(first, more int64) {
	s.t.Helper()
	synctest.Wait()
	gotFirst, gotMore := longpoll.FreePeerBodies(s.Server)
	if n := longpoll.PeerBodiesInUse(s.Server); n != 0 || gotFirst != first || gotMore != more {
		s.t.Errorf("%d sessions; %d and %d bytes are free, want %d and %d", n, gotFirst, gotMore, first, more)
	}
}

// One client that does not poll, and sends large bodies through another node, does not keep the
// clients on the same two nodes from sending theirs.
func TestCongestedClientLeavesRoomBetweenNodes(t *testing.T) {
	t.Parallel()
	largeBody := newLargeBody()
	large := func(n *testServer, token string) int {
		return n.postBody(token, bytes.NewReader(largeBody), int64(len(largeBody)))
	}
	withNodes(t, 2, longpoll.Config{MaxQueue: congestedQueue}, func(t *testing.T, n []*testServer) {
		owner, other := n[0], n[1]
		first, more := longpoll.FreePeerBodies(owner.Server)
		congested, _ := owner.openCongested()
		var posts sync.WaitGroup
		for range 10 {
			posts.Go(func() {
				if status := large(other, congested); status != 408 && status != 410 {
					t.Errorf("the congested client got status %d", status)
				}
			})
		}
		synctest.Wait()
		if _, left := longpoll.FreePeerBodies(owner.Server); left < more-8_000_000 || left == more {
			t.Errorf("%d of %d bytes are free", left, more)
		}
		start := time.Now()
		var others sync.WaitGroup
		for range 3 {
			token, _ := owner.open()
			others.Go(func() {
				if status := large(other, token); status != 200 {
					t.Errorf("a large body: status %d", status)
				}
			})
		}
		for range 100 {
			token, _ := owner.open()
			others.Go(func() { other.post(token, "[1]").is(t, 200) })
		}
		others.Wait()
		wantAfter(t, start, 0)
		posts.Wait()
		owner.wantFree(first, more)
	})
}

// Clients of several nodes that do not poll can fill the budget of the node that has their
// sessions. Small bodies still get through at once. Large ones wait until there is room, for at
// most the window.
func TestCongestedClientsFillPeerBudget(t *testing.T) {
	t.Parallel()
	const maxBody, budget = 100_000, 950_000
	body := "[1]\n[2]\n[3]\n[4]\n[5]\n[6]\n[" + strings.Repeat("1", 90_000) + "]"
	withNodes(t, 4, longpoll.Config{MaxQueue: congestedQueue, MaxBody: maxBody}, func(t *testing.T, n []*testServer) {
		owner := n[0]
		longpoll.LimitPeerBodies(owner.Server, budget)
		first, more := longpoll.FreePeerBodies(owner.Server)
		var tokens []string
		var congested []<-chan int
		for i := range 12 { // each takes what is beyond the first 16 KiB of its body
			token, _ := owner.openCongested()
			tokens = append(tokens, token)
			congested = append(congested, n[1+i%3].postLater(token, body))
			synctest.Wait()
		}
		token, _ := owner.open()
		if _, left := longpoll.FreePeerBodies(owner.Server); left > int64(len(body)-16<<10) {
			t.Fatalf("%d bytes are free", left)
		}
		start := time.Now()
		for _, via := range n[1:] {
			via.post(token, "[1]").is(t, 200)
			via.post(token, "["+strings.Repeat("1", 10_000)+"]").is(t, 200)
		}
		wantAfter(t, start, 0)

		// One of the congested clients polls twice: its POST is handled, which makes room.
		waiting := n[1].postLater(token, body)
		time.Sleep(time.Second)
		wantUnanswered(t, waiting)
		owner.get(tokens[0])
		owner.get(tokens[0])
		wantStatus(t, congested[0], 200)
		freed := time.Now()
		wantStatus(t, waiting, 200)
		if d := time.Since(freed); d > 1600*time.Millisecond {
			t.Errorf("after %v", d)
		}

		// Without room, a POST times out at the end of the window. The sessions of the others end.
		congested[0] = n[1].postLater(tokens[0], strings.Repeat("[1]\n", 8)+body)
		synctest.Wait()
		start = time.Now()
		n[2].post(token, body).is(t, 408)
		if d := time.Since(start); d < 8*time.Second || d > 10*time.Second {
			t.Errorf("after %v", d)
		}
		if busy := n[2].Stats().Busy; busy != 1 {
			t.Errorf("%d POSTs are counted as busy", busy)
		}
		for i, status := range congested[1:] {
			if got := <-status; got != 410 && got != 408 {
				t.Errorf("congested client %d: status %d", i+1, got)
			}
		}
		<-congested[0]
		owner.wantFree(first, more)
	})
}

// Of the POSTs of one session that arrive through other nodes, the session's node accepts a few at
// the same time. The others wait, for at most the window.
func TestPeerPostsOfASession(t *testing.T) {
	t.Parallel()
	for blocked, want := range map[time.Duration]int{5 * time.Second: 200, 12 * time.Second: 408} {
		withNodes(t, 2, longpoll.Config{}, func(t *testing.T, n []*testServer) {
			token, session := n[0].open()
			free := make(chan struct{})
			session.receive = func(serializer.Op, []byte) error { <-free; return nil }
			var posts []<-chan int
			for range 7 {
				posts = append(posts, n[1].postLater(token, "[1]"))
			}
			time.Sleep(blocked)
			close(free)
			for _, status := range posts {
				wantStatus(t, status, want)
			}
			if busy := n[1].Stats().Busy; busy != 0 && want == 200 || busy != 3 && want == 408 {
				t.Errorf("%d POSTs are counted as busy", busy)
			}
		})
	}
}
