// Package link is the seam between a client's socket and the channels that it carries.
package link

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/loop"
	"bennu.example/serializer"
)

// ErrTaken is returned by Attach.
var ErrTaken = errors.New("topic is taken")

// Up is what a channel asks of its socket.
type Up interface {
	// Post queues a task for the loop, from any goroutine, and reports false once the socket is closed and its loop gone.
	Post(t loop.Task) bool
	// Done is closed once the socket is closed and its loop gone.
	Done() <-chan struct{}
	// Closing is why no more pushes are taken, or nil.
	Closing() error
	// Log is never nil.
	Log() *zerolog.Logger
	// Total counts what all channels of the socket have waiting.
	Total() *Totals

	// The following belong to the loop.

	Arm(t *loop.Timer, d time.Duration)
	Disarm(t *loop.Timer)
	// NextRef is the next ref of the socket.
	NextRef() uint64
	// Send queues a message for the connection, which there must be.
	Send(o Out)
	// Withdraw removes the message of that ref from what waits for the connection, if it still waits.
	Withdraw(ref uint64)
	// Attach gives the messages of a topic to d. If busy, another channel is still leaving the topic: Freed is called when it
	// is detached. The error is ErrTaken if another channel has the topic and is not leaving it, or why the socket is closed.
	Attach(topic string, d Down) (busy bool, err error)
	Detach(topic string, d Down)
	// IsOpen reports whether there is a connection.
	IsOpen() bool
	// Go runs f on a goroutine of its own, which the socket waits for, and then the task that it returns on the loop. The tasks
	// run in the order of the calls of Go, but none waits for more than a second for those before it. The context ends with the
	// socket, or by cancel.
	Go(f func(ctx context.Context) loop.Task) (cancel func())
	// HasTurns reports whether a task of Go waits or is awaited.
	HasTurns() bool
	// Enter counts a push in that is to be answered, for those who wait until all are. Its number goes to Exit.
	Enter() uint64
	Exit(n uint64)
}

// Down is what a socket tells a channel, on the loop.
type Down interface {
	// Receive takes a message of the channel's topic.
	Receive(m *serializer.Message)
	// Opened tells that there is a connection.
	Opened()
	// Unsent gives back what was not handed to the network when the connection was lost. It comes just before Closed.
	Unsent(o *Out)
	// Closed tells that the connection was lost, or could not be made.
	Closed(err error)
	// Freed reports that the channel that was leaving the topic, when this one was attached, is detached.
	Freed()
	// Refused tells that a message could not be encoded, and so was not sent.
	Refused(ref uint64, err error)
	// End tells that the socket is closed for good.
	End(err error)
	// Farewell returns the message that leaves the topic, if the server may have the channel. It is for a connection that is
	// about to be closed: no reply is expected.
	Farewell() (o Out, ok bool)
	// IsSettled reports whether no push waits to be sent and nobody waits for the answer of one that was.
	IsSettled() bool
	// IsLeaving reports whether the topic is free for another.
	IsLeaving() bool
}

// Out is a message on its way to the connection.
type Out struct {
	Msg  serializer.Message
	Ref  uint64 // the number in Msg.Ref, higher than that of every message sent before
	Size int    // bytes that count against the budget; 0 if Hold is nil
	Hold *Hold  // nil for anything but a push
	From Down   // nil: the socket's own

	Withdrawn bool // only the place in a queue is left of it
}

// Release gives back what o holds.
func (o *Out) Release() {
	if o.Hold != nil {
		o.Hold.Release()
	}
}

// Hold is one push's share of a Budget. Both the loop, when the push is answered, and the connection's writer, when it was
// written, give it back; whoever comes first counts. The zero Hold holds nothing.
type Hold struct {
	room *Budget
	size atomic.Int64
}

// Take takes size bytes of b and reports whether there were as many.
func (h *Hold) Take(b *Budget, size int) bool {
	if !b.Reserve(size) {
		return false
	}
	h.room = b
	h.size.Store(int64(size))
	return true
}

// Retake takes size bytes again, if they were given back, without regard to the bound.
func (h *Hold) Retake(size int) {
	if h.room != nil && h.size.CompareAndSwap(0, int64(size)) {
		h.room.add(1, size)
	}
}

// IsHeld reports whether Release has something to give back.
func (h *Hold) IsHeld() bool { return h.size.Load() > 0 }

// Release gives the share back, if that was not done yet.
func (h *Hold) Release() {
	if n := h.size.Swap(0); n > 0 {
		h.room.Release(int(n))
	}
}

// Gauge counts things and their bytes.
type Gauge struct{ count, bytes atomic.Int64 }

// Add counts n things of size bytes in all, in or out.
func (g *Gauge) Add(n, size int) {
	g.count.Add(int64(n))
	g.bytes.Add(int64(size))
}

// Load returns the things and their bytes.
func (g *Gauge) Load() (n int, bytes int64) { return int(g.count.Load()), g.bytes.Load() }

// Totals are a socket's gauges.
type Totals struct {
	Queued  Gauge         // pushes not yet handed to the network
	Backlog Gauge         // events that wait for callbacks or iterators
	Dropped atomic.Uint64 // events, for want of room
	Failed  Failures      // of pushes, for Flush
	Running Tracker       // functions of the user that wait or run: callbacks, and those of the configuration
}

// failuresKept is how many errors of pushes are kept for whoever asks.
const failuresKept = 8

// FailureList is the failures of pushes: the first of them, and the number of the others.
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

// Err joins the errors, or is nil if there are none.
func (l *FailureList) Err() error {
	if l.more == 0 {
		return errors.Join(l.errs...)
	}
	return errors.Join(append(l.errs[:len(l.errs):len(l.errs)], fmt.Errorf("and %d more pushes failed", l.more))...)
}

// Failures gives each failure to everyone who listens, or to the next who does.
type Failures struct {
	mu        sync.Mutex
	kept      FailureList
	listeners []*FailureList
}

// Add takes a failure.
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

// Listen returns the failures since somebody listened last, to which further ones are added until stop is called.
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

// Budget bounds the bytes of a channel's pushes that are not yet handed to the network.
type Budget struct {
	Max   int
	Gauge Gauge
	Total *Gauge
}

// Reserve takes size bytes and reports whether there were as many. Anything fits when nothing is taken.
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

// Release gives size bytes back.
func (b *Budget) Release(size int) { b.add(-1, -size) }

func (b *Budget) add(n, size int) {
	b.Gauge.Add(n, size)
	b.Total.Add(n, size)
}

// Tracker is a WaitGroup that may be added to while somebody waits.
type Tracker struct {
	mu   sync.Mutex
	n    int
	idle chan struct{}
}

// Add counts in.
func (t *Tracker) Add() {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
}

// Done counts out.
func (t *Tracker) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Idle returns a channel that is closed once nothing is counted in, or nil if that is so now.
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

// Callbacks is run, marked as what runs the user's functions: see InCallback. Inlined, the mark would have its caller's name.
//
//go:noinline
func Callbacks[T any](run func(T)) func(T) { return func(v T) { run(v) } }

// InCallback reports whether it is called, however deep, by a function that Callbacks made. Who waits for the user's functions to end must
// not do so from one.
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
			if strings.Contains(f.Function, "internal/link.Callbacks[") {
				return true
			}
		}
	}
}
