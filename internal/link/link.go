// Package link defines the interface between a client's socket and its channels.
package link

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/loop"
	"bennu.example/serializer"
)

// ErrTaken is returned by Attach if another channel has the topic.
var ErrTaken = errors.New("topic is taken")

// ErrExited is the error of a user's function that did not return but ended its goroutine.
var ErrExited = errors.New("function ended its goroutine (runtime.Goexit)")

// Up is the socket as seen by a channel.
type Up interface {
	// Post enqueues a task for the loop. It is safe for concurrent use. It returns false once the
	// socket is closed and its loop has ended.
	Post(t loop.Task) bool
	// Done returns a channel that is closed once the socket is closed and its loop has ended.
	Done() <-chan struct{}
	// Closing returns the reason why no more pushes are accepted, or nil.
	Closing() error
	// Log returns the logger, which is never nil.
	Log() *zerolog.Logger
	// Total returns the counters of all channels of the socket.
	Total() *Totals

	// The following methods may only be called on the loop.

	Arm(t *loop.Timer, d time.Duration)
	Disarm(t *loop.Timer)
	// NextRef returns the next ref of the socket.
	NextRef() uint64
	// Send enqueues a message for the connection. The socket must be connected.
	Send(o Out)
	// Withdraw removes the message with that ref from the queue, if it has not been written.
	Withdraw(ref uint64)
	// Attach routes the messages of a topic to d. If busy is true, another channel is still leaving
	// the topic, and Freed is called when that channel is detached. Attach returns ErrTaken if
	// another channel has the topic and is not leaving it, or the socket's error if the socket is
	// closed.
	Attach(topic string, d Down) (busy bool, err error)
	Detach(topic string, d Down)
	// IsOpen reports whether the socket is connected.
	IsOpen() bool
	// Go runs f on a new goroutine and then runs task on the loop, even if f ends its goroutine.
	// Tasks run in the order of the calls of Go, but a task waits for earlier ones for at most 1 s.
	// The socket waits for the goroutine. f's context is canceled by cancel and when the socket is
	// closed.
	Go(f func(ctx context.Context), task loop.Task) (cancel func())
	// HasTurns reports whether a task of Go is pending.
	HasTurns() bool
	// Enter registers a push that expects a reply, for the callers that wait for all replies. It
	// returns a number for Exit.
	Enter() uint64
	Exit(n uint64)
}

// Down is a channel as seen by its socket. Its methods are called on the loop.
type Down interface {
	// Receive handles a message of the channel's topic.
	Receive(m *serializer.Message)
	// Opened is called when the socket has connected.
	Opened()
	// Unsent returns a message that was not written before the connection was lost. It is called
	// just before Closed.
	Unsent(o *Out)
	// Closed is called when the connection was lost or could not be established.
	Closed(err error)
	// Freed is called when the channel that was leaving the topic has been detached, if Attach
	// returned busy.
	Freed()
	// Refused is called if a message could not be encoded and therefore was not sent.
	Refused(ref uint64, err error)
	// End is called when the socket is closed permanently.
	End(err error)
	// Farewell returns the message that leaves the topic, if the server may have the channel. It is
	// used when the connection is about to be closed; no reply is expected.
	Farewell() (o Out, ok bool)
	// IsSettled reports whether no push is waiting to be sent and no caller is waiting for a reply.
	IsSettled() bool
	// IsLeaving reports whether another channel may take the topic.
	IsLeaving() bool
}

// Out is an outgoing message.
type Out struct {
	Msg  serializer.Message
	Ref  uint64 // the number in Msg.Ref, higher than that of every message sent before
	Size int    // bytes that count against the budget; 0 if Hold is nil
	Hold *Hold  // nil for anything but a push
	From Down   // nil for the socket's own messages

	Withdrawn bool // the message was withdrawn, and only its place in the queue remains
}

// Release returns o's reservation to its budget. Further calls do nothing.
func (o *Out) Release() {
	if o.Hold != nil {
		o.Hold.Release()
	}
}

// Hold is one push's reservation in a Budget. It is released by the loop when the push is answered,
// or by the connection's writer when the push is written, whichever is first. The zero value holds
// nothing.
type Hold struct {
	budget *Budget
	size   atomic.Int64
}

// Take reserves size bytes of b and reports whether they were available.
func (h *Hold) Take(b *Budget, size int) bool {
	if !b.Reserve(size) {
		return false
	}
	h.budget = b
	h.size.Store(int64(size))
	return true
}

// Retake reserves size bytes again if the reservation was released. It ignores the limit.
func (h *Hold) Retake(size int) {
	if h.budget != nil && h.size.CompareAndSwap(0, int64(size)) {
		h.budget.add(1, size)
	}
}

// IsHeld reports whether there is a reservation to release.
func (h *Hold) IsHeld() bool { return h.size.Load() > 0 }

// releasing is the size of a Hold whose reservation is being released.
const releasing = -1

