package socket

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Wanted is the state that the program asked for.
type Wanted uint8

const (
	WantPaused    Wanted = iota // no connection: before Connect and after Pause
	WantConnected               // a connection; the client reconnects when it is lost
	WantClosed                  // after Close
)

func (w Wanted) String() string {
	return stateName([]string{"paused", "connected", "closed"}, uint8(w))
}

// Status is the state of a client's connection.
type Status uint8

const (
	// StatusDisconnected means that there is no connection because none is wanted.
	StatusDisconnected Status = iota
	// StatusConnecting means that an attempt to connect is under way.
	StatusConnecting
	// StatusConnected means that there is a connection.
	StatusConnected
	// StatusWaiting means that the connection was lost or an attempt failed. The next attempt is at
	// State.Until.
	StatusWaiting
	// StatusDenied means that the server refused the client with 401 or 403. The next attempt is at
	// State.Until. If that is zero, there is none before Connect is called.
	StatusDenied
	// StatusFailed means that there is no further attempt before Connect is called. State.Cause has
	// the reason.
	StatusFailed
)

func (s Status) String() string {
	return stateName([]string{"disconnected", "connecting", "connected", "waiting", "denied", "failed"}, uint8(s))
}

func stateName(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%d", i)
}

// State is the state of a client at one moment.
type State struct {
	Wanted    Wanted
	Status    Status
	Since     time.Time // when Status changed last
	Until     time.Time // of StatusWaiting and StatusDenied: the next attempt, or zero
	Tries     int       // attempts that failed in a row, since the last that succeeded
	Cause     error     // what ended the last connection or the last attempt
	Transport string    // "websocket" or "longpoll", if connected
}

// String returns one line for a log, such as "waiting, attempt 3 at 15:04:05.250: connection
// refused". It contains no payload, parameter or token, and at most 200 bytes of the cause.
func (s State) String() string {
	line := s.Status.String()
	switch {
	case s.Status == StatusConnected:
		line += " by " + s.Transport
	case s.Status == StatusConnecting && s.Tries > 0:
		line += fmt.Sprintf(", attempt %d", s.Tries+1)
	case s.Status == StatusDisconnected:
		line += ", " + s.Wanted.String()
	case !s.Until.IsZero():
		line += fmt.Sprintf(", attempt %d at %s", s.Tries+1, s.Until.Format("15:04:05.000"))
	}
	if s.Cause == nil {
		return line
	}
	return line + ": " + clipCause(s.Cause.Error())
}

// clipCause shortens an error's text to one line.
func clipCause(text string) string {
	const most = 200
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), "; ")
	if len(text) <= most {
		return text
	}
	cut := most
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// clientStates keeps a client's state and notifies its watchers.
type clientStates struct {
	call func(func()) // enqueues a callback

	mu      sync.Mutex
	now     State
	hooks   []*stateHook // replaced, never changed
	streams []*stateStream
	ended   bool
}

type stateHook struct {
	f   func(State)
	off atomic.Bool
}

// statesKept bounds the states that wait for an iterator. The oldest are dropped.
const statesKept = 64

// stateStream is the queue of one iterator.
type stateStream struct {
	states *clientStates
	queue  []State // guarded by states.mu, as is ended
	ended  bool
	wake   chan struct{}
}

func (s *clientStates) load() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// set changes the state and notifies the watchers. If last is true, no change follows.
func (s *clientStates) set(change func(*State), last bool) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.now
	change(&s.now)
	if isSameState(s.now, was) && !last {
		return was
	}
	if s.now.Status != was.Status {
		s.now.Since = time.Now()
	}
	now, hooks := s.now, s.hooks
	for _, st := range s.streams {
		if len(st.queue) == statesKept {
			st.queue = slices.Delete(st.queue, 0, 1)
		}
		st.queue = append(st.queue, now)
		st.ended = last
		st.signal()
	}
	if len(hooks) > 0 {
		s.call(func() {
			for _, h := range hooks {
				if !h.off.Load() {
					h.f(now)
				}
			}
		})
	}
	if last {
		s.streams, s.ended = nil, true
	}
	return now
}

// isSameState reports whether watchers need no notice. States with a cause count as different,
// because errors may not be comparable.
func isSameState(a, b State) bool {
	if a.Cause != nil || b.Cause != nil {
		return false
	}
	return a == b
}

func (st *stateStream) signal() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

func (s *clientStates) on(f func(State)) (off func()) {
	h := &stateHook{f: f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(slices.Clip(s.hooks), h)
	return func() {
		h.off.Store(true)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hooks = slices.DeleteFunc(slices.Clone(s.hooks), func(x *stateHook) bool { return x == h })
	}
}

func (s *clientStates) stream() *stateStream {
	st := &stateStream{states: s, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.queue = append(st.queue, s.now)
	if st.ended = s.ended; !s.ended {
		s.streams = append(s.streams, st)
	}
	return st
}

func (st *stateStream) stop() {
	s := st.states
	s.mu.Lock()
	defer s.mu.Unlock()
	st.queue, st.ended = nil, true
	s.streams = slices.DeleteFunc(s.streams, func(x *stateStream) bool { return x == st })
}

func (st *stateStream) next() (now State, ok, more bool) {
	st.states.mu.Lock()
	defer st.states.mu.Unlock()
	if len(st.queue) == 0 {
		return now, false, !st.ended
	}
	now = st.queue[0]
	st.queue = slices.Delete(st.queue, 0, 1)
	return now, true, true
}

func (st *stateStream) all(ctx context.Context) iter.Seq[State] {
	return func(yield func(State) bool) {
		defer st.stop()
		for {
			now, ok, more := st.next()
			switch {
			case ok:
				if !yield(now) {
					return
				}
			case !more:
				return
			default:
				select {
				case <-st.wake:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}
