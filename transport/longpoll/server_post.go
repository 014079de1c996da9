package longpoll

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/guard"
)

// post implements pollSession.
func (l *localSession) post(ctx context.Context, parts []part, release func()) (status int) {
	received := false
	defer func() {
		if !received {
			release()
		}
	}()
	if status := l.takeTurn(ctx); status != statusOK {
		return status
	}
	b := &postProgress{start: time.Now(), cancelled: ctx.Done(), status: make(chan int, 1)}
	received = true
	go l.receive(parts, b, release)
	window := l.s.cfg.Window
	timeout := time.NewTimer(window)
	defer timeout.Stop()
	for {
		select {
		case status := <-b.status:
			return status
		case <-timeout.C:
			left := b.current() + window - time.Since(b.start)
			if b.waits.Load() {
				left = window // the message waits for the client's polls; without polls, the session ends
			}
			if left <= 0 {
				b.late.Store(true)
				return statusTimeout
			}
			timeout.Reset(left)
		}
	}
}

// takeTurn waits until the earlier POSTs have returned the turn. It takes the turn and returns
// statusOK, or returns the status of a POST that does not get the turn in time.
func (l *localSession) takeTurn(ctx context.Context) (status int) {
	select {
	case l.turn <- struct{}{}:
	default:
		if status := l.awaitTurn(ctx); status != statusOK {
			return status
		}
	}
	if !l.alive() {
		<-l.turn
		return statusGone
	}
	return statusOK
}

// awaitTurn waits for the turn, for at most the window. The time during which the session is
// congested does not count, because the earlier POST waits for the client's polls then.
func (l *localSession) awaitTurn(ctx context.Context) (status int) {
	expired := make(chan struct{})
	ended := false // under mu
	var timeout *time.Timer
	l.mu.Lock()
	timeout = time.AfterFunc(l.s.cfg.Window, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case ended:
		case l.congested:
			timeout.Reset(l.s.cfg.Window)
		default:
			close(expired)
		}
	})
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		ended = true
		timeout.Stop()
	}()
	select {
	case l.turn <- struct{}{}: // POSTs that wait here get the turn in the order in which they arrived
		return statusOK
	case <-l.done:
		return statusGone
	case <-expired:
	case <-ctx.Done():
	}
	return statusTimeout
}

// postProgress is shared by the request of a POST and the goroutine that handles its messages.
type postProgress struct {
	start     time.Time
	cancelled <-chan struct{} // closed when the client has given up the POST
	begun     atomic.Int64    // when the current message was begun, after start
	waits     atomic.Bool     // the next message waits in awaitRoom
	late      atomic.Bool     // the client was sent statusTimeout: no further message may be handled
	status    chan int
}

// current returns when the current message was begun, after start.
func (b *postProgress) current() time.Duration { return time.Duration(b.begun.Load()) }

// receive passes the messages of a POST to the session, one after the other. It holds the turn, and
// returns it. It has a goroutine of its own, so that the request is answered in time whatever the
// session does.
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
			if !l.alive() {
				status = statusGone
			}
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

// makeReady waits until the session is not congested. This time does not count as time of the
// message. It reports false if the message must not be handled: the session ended meanwhile, or the
// client gave up the POST, so that nothing of it is kept in memory.
func (l *localSession) makeReady(b *postProgress) bool {
	b.waits.Store(true)
	waited, gaveUp := l.awaitRoom(b.cancelled)
	if waited {
		b.begun.Store(int64(time.Since(b.start)))
	}
	b.waits.Store(false)
	return !waited || !gaveUp && l.alive()
}

// receiveOne passes a message to the session. The error is the reason to end the session.
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
