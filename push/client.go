package push

import (
	"bennu.example/internal/oncetable"
	"context"
	"errors"

	"bennu.example/internal/promise"
	"bennu.example/serializer"
)

// Statuses for [Push.Receive] that no server sends. They stand for a push that got no reply.
const (
	StatusTimeout = "timeout" // Wait returns ErrTimeout; the payload is empty
	StatusFailed  = "failed"  // Wait returns any other error; the payload is {"reason": its text}
)

var (
	// ErrTimeout is wrapped by the error of Wait if no reply came in time. The server may still have
	// processed the push.
	ErrTimeout = errors.New("no reply in time")
	// ErrLost is wrapped by the error of Wait if the push was sent, and the connection or the
	// server's channel ended before the reply came. The server may or may not have processed the
	// push, so only the caller can decide whether to repeat it. A push that was not written to the
	// network is never lost: it is sent after the next join.
	ErrLost = errors.New("lost before the reply")
	// ErrFull is wrapped by the error of Wait if too many bytes of earlier pushes wait to be sent.
	// The push was not queued.
	ErrFull = errors.New("too much waits to be sent")
	// ErrCanceled is wrapped by the error of Wait after [Push.Cancel].
	ErrCanceled = errors.New("push canceled")
	// ErrOffline is wrapped by the error of Wait if a push of channel.Client.PushNow could not be
	// sent at once. The server did not receive it.
	ErrOffline = errors.New("not sent, because it would have to wait")
	// ErrTooManyIDs is returned by the Begin of an OnceStore if the client has too many ids that are
	// being handled.
	ErrTooManyIDs = oncetable.ErrTooMany
)

// Push is an event that a client sent, and the result of it: a reply, or an error that says why
// there is none. Its methods may be called from any goroutine.
type Push promise.Promise

func (p *Push) promise() *promise.Promise { return (*promise.Promise)(p) }

// Wait waits for the result and returns the payload of an "ok" reply. Any other reply is returned
// as an [*Error]. If there is no reply, the error wraps ErrTimeout, ErrLost, ErrFull, ErrCanceled,
// ErrOffline or channel.ErrClosed. If ctx ends first, Wait returns its error and the push
// continues; see Cancel.
//
// Wait may be called in a callback of the same channel.
func (p *Push) Wait(ctx context.Context) (serializer.Payload, error) {
	r, err := p.promise().Wait(ctx)
	switch {
	case err != nil:
		return serializer.Payload{}, err
	case r.Err != nil:
		return serializer.Payload{}, r.Err
	case r.Status != StatusOK:
		return serializer.Payload{}, &Error{Status: r.Status, Payload: r.Payload}
	}
	return r.Payload, nil
}

// Receive registers f, which is called with the payload of a reply with this status, or of
// [StatusTimeout] or [StatusFailed]. If the push already has a result with this status, f is called
// for it. It runs on the channel's callback queue, like all callbacks of the channel: one at a
// time, in the order of the events. On the push returned by Join, it is called for every later join
// too. A panic in f ends the program.
func (p *Push) Receive(status string, f func(serializer.Payload)) *Push {
	p.promise().Receive(status, f)
	return p
}

// Done returns a channel that is closed when the push has a result.
func (p *Push) Done() <-chan struct{} { return p.promise().Done() }

// Cancel withdraws the push. If it was not sent yet, it never will be. If it was sent, its reply is
// ignored. The result is ErrCanceled, unless there was one before. Joins and leaves cannot be
// withdrawn.
func (p *Push) Cancel() { p.promise().Cancel() }
