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

// book keeps what went wrong, and counts what happened. Its methods may be called from any goroutine.
type book struct {
	clock atomic.Uint64 // orders the beginnings of lives and of intervals; see witness

	mu     sync.Mutex
	wrong  []string
	counts map[string]int
}

const maxWrong = 40 // more tell nothing new

func newBook() *book { return &book{counts: map[string]int{}} }

func (b *book) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts["faults found"]++
	if len(b.wrong) < maxWrong {
		b.wrong = append(b.wrong, fmt.Sprintf(format, args...))
	}
}

func (b *book) count(what string) { b.add(what, 1) }

func (b *book) add(what string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[what] += n
}

func (b *book) counted(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts[what]
}

func (b *book) faults() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.wrong)
}

// String lists the counts.
func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, what := range slices.Sorted(maps.Keys(b.counts)) {
		all = append(all, fmt.Sprintf("%s %d", what, b.counts[what]))
	}
	return strings.Join(all, ", ")
}

// witness checks what one client hears in one room.
//
// Every join is a life, whose number is taken from the book's clock before the join is sent; what is said in a life is counted by the server.
// An interval of hearing begins with the answer to a join, at the clock's time, and ends when the client leaves, or notices that its channel or
// connection ended. The rules:
//
//   - Nothing is heard outside of an interval.
//   - What is heard of one life comes in the order in which it was said, without repetition, and within an interval without a gap.
//   - Of a life that began when the interval had begun already, the first thing said is heard.
//   - What a client said in one life all comes before what it said in a later one, by its own count. As it counts through all lives, and nothing is
//     pushed twice, nothing is heard twice, in whatever interval.
//   - What is pushed to the client in a life comes complete, and in order, from the first.
//   - When something said is answered, or something pushed announced by an answer, it has been heard.
//
// A witness of a lossy connection, or in an interval in which the client said that it dropped something, forgives gaps. It counts those of a lossy one:
// no more may be missing than its server says that it dropped.
//
// Its methods may be called from any goroutine; those that tell it something, in the order in which that came.
type witness struct {
	book        *book
	name, topic string
	lossy       bool
	list        func() (presence.State, bool) // who is there as the client knows it, and whether it is sure; nil: it does not follow

	mu       sync.Mutex
	joined   bool
	life     uint64 // of the interval
	since    uint64 // when it began
	interval int
	dropped  bool // something, in this interval
	leaving  bool // see leaves
	ticks    uint64
	voices   map[string][]*voice // by name, in the order of their lives
	roll     uint64              // the latest roll call
	present  map[string]bool     // who answered it
}

// voice is what was heard of one life.
type voice struct {
	life     uint64
	min, max uint64 // Seq
	n        uint64
	interval int // in which n was heard
}

func newWitness(b *book, name, topic string, lossy bool) *witness {
	return &witness{book: b, name: name, topic: topic, lossy: lossy, voices: map[string][]*voice{}, present: map[string]bool{}}
}

func (w *witness) fault(format string, args ...any) {
	w.book.fault("%s in %s, life %d: %s", w.name, w.topic, w.life, fmt.Sprintf(format, args...))
}

// begins tells that a join was answered.
func (w *witness) begins(life uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if life <= w.life {
		w.fault("joined as %d", life)
	}
	w.joined, w.life, w.since, w.dropped, w.ticks = true, life, w.book.clock.Load(), false, 0
	w.interval++
	w.book.count("intervals")
}

// ends tells that the interval, if there is one, is over.
func (w *witness) ends() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.joined = false
}

// leaves tells that the client is about to leave, from when on answers still come but what is heard is kept from it, or that it has left.
func (w *witness) leaves(leaving bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaving = leaving
}

// drops tells that the client dropped something.
func (w *witness) drops() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped = true
	w.book.count("overflows")
}

func (w *witness) forgives() bool { return w.lossy || w.dropped }

// hears tells of something said in the room.
func (w *witness) hears(s said) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.book.count("heard")
	if !w.joined {
		w.fault("heard %+v outside of an interval", s.short())
		return
	}
	v := w.voice(s)
	w.misses(v, s)
	switch {
	case v.n > 0 && (s.N <= v.n || s.Seq <= v.max):
		w.fault("heard %+v after number %d, %d of its lives", s.short(), v.n, v.max)
	case w.forgives():
	case v.interval == w.interval && s.N != v.n+1:
		w.fault("heard %+v right after number %d", s.short(), v.n)
	case v.interval != w.interval && s.Life > w.since && s.N != 1:
		w.fault("heard %+v as the first of a life that began when the interval had begun at %d", s.short(), w.since)
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

// misses counts what a lossy connection left out before s.
func (w *witness) misses(v *voice, s said) {
	switch {
	case !w.lossy:
	case v.interval == w.interval && s.N > v.n:
		w.book.add("missed", int(s.N-v.n-1))
	case v.interval != w.interval && s.Life > w.since && s.N > 0:
		w.book.add("missed", int(s.N-1))
	}
}

// maxLives bounds the voices of one name. What was said so many joins ago is not under way anywhere.
const maxLives = 64

// voice finds the voice of a life, and checks what was said in the lives before and after it.
func (w *witness) voice(s said) *voice {
	lives := w.voices[s.From]
	i, found := slices.BinarySearchFunc(lives, s.Life, func(v *voice, life uint64) int { return cmp.Compare(v.life, life) })
	if !found {
		if len(lives) == maxLives {
			if i == 0 {
				w.fault("heard %+v, of a life long ago", s.short())
				return &voice{}
			}
			lives, i = slices.Delete(lives, 0, 1), i-1
		}
		lives = slices.Insert(lives, i, &voice{life: s.Life})
		w.voices[s.From] = lives
	}
	if i > 0 && s.Seq <= lives[i-1].max {
		w.fault("heard %+v, but number %d of its lives in life %d", s.short(), lives[i-1].max, lives[i-1].life)
	}
	if i+1 < len(lives) && s.Seq >= lives[i+1].min {
		w.fault("heard %+v, but number %d of its lives in life %d", s.short(), lives[i+1].min, lives[i+1].life)
	}
	return lives[i]
}

// short is s without what is long.
func (s said) short() said {
	s.Pad = ""
	return s
}

// ticked tells of something pushed to the client.
func (w *witness) ticked(t tick) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.book.count("ticks")
	switch {
	case !w.joined:
		w.fault("tick %d outside of an interval", t.N)
	case t.N <= w.ticks, t.N != w.ticks+1 && !w.forgives():
		w.fault("tick %d after tick %d", t.N, w.ticks)
	case w.lossy:
		w.book.add("missed", int(t.N-w.ticks-1))
	}
	w.ticks = t.N
}

// answered tells that the client's own "say" or "tick" was answered.
func (w *witness) answered(event string, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forgives() || w.leaving || !w.joined {
		return
	}
	if a.Life != w.life {
		w.fault("%s answered for life %d", event, a.Life)
		return
	}
	n := w.ticks
	if event == "say" {
		n = 0
		for _, v := range w.voices[w.name] {
			if v.life == a.Life {
				n = v.n
			}
		}
	}
	if n < a.N {
		w.fault("%s answered with %d when %d was heard", event, a.N, n)
	}
}

// now is whether the client is joined, and in which life.
func (w *witness) now() (joined bool, life uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.joined, w.life
}

// intervals is how many there were.
func (w *witness) intervals() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.interval
}

// missing are those of names that have not answered a roll call.
func (w *witness) missing(roll uint64, names []string) (missing []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.roll != roll || !w.present[name] {
			missing = append(missing, name)
		}
	}
	return missing
}
