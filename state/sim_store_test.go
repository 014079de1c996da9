package state_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/history"
	"bennu.example/state"
)

// simItem is what a client or the checker knows of a key.
type simItem struct {
	value string
	rev   uint64
}

// simState is the object at a position.
type simState map[string]struct {
	simItem
	expires time.Time
}

// recorder notes every state of the object, from the store's own feed.
type recorder struct {
	mu     sync.Mutex
	states map[string]simState // by position
	now    simState
	epochs int
	errs   []string
}

func (r *recorder) change(c state.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(simState)
	if c.Gone == "" {
		for k, it := range r.now {
			next[k] = it
		}
	} else {
		r.epochs++
	}
	rev := uint64(0)
	for _, it := range c.Items {
		if it.Rev <= rev || it.Rev > c.Position.Offset() || !c.Prev.IsBeginning() && it.Rev <= c.Prev.Offset() {
			r.errs = append(r.errs, fmt.Sprintf("revision %d of %s, from %s to %s", it.Rev, it.Key, c.Prev, c.Position))
		}
		rev = it.Rev
		it.Key = strings.ReplaceAll(it.Key, "\x01", "/")
		if it.Under {
			for k := range next {
				if it.Key == "" || strings.HasPrefix(k, it.Key+"/") {
					delete(next, k)
				}
			}
		}
		if it.Deleted != "" {
			delete(next, it.Key)
		} else {
			row := next[it.Key]
			row.simItem, row.expires = simItem{string(it.Value), it.Rev}, it.Expires
			next[it.Key] = row
		}
	}
	if _, ok := r.states[c.Prev.String()]; !ok {
		r.errs = append(r.errs, fmt.Sprintf("a change follows %s, which is no position", c.Prev))
	}
	r.now = next
	r.states[c.Position.String()] = next
}

func (r *recorder) at(position string) (simState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.states[position]
	return s, ok
}

// lossy is a store whose feed may lose, repeat and swap changes. Its pages are small, and other
// writes come between them.
type lossy struct {
	state.Store
	exact bool // the feed is perfect
	quiet atomic.Bool

	between func(rng *rand.Rand, keys []string) state.Op // nil means that of a map

	mu   sync.Mutex
	rng  *rand.Rand
	held []state.Change
}

const simPage = 3

func (l *lossy) Read(ctx context.Context, o string, r state.Range, next string, limit int) (state.Page, error) {
	defer l.write()
	return l.Store.Read(ctx, o, r, next, min(limit, simPage))
}

func (l *lossy) Changes(
	ctx context.Context, o string, since history.Position, r state.Range, limit int,
) (state.Page, error) {
	defer l.write()
	return l.Store.Changes(ctx, o, since, r, min(limit, simPage))
}

func (l *lossy) Tops(ctx context.Context, objects []string) ([]history.Position, error) {
	defer l.write()
	return l.Store.Tops(ctx, objects)
}

// write makes a write that comes between two steps of a reader.
func (l *lossy) write() {
	var keys []string
	if l.between != nil { // of items that it may write
		p, _ := l.Store.Read(context.Background(), simTopic, state.Range{}, "", 1000) // it never fails
		for _, it := range p.Items {
			if string(it.Value) != simCounted {
				keys = append(keys, it.Key)
			}
		}
	}
	l.mu.Lock()
	n := l.rng.IntN(4)
	op := betweenMap(l.rng, keys)
	if l.between != nil {
		op = l.between(l.rng, keys)
	}
	l.mu.Unlock()
	if n == 0 && !l.quiet.Load() {
		tx := state.Tx{Create: state.ModeExisting, Limits: state.Limits{Changes: simKeep}}
		_, _ = l.Store.Apply(context.Background(), simTopic, []state.Op{op}, tx) // the object may be gone
	}
}

func (l *lossy) Run(ctx context.Context, in state.Inbox) error {
	change := in.Change
	in.Change = func(c state.Change) {
		if l.exact {
			change(c)
			return
		}
		l.mu.Lock()
		var out []state.Change
		switch l.rng.IntN(8) {
		case 0: // lost
		case 1:
			out = append(out, c, c)
		case 2:
			l.held = append(l.held, c)
		case 3:
			out = append(append(out, c), l.held...)
			l.held = nil
		default:
			out = append(out, c)
		}
		l.mu.Unlock()
		for _, c := range out {
			change(c)
		}
	}
	return l.Store.Run(ctx, in)
}
