package longpoll

import (
	"context"
	"errors"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/guard"
	"bennu.example/transport/internal/outbox"
)

// pollSession is a session as the HTTP half knows it. Those of this node are *localSession; a *remoteSession carries the calls to another
// node.
type pollSession interface {
	// poll waits up to the window for messages and takes them; settle must follow. None means that none came, or that the session ended
	// meanwhile; gone, that it had ended before.
	poll(ctx context.Context, p *poll) (messages []*serializer.Frame, gone bool)

	// settle tells whether what poll took was delivered. If not, it is put back for the next poll.
	settle(delivered bool)

	// post hands the messages to the session and returns the status to answer with. It has release called
	// once the messages are not in use any more, which may be later.
	post(ctx context.Context, parts []part, release func()) (status int)
}

// poll is one GET that may wait for messages.
type poll struct {
	wake chan struct{} // of capacity 1; nil if it does not wait
	far  chan struct{} // of capacity 1, told by abort; nil unless another node writes the answer

	mu      sync.Mutex
	control *http.ResponseController // nil once the answer was written
	aborted bool
}

// begin gives the answer its time. It reports false if a newer poll has taken over.
func (p *poll) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.aborted {
		return false
	}
	p.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	return true
}

// end is called when the answer was written, or was not: abort does nothing from then on.
func (p *poll) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = nil
}

// abort makes the answer fail if it is not written yet.
func (p *poll) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aborted = true
	if p.control != nil {
		p.control.SetWriteDeadline(time.Unix(1, 0))
	}
	if p.far != nil {
		select {
		case p.far <- struct{}{}:
		default:
		}
	}
}

// localSession is a session of this node: the Conn of a Session.
//
// Three things happen to it independently. Frames are sent, and wait in queue. The latest poll takes them all, and while it writes them no
// other one takes any, so that their order holds if they have to be put back. Posts take turns to call the Session.
type localSession struct {
	s       *Server
	id      tokenID
	session transport.Session // set in the first turn
	turn    chan struct{}     // of capacity 1: whoever put something in may call session
	done    chan struct{}     // closed when the session has ended

	mu     sync.Mutex
	queue  *outbox.Queue // nil: empty
	waiter *poll         // the latest poll, as long as it waits
	writer *poll         // the poll that writes what it took
	taken  int           // how many frames that is
	polled time.Time
	timer  *time.Timer // nil until begun
	ended  bool

	full   bool          // the session is congested
	room   chan struct{} // closed when full becomes false; made by awaitRoom
	resume func()        // what Congested was given
}

// newLocalSession returns a session that has the turn and must be begun. Its place in s was reserved.
func newLocalSession(s *Server) *localSession {
	l := &localSession{
		s:      s,
		id:     newTokenID(),
		turn:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		polled: time.Now(),
	}
	l.turn <- struct{}{}
	return l
}

// begin opens the Session. An error says that it panicked.
func (l *localSession) begin(open func(transport.Conn) transport.Session) (err error) {
	defer func() { <-l.turn }()
	defer func() {
		if l.session == nil { // it panicked, or ended its goroutine
			l.session = noSession{}
			l.end(err)
		}
	}()
	defer l.s.recovered(&err)
	l.session = open(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.timer = time.AfterFunc(l.patience(), l.check)
	}
	return nil
}

// noSession is the Session of a connection that got none.
type noSession struct{}

func (noSession) Receive(serializer.Op, []byte) error { return transport.ErrClosed }
func (noSession) Closed(error)                        {}

// Send is part of Conn.
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
	case outbox.Overflow:
		l.endLocked(transport.ErrFull)
		return transport.ErrFull
	}
	l.queue.Enqueue(e)
	l.full = l.full || l.s.slow.Congests(l.queue.OwnBytes)
	l.wake()
	return nil
}

// Congested is part of Conn.
func (l *localSession) Congested(resume func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full && resume != nil {
		l.resume = resume
	}
	return l.full
}

