package offlinetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"bennu.example/offline"
)

// Config is what Run needs.
type Config struct {
	// New returns a function that opens a store, which is empty when it is opened for the first time.
	// Run closes the store before it opens it again, except to find out that this fails.
	New func(t *testing.T) (open func() (offline.Store, error))
	// Memory is true if the contents of a store end with Close. The tests that open a store twice are
	// left out then.
	Memory bool
}

// Run tests a store. It calls New for each test.
func Run(t *testing.T, cfg Config) {
	for _, test := range []struct {
		name  string
		twice bool // it opens a store more than once
		run   func(*suite)
	}{
		{"entries are in the order of Seq", false, (*suite).order},
		{"mirrors are of a topic and a kind", false, (*suite).mirrors},
		{"operations are applied in order", false, (*suite).sequence},
		{"Apply applies all or nothing", false, (*suite).atomic},
		{"Load sees all of an Apply or nothing", false, (*suite).snapshot},
		{"identities are separate", false, (*suite).identities},
		{"Purge keeps one identity", false, (*suite).purge},
		{"what is too large is rejected", false, (*suite).bounds},
		{"each can end Load and call the store", false, (*suite).each},
		{"nothing is kept of the operations", false, (*suite).aliases},
		{"a context that has ended", false, (*suite).context},
		{"many writers at once", false, (*suite).writers},
		{"a closed store", false, (*suite).closed},
		{"random operations", false, (*suite).random},
		{"all fields are the same after a restart", true, (*suite).reopen},
		{"a store cannot be opened twice", true, (*suite).inUse},
		{"Close waits for Apply", true, (*suite).closeWaits},
		{"random operations and restarts", true, (*suite).random},
	} {
		if cfg.Memory && test.twice {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, ctx: t.Context(), open: cfg.New(t), twice: test.twice}
			s.start()
			t.Cleanup(func() { s.stop() })
			test.run(s)
		})
	}
}

type suite struct {
	*testing.T
	ctx   context.Context
	open  func() (offline.Store, error)
	store offline.Store
	twice bool
}

// start opens the store.
func (s *suite) start() {
	s.Helper()
	store, err := s.open()
	if err != nil {
		s.Fatalf("open: %v", err)
	}
	s.store = store
}

// stop closes the store.
func (s *suite) stop() {
	s.Helper()
	if err := s.store.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
}

func (s *suite) apply(identity string, ops ...offline.Op) {
	s.Helper()
	if err := s.store.Apply(s.ctx, identity, ops); err != nil {
		s.Fatalf("Apply: %v", err)
	}
}

// contents is what an identity has.
type contents struct {
	entries []offline.Entry
	mirrors []offline.Mirror
}

// load reads what an identity has, and checks its order.
func (s *suite) load(identity string) (c contents) {
	s.Helper()
	if err := s.store.Load(s.ctx, identity, func(e offline.Entry, m *offline.Mirror) error {
		switch {
		case m == nil:
			c.entries = append(c.entries, e)
		case len(c.entries) > 0:
			s.Errorf("the mirror %s %s comes after an entry", m.Topic, m.Kind)
		case !sameEntry(e, offline.Entry{}):
			s.Errorf("the mirror %s %s comes with the entry %d", m.Topic, m.Kind, e.Seq)
		default:
			c.mirrors = append(c.mirrors, *m)
		}
		return nil
	}); err != nil {
		s.Fatalf("Load: %v", err)
	}
	if !slices.IsSortedFunc(c.entries, func(a, b offline.Entry) int { return cmp.Compare(a.Seq, b.Seq) }) {
		s.Error("the entries are not in the order of Seq")
	}
	if !slices.IsSortedFunc(c.mirrors, byName) {
		s.Error("the mirrors are not in the order of Topic and Kind")
	}
	return c
}

// expect compares what an identity has.
func (s *suite) expect(identity string, want contents) {
	s.Helper()
	got := s.load(identity)
	if !slices.EqualFunc(got.entries, want.entries, sameEntry) {
		s.Errorf("%q has the entries %v, want %v", identity, seqs(got.entries), seqs(want.entries))
	}
	if !slices.EqualFunc(got.mirrors, want.mirrors, sameMirror) {
		s.Errorf("%q has the mirrors %v, want %v", identity, names(got.mirrors), names(want.mirrors))
	}
}

func byName(a, b offline.Mirror) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Kind, b.Kind))
}

func sameEntry(a, b offline.Entry) bool {
	return a.Seq == b.Seq && a.ID == b.ID && a.Topic == b.Topic && a.Event == b.Event &&
		bytes.Equal(a.Payload, b.Payload) && sameTime(a.Made, b.Made) && sameTime(a.Sent, b.Sent) && a.Tries == b.Tries
}

func sameMirror(a, b offline.Mirror) bool {
	return a.Topic == b.Topic && a.Kind == b.Kind && a.Position == b.Position &&
		bytes.Equal(a.Value, b.Value) && a.Policy == b.Policy && sameTime(a.Used, b.Used)
}

// sameTime compares times in milliseconds.
func sameTime(a, b time.Time) bool {
	return a.IsZero() == b.IsZero() && (a.IsZero() || a.UnixMilli() == b.UnixMilli())
}

func seqs(entries []offline.Entry) (list []string) {
	for _, e := range entries {
		list = append(list, fmt.Sprintf("%d %s %.20q", e.Seq, e.ID, e.Payload))
	}
	return list
}

func names(mirrors []offline.Mirror) (list []string) {
	for _, m := range mirrors {
		list = append(list, fmt.Sprintf("%s %s %.20q", m.Topic, m.Kind, m.Value))
	}
	return list
}

func put(seq uint64, payload string) offline.Op {
	return offline.Op{Put: entry(seq, payload)}
}

func entry(seq uint64, payload string) *offline.Entry {
	return &offline.Entry{
		Seq: seq, ID: fmt.Sprint("id-", seq), Topic: "room:1", Event: "msg", Payload: []byte(payload),
		Made: time.UnixMilli(1_750_000_000_000 + int64(seq%1000)),
	}
}

func drop(seq uint64) offline.Op { return offline.Op{Drop: seq} }

func keep(topic, kind, value string) offline.Op { return offline.Op{Keep: mirror(topic, kind, value)} }

func mirror(topic, kind, value string) *offline.Mirror {
	return &offline.Mirror{Topic: topic, Kind: kind, Value: []byte(value), Policy: offline.Keep}
}

func forget(topic string) offline.Op { return offline.Op{Forget: topic} }