// Release releases the reservation, if there is one. When it returns, the budget has the bytes,
// even if another goroutine released them: a push that follows an answer must find room.
func (h *Hold) Release() {
	for {
		switch n := h.size.Load(); {
		case n == 0:
			return
		case n == releasing:
			runtime.Gosched()
		case h.size.CompareAndSwap(n, releasing):
			h.budget.Release(int(n))
			h.size.Store(0)
			return
		}
	}
}

// Gauge counts items and their bytes.
type Gauge struct{ count, bytes atomic.Int64 }

// Add adds n items of size bytes in total. Both may be negative.
func (g *Gauge) Add(n, size int) {
	g.count.Add(int64(n))
	g.bytes.Add(int64(size))
}

// Load returns the number of items and their bytes.
func (g *Gauge) Load() (n int, bytes int64) { return int(g.count.Load()), g.bytes.Load() }

// Totals holds the counters of a socket.
type Totals struct {
	Queued  Gauge         // pushes that are neither written nor answered
	Backlog Gauge         // events that wait for a callback or an iterator
	Dropped atomic.Uint64 // events dropped because the backlog was full
	Failed  Failures      // failures of pushes, for Flush
	Running Tracker       // queued or running user functions: callbacks, and those of the configuration
}

// failuresKept bounds the errors in a FailureList.
const failuresKept = 8

// FailureList holds the first failures of pushes and the number of further ones.
type FailureList struct {
	errs []error
	more int
}

func (l *FailureList) add(err error) {
	if len(l.errs) < failuresKept {
		l.errs = append(l.errs, err)
	} else {
		l.more++
	}
}

// Err returns the joined errors, or nil if there are none.
func (l *FailureList) Err() error {
	if l.more == 0 {
		return errors.Join(l.errs...)
	}
	return errors.Join(append(l.errs[:len(l.errs):len(l.errs)], fmt.Errorf("and %d more pushes failed", l.more))...)
}

// Failures passes each failure to all listeners. Without listeners, it keeps the failure for the
// next one.
type Failures struct {
	mu        sync.Mutex
	kept      FailureList
	listeners []*FailureList
}

// Add records a failure.
func (f *Failures) Add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) == 0 {
		f.kept.add(err)
	}
	for _, l := range f.listeners {
		l.add(err)
	}
}

// Listen returns a list with the failures that no listener has received. Further ones are added to
// it until stop is called.
func (f *Failures) Listen() (l *FailureList, stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l = new(FailureList)
	*l, f.kept = f.kept, FailureList{}
	f.listeners = append(f.listeners, l)
	return l, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.listeners = slices.DeleteFunc(f.listeners, func(x *FailureList) bool { return x == l })
	}
}

// Budget limits the bytes of a channel's pushes that are neither written nor answered.
type Budget struct {
	Max   int
	Gauge Gauge
	Total *Gauge
}

// Reserve reserves size bytes and reports whether they were available. If nothing is reserved, a
// reservation of any size succeeds.
func (b *Budget) Reserve(size int) bool {
	for {
		used := b.Gauge.bytes.Load()
		if used > 0 && used+int64(size) > int64(b.Max) {
			return false
		}
		if b.Gauge.bytes.CompareAndSwap(used, used+int64(size)) {
			b.Gauge.count.Add(1)
			b.Total.Add(1, size)
			return true
		}
	}
}

// Release returns a reservation of size bytes.
func (b *Budget) Release(size int) { b.add(-1, -size) }

func (b *Budget) add(n, size int) {
	b.Gauge.Add(n, size)
	b.Total.Add(n, size)
}

// Tracker is like a WaitGroup, but Add may be called while another goroutine waits.
type Tracker struct {
	mu   sync.Mutex
	n    int
	idle chan struct{}
}

// Add increments the counter.
func (t *Tracker) Add() {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
}

// Done decrements the counter.
func (t *Tracker) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Idle returns a channel that is closed once the counter is zero, or nil if it is zero now.
func (t *Tracker) Idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	return t.idle
}

// Callbacks wraps run, which calls user functions, so that InCallback can detect it.
func Callbacks[T any](run func(T)) func(T) {
	return func(v T) { inCallback(func() { run(v) }) }
}

// inCallback marks the calling goroutine by its own frame while f runs. It must not be inlined,
// because an inlined function has no frame.
//
//go:noinline
func inCallback(f func()) { f() }

// inCallbackEntry identifies the frames of inCallback.
var inCallbackEntry = reflect.ValueOf(inCallback).Pointer()

// InCallback reports whether a function made by Callbacks is on the stack of the calling goroutine.
// A function that waits for user functions to return must not wait if they are its callers.
func InCallback() bool {
	var pcs [64]uintptr
	for skip := 1; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		if n == 0 {
			return false
		}
		frames := runtime.CallersFrames(pcs[:n])
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if f.Entry == inCallbackEntry {
				return true
			}
		}
	}
}
