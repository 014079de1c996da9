package longpoll

import (
	"context"
	"sync"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/outbox"
)

// pollSession is a session as the HTTP requests use it. A session of this node is a *localSession.
// A *remoteSession forwards the calls to another node.
type pollSession interface {
	// poll waits for messages, for at most the window, and takes them. If it returns messages,
	// the caller must call settle. It returns none if none arrived or the session ended meanwhile,
	// and reports gone if the session had ended before.
	poll(ctx context.Context, p *poll) (messages []*serializer.Frame, gone bool)

	// settle reports whether the messages that poll took were delivered. If not, they return to
	// the queue.
	settle(delivered bool)

	// post passes messages to the session and returns the status to answer with. It calls release
	// when the messages are no longer in use, possibly after it has returned.
	post(ctx context.Context, parts []part, release func()) (status int)
}

// localSession is a session of this node. It is the Conn of a Session.
//
// Three things happen to it independently:
//   - Frames are sent and wait in the queue.
//   - The latest poll takes all of them. While it writes them, no other poll takes any, so that
//     their order is kept if they have to return to the queue.
//   - POSTs take turns to call the Session.
type localSession struct {
	s       *Server
	id      tokenID
	created time.Time
	session transport.Session // set in the first turn
	turn    chan struct{}     // of capacity 1: the sender may call session until it receives
	done    chan struct{}     // closed when the session has ended

	mu     sync.Mutex
	queue  *outbox.Queue // nil when empty
	waiter *poll         // the latest poll, while it waits
	writer *poll         // the poll that writes the frames that it took
	taken  int           // the number of these frames
	polled time.Time     // when the latest poll began
	timer  *time.Timer   // nil until begun
	ended  bool

	congested   bool
	uncongested chan struct{} // closed when congested becomes false; made by awaitRoom
	resume      func()        // the argument of Congested
	onRoom      func()        // the argument of Drained; nil if it is not due
}

// newLocalSession returns a session that holds its turn; the caller must call begin. The session's
// place in s must have been reserved.
func newLocalSession(s *Server) *localSession {
	l := &localSession{
		s:    s,
		id:   newTokenID(),
		turn: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	l.created = time.Now()
	l.polled = l.created
	l.turn <- struct{}{}
	return l
}

// begin calls open. It returns an error if open panicked.
func (l *localSession) begin(open openFunc) (err error) {
	defer func() { <-l.turn }()
	defer func() {
		if l.session == nil { // open panicked or ended its goroutine
			l.session = noSession{}
			l.end(err)
		}
	}()
	defer l.s.recoverPanic(&err)
	l.session = open(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.timer = time.AfterFunc(l.idleTimeout(), l.checkIdle)
	}
	return nil
}

// noSession is the Session of a connection for which none was made.
type noSession struct{}

func (noSession) Receive(serializer.Op, []byte) error { return transport.ErrClosed }
func (noSession) Closed(error)                        {}

// Send implements transport.Conn.
func (l *localSession) Send(f *serializer.Frame, how transport.Delivery) error {
	e := l.s.slow.Entry(f, how)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return transport.ErrClosed
	}
	if l.queue == nil {
		l.queue = outbox.Get()
	}
	switch l.s.slow.Admit(l.queue, &e, how.Answer, 0) {
	case outbox.Dropped:
		return nil
	case outbox.NoRoom:
		return transport.ErrNoRoom
	case outbox.Overflow:
		l.endLocked(transport.ErrFull)
		return transport.ErrFull
	}
	first := l.queue.Empty()
	l.queue.Enqueue(e)
	if first {
		l.queue.Stamp(time.Since(l.created))
	}
	l.congested = l.congested || l.s.slow.Congests(l.queue.OwnBytes)
	l.wake()
	return nil
}

// Queued returns how much waits for the client, for package socket.
func (l *localSession) Queued() (frames, bytes int, oldest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue == nil {
		return 0, 0, 0
	}
	return l.queue.Count(), l.queue.Size(), l.queue.Age(time.Since(l.created))
}

// Congested implements transport.Conn.
func (l *localSession) Congested(resume func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.congested && resume != nil {
		l.resume = resume
	}
	return l.congested
}

// awaitRoom waits while the session is congested. It reports whether it waited, and whether it gave
// up because cancelled was closed.
func (l *localSession) awaitRoom(cancelled <-chan struct{}) (waited, gaveUp bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.congested && !gaveUp {
		waited = true
		if l.uncongested == nil {
			l.uncongested = make(chan struct{})
		}
		uncongested := l.uncongested
		l.mu.Unlock()
		select {
		case <-uncongested:
		case <-cancelled:
			gaveUp = true
		}
		l.mu.Lock()
	}
	return waited, gaveUp
}

// uncongest ends congestion. The caller holds mu, and must call the returned function after it has
// released mu.
func (l *localSession) uncongest() (resume func()) {
	l.congested = false
	if l.uncongested != nil {
		close(l.uncongested)
		l.uncongested = nil
	}
	resume = l.resume
	l.resume = nil
	if resume == nil {
		return func() {}
	}
	return resume
}

// Close implements transport.Conn.
func (l *localSession) Close(code int, reason string) {
	l.end(&transport.CloseError{Code: code, Reason: reason})
}

// end ends the session for the reason err, unless it has ended. It does not wait: Closed is called
// after the Receive that may be running has returned.
func (l *localSession) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(err)
}

// endLocked is end for a caller that holds mu.
func (l *localSession) endLocked(err error) {
	if l.ended {
		return
	}
	l.ended = true
	if l.waiter == nil {
		l.dropQueue()
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	close(l.done)
	l.s.forget(l)
	resume, hasRoom := l.uncongest(), l.roomFunc()
	go l.finish(err, func() { resume(); hasRoom() })
}

// finish calls Closed and releases the session's place.
func (l *localSession) finish(err error, resume func()) {
	defer l.s.release()
	defer l.s.recoverPanic(&err)
	resume()
	l.turn <- struct{}{} // and never returns it
	l.session.Closed(err)
}

// alive reports whether the session has not ended.
func (l *localSession) alive() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// idleTimeout returns the time after which the session may end if its client begins no poll.
func (l *localSession) idleTimeout() time.Duration { return l.s.cfg.Window * 3 / 2 }

// checkIdle ends the session if its client has not polled for too long.
func (l *localSession) checkIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
	case time.Since(l.polled) >= l.idleTimeout():
		l.s.idle.Add(1)
		l.endLocked(transport.ErrIdle)
	default:
		l.timer.Reset(l.idleTimeout())
	}
}
