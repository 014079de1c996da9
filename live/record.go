package live

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// recorder counts what happens on this node, by hooks. Its size does not depend on clients.
type recorder struct {
	counts [counters]atomic.Uint64

	timings sync.Map // of callbackName to *timing
	names   atomic.Int32

	rotated time.Time // when the timings began their period; owned by the goroutine of Handler.in

	mu      sync.Mutex
	crashes []crash // the newest last
}

// A counter counts one kind of event since the start.
type counter int

const (
	countOpened counter = iota
	countClosed
	countRefused
	countJoined
	countLeft
	countJoinRefused
	countCrashed
	countEvents
	countBroadcasts
	countDelivered
	countGaps
	countDropped
	counters // the number of counters
)

// counterNames are the names of the counters in a summary.
var counterNames = [counters]string{
	"opened", "closed", "refused", "joined", "left", "joinRefused", "crashed", "events",
	"broadcasts", "delivered", "gaps", "dropped",
}

// maxNames bounds the callbacks whose times are recorded. Their number depends on the program: the
// bound is for programs that make routes or handlers without end.
const maxNames = 200

// callbackName names a callback. No client chooses a part of it.
type callbackName struct{ Route, Kind, Name string }

// otherCallbacks is the name of the callbacks beyond maxNames.
var otherCallbacks = callbackName{Route: "(others)"}

func (r *recorder) init() { r.timings.Store(otherCallbacks, new(timing)) }

func (r *recorder) add(c counter, n uint64) { r.counts[c].Add(n) }

// socket returns hooks that count the events of a socket handler.
func (r *recorder) socket() *socket.Hooks {
	return &socket.Hooks{
		Refused: func(context.Context, *socket.SocketEvent) { r.add(countRefused, 1) },
		Opened:  func(context.Context, *socket.SocketEvent) { r.add(countOpened, 1) },
		Closed:  func(context.Context, *socket.SocketEvent) { r.add(countClosed, 1) },
		Dropped: func(_ context.Context, e *socket.SocketEvent) { r.add(countDropped, e.Count) },
		Joined:  func(context.Context, *socket.ChannelEvent) { r.add(countJoined, 1) },
		Left:    func(context.Context, *socket.ChannelEvent) { r.add(countLeft, 1) },
		JoinRefused: func(context.Context, *socket.ChannelEvent) {
			r.add(countJoinRefused, 1)
		},
		Crashed: func(_ context.Context, e *socket.ChannelEvent) {
			r.add(countCrashed, 1)
			r.crashed(e)
		},
		CallbackDone: func(_ context.Context, e *socket.ChannelEvent) {
			if e.Callback.Kind == "event" {
				r.add(countEvents, 1)
			}
			r.timing(callbackName{e.Route, e.Callback.Kind, e.Callback.Name}).add(e.Took)
		},
	}
}

// pubsub returns hooks that count broadcasts.
func (r *recorder) pubsub() *pubsub.Hooks {
	return &pubsub.Hooks{
		BroadcastDone: func(context.Context, string, string, error) { r.add(countBroadcasts, 1) },
		Delivered: func(_ context.Context, d pubsub.Delivery) {
			r.add(countDelivered, uint64(max(d.Subscribers, 0)))
			name := callbackName{Kind: "deliver", Name: "local"}
			if d.Remote {
				name.Name = "remote"
			}
			r.timing(name).add(d.Took)
		},
		Gap: func(error) { r.add(countGaps, 1) },
	}
}

// timing returns the times of a callback.
func (r *recorder) timing(name callbackName) *timing {
	if t, ok := r.timings.Load(name); ok {
		return t.(*timing)
	}
	if r.names.Add(1) > maxNames {
		r.names.Add(-1)
		name = otherCallbacks
	}
	t, loaded := r.timings.LoadOrStore(name, new(timing))
	if loaded && name != otherCallbacks {
		r.names.Add(-1) // another goroutine was first
	}
	return t.(*timing)
}

// A crash is a failed callback, or a channel that a bound has ended.
type crash struct {
	At     int64  `json:"at"` // milliseconds since 1970
	Route  string `json:"route"`
	Topic  string `json:"topic"`
	Event  string `json:"event,omitempty"`
	Reason string `json:"reason"`
	Err    string `json:"err"`
	Stack  string `json:"stack,omitempty"`
}

const (
	maxCrashes = 10
	maxStack   = 3 << 10
	maxError   = 500
)

// crashed remembers a crash, and forgets the oldest one beyond maxCrashes.
func (r *recorder) crashed(e *socket.ChannelEvent) {
	c := crash{At: time.Now().UnixMilli(), Route: clip(e.Route, maxName), Topic: clip(e.Topic, maxName), Reason: e.Reason}
	if e.Err != nil {
		c.Err = clip(e.Err.Error(), maxError)
	}
	var in interface {
		error
		Event() string
	}
	if errors.As(e.Err, &in) {
		c.Event = clip(in.Event(), maxName)
	}
	var p *channel.PanicError
	if errors.As(e.Err, &p) {
		c.Stack = clip(userStack(string(p.Stack)), maxStack)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.crashes) >= maxCrashes {
		r.crashes = slices.Delete(r.crashes, 0, 1)
	}
	r.crashes = append(r.crashes, c)
}

// userStack removes the frames of the runtime and of this module's recovery from the beginning of a
// stack: those up to the call of panic.
func userStack(stack string) string {
	_, after, found := strings.Cut(stack, "\npanic(")
	if !found {
		return stack
	}
	for range 2 { // the rest of the line, and that of the source
		if _, after, found = strings.Cut(after, "\n"); !found {
			return stack
		}
	}
	return after
}

// clip returns at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// timing is a histogram of durations. Its buckets grow by about a fifth, from 1 µs.
type timing struct {
	buckets [buckets]atomic.Uint32

	// The counts at two earlier moments, owned by the goroutine of Handler.in.
	older, newer [buckets]uint32
}

// buckets is enough for durations of more than an hour. There are four for each power of two.
const buckets = 4 * 32

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 4 {
		return int(us)
	}
	n := bits.Len64(us) - 3 // so that us>>n has three bits, the first of which is set
	return min(4*(n+1)+int(us>>n&3), buckets-1)
}

// boundOf returns the upper bound of a bucket in microseconds.
func boundOf(i int) uint64 {
	if i < 4 {
		return uint64(i) + 1
	}
	return uint64(4+i%4+1) << (i/4 - 1)
}

func (t *timing) add(d time.Duration) { t.buckets[bucketOf(d)].Add(1) }

// quantiles returns the number of durations since the last but one call of rotate, and the bounds
// in microseconds below which half of them, 99 of 100 and all of them are.
func (t *timing) quantiles() (n uint32, median, most, all uint64) {
	var since [buckets]uint32
	for i := range t.buckets {
		since[i] = t.buckets[i].Load() - t.older[i]
		n += since[i]
	}
	var below uint64
	for i, m := range since {
		if m == 0 {
			continue
		}
		below += uint64(m)
		all = boundOf(i)
		if median == 0 && below*2 >= uint64(n) {
			median = all
		}
		if most == 0 && below*100 >= uint64(n)*99 {
			most = all
		}
	}
	return n, median, most, all
}

// rotate begins a new period.
func (t *timing) rotate() {
	t.older = t.newer
	for i := range t.buckets {
		t.newer[i] = t.buckets[i].Load()
	}
}
