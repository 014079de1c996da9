package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"bennu.example/presence"
)

// report records faults and counts events. It is safe for concurrent use.
type report struct {
	clock atomic.Uint64 // orders the starts of generations and of intervals; see checker

	mu     sync.Mutex
	wrong  []string
	counts map[string]int
}

const maxWrong = 40 // more would be redundant

func newReport() *report { return &report{counts: map[string]int{}} }

func (r *report) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts["faults found"]++
	if len(r.wrong) < maxWrong {
		r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
	}
}

func (r *report) count(what string) { r.add(what, 1) }

func (r *report) add(what string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what] += n
}

func (r *report) counted(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[what]
}

func (r *report) faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wrong)
}

// String lists the counts.
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, what := range slices.Sorted(maps.Keys(r.counts)) {
		all = append(all, fmt.Sprintf("%s %d", what, r.counts[what]))
	}
	return strings.Join(all, ", ")
}

// checker checks the messages that one client receives in one room.
//
// Every join starts a generation, whose number is taken from the report's clock before the join is
// sent. The server counts the messages of a generation. An interval begins with the reply to a
// join, at the clock's time, and ends when the client leaves or detects that its channel or
// connection ended. The rules:
//
//   - No message is received outside of an interval.
//   - The messages of one generation arrive in order, without duplicates, and within an interval
//     without gaps.
//   - Of a generation that began during the interval, the first message is received.
//   - All messages of a client's generation precede those of its later generations, by the client's
//     own count. The count covers all generations, and no message is pushed twice; therefore no
//     message is received twice, not even in different intervals.
//   - Ticks of a generation arrive in order and complete, from the first.
//   - A message or tick arrives before the reply that covers it.
//
// The checker of a lossy connection allows gaps, and so does any checker in an interval in which
// its client dropped messages. It counts the gaps of a lossy connection; no more messages may be
// missing than the server dropped.
//
// Its methods are safe for concurrent use. Those that record a message must be called in the order
// in which the messages arrived.
type checker struct {
	report      *report
	name, topic string
	lossy       bool
	// list returns the client's presence list, and whether it is synchronized. Nil means that the
	// client does not maintain a list.
	list func() (presence.State, bool)

	mu         sync.Mutex
	joined     bool
	generation uint64 // generation of the interval
	since      uint64 // clock at its start
	interval   int
	dropped    bool // the client dropped messages in this interval
	leaving    bool // see setLeaving
	ticks      uint64
	streams    map[string][]*stream // by name, ordered by generation
	roll       uint64               // the latest roll call
	present    map[string]bool      // clients that answered it
}

// stream is what was received of one generation of a sender.
type stream struct {
	generation uint64
	min, max   uint64 // Seq
	n          uint64
	interval   int // in which n was received
}

func newChecker(r *report, name, topic string, lossy bool) *checker {
	return &checker{
		report: r, name: name, topic: topic, lossy: lossy,
		streams: map[string][]*stream{}, present: map[string]bool{},
	}
}

func (w *checker) fault(format string, args ...any) {
	w.report.fault("%s in %s, generation %d: %s", w.name, w.topic, w.generation, fmt.Sprintf(format, args...))
}

// beginInterval records the reply to a join.
func (w *checker) beginInterval(generation uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if generation <= w.generation {
		w.fault("joined as %d", generation)
	}
	w.joined, w.generation, w.since, w.dropped, w.ticks = true, generation, w.report.clock.Load(), false, 0
	w.interval++
	w.report.count("intervals")
}

// endInterval records the end of the interval, if there is one.
func (w *checker) endInterval() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.joined = false
}

// setLeaving records that the client is about to leave, or that it has left. While it is leaving,
// it receives replies but its callbacks are not called.
func (w *checker) setLeaving(leaving bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaving = leaving
}

// recordDrop records that the client dropped messages.
func (w *checker) recordDrop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped = true
	w.report.count("overflows")
}

func (w *checker) allowsGaps() bool { return w.lossy || w.dropped }