// awaitRoom waits while the session is congested. It reports whether it had to.
func (l *localSession) awaitRoom() (waited bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.full {
		waited = true
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		<-room
		l.mu.Lock()
	}
	return waited
}

// uncongest ends congestion. It returns what to call after mu was released. The caller holds mu.
func (l *localSession) uncongest() (resume func()) {
	l.full = false
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	resume = l.resume
	l.resume = nil
	if resume == nil {
		return func() {}
	}
	return resume
}

// Close is part of Conn.
func (l *localSession) Close(code int, reason string) {
	l.end(&transport.CloseError{Code: code, Reason: reason})
}

// ready reports whether the latest poll, if it waits, may take what is queued. The caller holds mu.
func (l *localSession) ready() bool { return l.queue != nil && l.writer == nil }

// wake wakes the poll that may take what is queued. The caller holds mu.
func (l *localSession) wake() {
	if l.waiter == nil || !l.ready() {
		return
	}
	select {
	case l.waiter.wake <- struct{}{}:
	default:
	}
}

// dropQueue forgets what is queued. The caller holds mu.
func (l *localSession) dropQueue() {
	if l.queue != nil {
		l.queue.Free()
		l.queue = nil
	}
}

// end ends the session for the reason err, unless it has ended. It does not wait: Closed is called when the Receive that may be running
// has returned.
func (l *localSession) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(err)
}

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
	go l.finish(err, l.uncongest())
}

// finish is the last thing that a session does.
func (l *localSession) finish(err error, resume func()) {
	defer l.s.release()
	defer l.s.recovered(&err)
	resume()
	l.turn <- struct{}{} // for good
	l.session.Closed(err)
}

func (l *localSession) alive() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// patience is how long a client may go without beginning a poll, at least.
func (l *localSession) patience() time.Duration { return l.s.cfg.Window * 3 / 2 }

// check ends the session if its client has been away for too long, and otherwise comes back later.
func (l *localSession) check() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
	case time.Since(l.polled) >= l.patience():
		l.s.idle.Add(1)
		l.endLocked(transport.ErrIdle)
	default:
		l.timer.Reset(l.patience())
	}
}

// poll is part of pollSession.
func (l *localSession) poll(ctx context.Context, p *poll) (messages []*serializer.Frame, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, true
	}
	l.polled = time.Now()
	l.waiter = p
	if l.ready() {
		return l.take(ctx), false
	}
	p.wake = make(chan struct{}, 1)
	if before := l.writer; before != nil {
		// The client asks again before it has the answer: it will not read that any more. What was taken comes back to this poll.
		l.mu.Unlock()
		before.abort()
		l.mu.Lock()
	}
	window := time.NewTimer(l.s.cfg.Window)
	defer window.Stop()
	for waiting := true; waiting && (l.waiter != p || !l.ready()); {
		l.mu.Unlock()
		select {
		case <-p.wake:
		case <-window.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-l.done:
			waiting = false
		}
		l.mu.Lock()
	}
	if l.waiter != p {
		return nil, false
	}
	return l.take(ctx), false
}

// take is the end of the latest poll: it takes what there is, if the client is still there. The caller holds mu.
func (l *localSession) take(ctx context.Context) (messages []*serializer.Frame) {
	p := l.waiter
	l.waiter = nil
	if l.ready() && ctx.Err() == nil {
		l.writer = p
		messages = l.queue.Take(make([]*serializer.Frame, 0, l.queue.Count()), math.MaxInt)
		l.taken = len(messages)
	}
	if l.ended {
		l.dropQueue()
	}
	return messages
}

// settle is part of pollSession.
func (l *localSession) settle(delivered bool) {
	l.mu.Lock()
	resume := l.settleLocked(delivered)
	l.mu.Unlock()
	resume()
}

