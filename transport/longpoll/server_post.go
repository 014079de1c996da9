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

// postProgress is shared by the request of a POST and the goroutine that handles its messages.
type postProgress struct {
	start  time.Time
	begun  atomic.Int64 // when the current message was begun, after start
	waits  atomic.Bool  // the next message waits in awaitRoom
	late   atomic.Bool  // the client was sent statusTimeout: no further message may be handled
	status chan int
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

// makeReady waits until the session is not congested. This time does not count as time of the
// message. It reports false if the session ended meanwhile.
func (l *localSession) makeReady(b *postProgress) bool {
	b.waits.Store(true)
	waited := l.awaitRoom()
	if waited {
		b.begun.Store(int64(time.Since(b.start)))
	}
	b.waits.Store(false)
	return !waited || l.alive()
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