// checkMessage checks a message in the room.
func (w *checker) checkMessage(s message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.count("received")
	if !w.joined {
		w.fault("received %+v outside of an interval", s.short())
		return
	}
	v := w.stream(s)
	w.countMissed(v, s)
	switch {
	case v.n > 0 && (s.N <= v.n || s.Seq <= v.max):
		w.fault("received %+v after number %d, %d in total", s.short(), v.n, v.max)
	case w.allowsGaps():
	case v.interval == w.interval && s.N != v.n+1:
		w.fault("received %+v right after number %d", s.short(), v.n)
	case v.interval != w.interval && s.Generation > w.since && s.N != 1:
		w.fault("received %+v as the first of a generation that began after the interval, at %d", s.short(), w.since)
	}
	if v.n == 0 {
		v.min = s.Seq
	}
	v.n, v.max, v.interval = s.N, max(v.max, s.Seq), w.interval
	if s.Roll > w.roll {
		w.roll = s.Roll
		clear(w.present)
	}
	if s.Roll == w.roll {
		w.present[s.From] = true
	}
}

// countMissed counts the messages that a lossy connection dropped before s.
func (w *checker) countMissed(v *stream, s message) {
	switch {
	case !w.lossy:
	case v.interval == w.interval && s.N > v.n:
		w.report.add("missed", int(s.N-v.n-1))
	case v.interval != w.interval && s.Generation > w.since && s.N > 0:
		w.report.add("missed", int(s.N-1))
	}
}

// maxGenerations bounds the streams of one sender. No message of an older generation can still be
// in transit.
const maxGenerations = 64

// stream returns the stream of a generation, and checks the order relative to the generations
// before and after it.
func (w *checker) stream(s message) *stream {
	generations := w.streams[s.From]
	compare := func(v *stream, generation uint64) int { return cmp.Compare(v.generation, generation) }
	i, found := slices.BinarySearchFunc(generations, s.Generation, compare)
	if !found {
		if len(generations) == maxGenerations {
			if i == 0 {
				w.fault("received %+v of an old generation", s.short())
				return &stream{}
			}
			generations, i = slices.Delete(generations, 0, 1), i-1
		}
		generations = slices.Insert(generations, i, &stream{generation: s.Generation})
		w.streams[s.From] = generations
	}
	const outOfOrder = "received %+v, but number %d in total in generation %d"
	if i > 0 && s.Seq <= generations[i-1].max {
		w.fault(outOfOrder, s.short(), generations[i-1].max, generations[i-1].generation)
	}
	if i+1 < len(generations) && s.Seq >= generations[i+1].min {
		w.fault(outOfOrder, s.short(), generations[i+1].min, generations[i+1].generation)
	}
	return generations[i]
}

// short returns s without its padding.
func (s message) short() message {
	s.Pad = ""
	return s
}

// checkTick checks a tick.
func (w *checker) checkTick(t tick) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.count("ticks")
	switch {
	case !w.joined:
		w.fault("tick %d outside of an interval", t.N)
	case t.N <= w.ticks, t.N != w.ticks+1 && !w.allowsGaps():
		w.fault("tick %d after tick %d", t.N, w.ticks)
	case w.lossy:
		w.report.add("missed", int(t.N-w.ticks-1))
	}
	w.ticks = t.N
}

// checkReply checks the reply to the client's own "say" or "tick".
func (w *checker) checkReply(event string, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allowsGaps() || w.leaving || !w.joined {
		return
	}
	if a.Generation != w.generation {
		w.fault("%s answered for generation %d", event, a.Generation)
		return
	}
	n := w.ticks
	if event == "say" {
		n = 0
		for _, v := range w.streams[w.name] {
			if v.generation == a.Generation {
				n = v.n
			}
		}
	}
	if n < a.N {
		w.fault("%s answered with %d when %d was received", event, a.N, n)
	}
}

// now returns whether the client is joined, and its generation.
func (w *checker) now() (joined bool, generation uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.joined, w.generation
}

// intervals returns the number of intervals so far.
func (w *checker) intervals() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.interval
}

// missing returns those of names that have not answered a roll call.
func (w *checker) missing(roll uint64, names []string) (missing []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.roll != roll || !w.present[name] {
			missing = append(missing, name)
		}
	}
	return missing
}