// settleLocked returns what to call after mu was released. The caller holds mu.
func (l *localSession) settleLocked(delivered bool) (resume func()) {
	resume = func() {}
	l.writer = nil
	if l.queue == nil { // dropped, as the session has ended
		return resume
	}
	if !delivered {
		l.taken = 0
	}
	_, obsolete := l.queue.Written(l.taken, false)
	l.s.slow.Conflated.Add(uint64(obsolete))
	if l.full && l.s.slow.Drained(l.queue.OwnBytes) {
		resume = l.uncongest()
	}
	if l.queue.Empty() {
		l.dropQueue()
	}
	l.wake()
	return resume
}

// post is part of pollSession.
func (l *localSession) post(ctx context.Context, parts []part, release func()) (status int) {
	received := false
	defer func() {
		if !received {
			release()
		}
	}()
	window := l.s.cfg.Window
	timeout := time.NewTimer(window)
	defer timeout.Stop()
	select {
	case l.turn <- struct{}{}:
	case <-l.done:
		return statusGone
	case <-timeout.C:
		return statusTimeout
	case <-ctx.Done():
		return statusTimeout
	}
	if !l.alive() {
		<-l.turn
		return statusGone
	}
	b := &postProgress{start: time.Now(), status: make(chan int, 1)}
	received = true
	go l.receive(parts, b, release)
	timeout.Reset(window)
	for {
		select {
		case status := <-b.status:
			return status
		case <-timeout.C:
			left := b.since() + window - time.Since(b.start)
			if b.waits.Load() {
				left = window // the client's polls are what it waits for, and their absence ends the session
			}
			if left <= 0 {
				b.late.Store(true)
				return statusTimeout
			}
			timeout.Reset(left)
		}
	}
}

// posted is what the request of a POST and the goroutine that works on it know of each other.
type postProgress struct {
	start  time.Time
	begun  atomic.Int64 // when the message that is being received was begun, after start
	waits  atomic.Bool  // the next message waits in awaitRoom
	late   atomic.Bool  // the client has been told that it took too long: no further one
	status chan int
}

func (b *postProgress) since() time.Duration { return time.Duration(b.begun.Load()) }

// receive hands the messages of a POST to the session, one after the other. It has the turn, and gives it back. It has a goroutine of its
// own, so that the request can be answered in time whatever a message does.
func (l *localSession) receive(parts []part, b *postProgress, release func()) {
	status := statusTimeout
	returned := false
	defer func() {
		if !returned {
			l.end(guard.ReasonFor(recover()))
		}
		<-l.turn
		release()
		b.status <- status
	}()
	for i, p := range parts {
		if i > 0 {
			if b.late.Load() {
				break
			}
			if !l.alive() {
				status = statusGone
				break
			}
			b.begun.Store(int64(time.Since(b.start)))
		}
		if !l.makeReady(b) {
			status = statusGone
			break
		}
		if err := l.receiveOne(p); err != nil {
			l.end(err)
			break
		}
		if i == len(parts)-1 {
			status = statusOK
		}
	}
	returned = true
}

// makeReady waits until the next message of a POST may be handed to the session. The time does not count for the client's. It reports
// false if the session ended meanwhile.
func (l *localSession) makeReady(b *postProgress) bool {
	b.waits.Store(true)
	waited := l.awaitRoom()
	if waited {
		b.begun.Store(int64(time.Since(b.start)))
	}
	b.waits.Store(false)
	return !waited || l.alive()
}

// receiveOne hands a message to the session. The error is how the session is to end.
func (l *localSession) receiveOne(p part) error {
	if p.op == serializer.OpText && !utf8.Valid(p.data) {
		return &transport.CloseError{Code: transport.CodeBadUTF8}
	}
	err := l.session.Receive(p.op, p.data)
	var closed *transport.CloseError
	if err == nil || errors.As(err, &closed) {
		return err
	}
	return &transport.CloseError{Code: transport.CodeInternal}
}
