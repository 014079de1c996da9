package offlinetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/offline"
)

func (s *suite) order() {
	var want contents
	for _, seq := range []uint64{1, 2, 255, 256, 65_536, 1 << 32, 1<<53 + 1, math.MaxUint64} {
		want.entries = append(want.entries, *entry(seq, fmt.Sprint("payload ", seq)))
	}
	for _, i := range []int{3, 0, 7, 5, 1, 2, 6, 4} {
		s.apply("", offline.Op{Put: &want.entries[i]})
	}
	s.expect("", want)
	want.entries[3].Payload, want.entries[3].Sent, want.entries[3].Tries = []byte("again"), time.Now(), 3
	s.apply("", offline.Op{Put: &want.entries[3]})
	s.expect("", want)
	s.apply("", drop(255), drop(math.MaxUint64), drop(77))
	want.entries = slices.Delete(want.entries[:7], 2, 3)
	s.expect("", want)
	var all []offline.Op
	for _, e := range want.entries {
		all = append(all, drop(e.Seq))
	}
	s.apply("", all...)
	s.expect("", contents{})
}

func (s *suite) mirrors() {
	s.apply("", keep("b", "state", "1"), keep("a", "state", "2"), keep("a", "presence", "3"),
		keep("", "$client", "4"), keep("ab", "state", "5"), keep("a", "", "6"), keep("a\x00", "x", "7"))
	s.expect("", contents{mirrors: []offline.Mirror{
		*mirror("", "$client", "4"), *mirror("a", "", "6"), *mirror("a", "presence", "3"), *mirror("a", "state", "2"),
		*mirror("a\x00", "x", "7"), *mirror("ab", "state", "5"), *mirror("b", "state", "1"),
	}})
	s.apply("", keep("b", "state", "new"), forget("a"), forget("unknown"))
	s.expect("", contents{mirrors: []offline.Mirror{
		*mirror("", "$client", "4"), *mirror("a\x00", "x", "7"), *mirror("ab", "state", "5"), *mirror("b", "state", "new"),
	}})
}

func (s *suite) sequence() {
	s.apply("", put(1, "a"), put(1, "b"), drop(1), put(2, "c"), drop(2), put(2, "d"),
		keep("t", "k", "a"), forget("t"), keep("u", "k", "b"), keep("u", "k", "c"))
	s.expect("", contents{
		entries: []offline.Entry{*entry(2, "d")}, mirrors: []offline.Mirror{*mirror("u", "k", "c")},
	})
	s.apply("") // no operation
}

func (s *suite) atomic() {
	s.apply("", put(1, "a"), keep("t", "k", "a"))
	want := s.load("")
	for name, last := range map[string]offline.Op{
		"no field":      {},
		"two fields":    {Drop: 1, Forget: "t"},
		"no Seq":        put(0, "x"),
		"a large entry": {Put: &offline.Entry{Seq: 5, ID: strings.Repeat("x", 65)}},
	} {
		err := s.store.Apply(s.ctx, "", []offline.Op{put(2, "b"), drop(1), keep("t", "k", "b"), last})
		if !errors.Is(err, offline.ErrInvalid) {
			s.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		s.expect("", want)
	}
}

// snapshot writes two entries and a mirror with equal contents at once, again and again.
func (s *suite) snapshot() {
	var wg sync.WaitGroup
	defer wg.Wait()
	write := func(i int) error {
		v := fmt.Sprint(i)
		return s.store.Apply(s.ctx, "", []offline.Op{keep("t", "k", v), put(1, v), put(math.MaxUint64, v)})
	}
	if err := write(0); err != nil {
		s.Fatal(err)
	}
	wg.Go(func() {
		for i := range 100 {
			if err := write(i); err != nil {
				s.Error(err)
				return
			}
		}
	})
	for range 100 {
		c := s.load("")
		if len(c.mirrors) != 1 || len(c.entries) != 2 {
			s.Fatalf("got %d mirrors and %d entries", len(c.mirrors), len(c.entries))
		}
		v := string(c.mirrors[0].Value)
		if string(c.entries[0].Payload) != v || string(c.entries[1].Payload) != v {
			s.Fatalf("got %s, %s and %s at once", v, c.entries[0].Payload, c.entries[1].Payload)
		}
	}
}

func (s *suite) identities() {
	for _, identity := range []string{"", "a", "ab", "a\x00b", strings.Repeat("x", 1024)} {
		s.apply(identity, put(1, identity), keep("t", "k", identity))
	}
	s.apply("a", drop(1), forget("t"))
	for _, identity := range []string{"", "ab", "a\x00b", strings.Repeat("x", 1024)} {
		s.expect(identity, contents{
			entries: []offline.Entry{*entry(1, identity)}, mirrors: []offline.Mirror{*mirror("t", "k", identity)},
		})
	}
	s.expect("a", contents{})
	s.expect("unknown", contents{})
}

func (s *suite) purge() {
	all := []string{"", "a", "b", "c"}
	for _, identity := range all {
		s.apply(identity, put(1, identity), keep("t", "k", identity), keep("", "$client", identity))
	}
	want := s.load("b")
	purge := func(except string) {
		s.Helper()
		if err := s.store.Purge(s.ctx, except); err != nil {
			s.Fatal(err)
		}
	}
	purge("b")
	for _, identity := range all {
		if identity != "b" {
			s.expect(identity, contents{})
		}
	}
	s.expect("b", want)
	s.apply("", put(1, "again"))
	purge("")
	s.expect("b", contents{})
	s.expect("", contents{entries: []offline.Entry{*entry(1, "again")}})
	purge("unknown")
	s.expect("", contents{})
}

func (s *suite) bounds() {
	of := func(n int) string { return strings.Repeat("x", n) }
	const mega = 1 << 20
	s.apply(of(1024),
		offline.Op{Put: &offline.Entry{Seq: 1, ID: of(64), Topic: of(8 << 10), Event: of(8 << 10)}},
		offline.Op{Keep: &offline.Mirror{Topic: of(8 << 10), Kind: of(256)}})
	if c := s.load(of(1024)); len(c.entries) != 1 || c.entries[0].Topic != of(8<<10) || len(c.mirrors) != 1 {
		s.Errorf("got %d entries and %d mirrors", len(c.entries), len(c.mirrors))
	}
	s.apply(of(1024), forget(of(8<<10)), put(2, of(16*mega)))
	if c := s.load(of(1024)); len(c.entries) != 2 || len(c.entries[1].Payload) != 16*mega || len(c.mirrors) != 0 {
		s.Errorf("got %d entries and %d mirrors", len(c.entries), len(c.mirrors))
	}
	large := put(1, of(16*mega))
	for name, test := range map[string]struct {
		identity string
		ops      []offline.Op
	}{
		"identity":     {of(1025), nil},
		"ID":           {"", []offline.Op{{Put: &offline.Entry{Seq: 1, ID: of(65)}}}},
		"topic":        {"", []offline.Op{{Put: &offline.Entry{Seq: 1, Topic: of(8<<10 + 1)}}}},
		"event":        {"", []offline.Op{{Put: &offline.Entry{Seq: 1, Event: of(8<<10 + 1)}}}},
		"payload":      {"", []offline.Op{put(1, of(16*mega+1))}},
		"mirror topic": {"", []offline.Op{keep(of(8<<10+1), "k", "")}},
		"kind":         {"", []offline.Op{keep("t", of(257), "")}},
		"value":        {"", []offline.Op{keep("t", "k", of(16*mega+1))}},
		"forget":       {"", []offline.Op{forget(of(8<<10 + 1))}},
		"all":          {"", []offline.Op{large, large, large, large}},
		"operations":   {"", slices.Repeat([]offline.Op{drop(1)}, 10_001)},
	} {
		if err := s.store.Apply(s.ctx, test.identity, test.ops); !errors.Is(err, offline.ErrInvalid) {
			s.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	s.expect("", contents{})
}

func (s *suite) each() {
	s.apply("", put(1, "a"), put(2, "b"), put(3, "c"))
	boom, calls := errors.New("boom"), 0
	err := s.store.Load(s.ctx, "", func(e offline.Entry, _ *offline.Mirror) error {
		if calls++; e.Seq == 2 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || calls != 2 {
		s.Errorf("Load returned %v after %d calls", err, calls)
	}
	if err := s.store.Load(s.ctx, "", func(e offline.Entry, _ *offline.Mirror) error {
		return s.store.Apply(s.ctx, "", []offline.Op{drop(e.Seq), put(e.Seq+10, "d")})
	}); err != nil {
		s.Error(err)
	}
	if c := s.load(""); len(c.entries) != 3 || c.entries[0].Seq != 11 {
		s.Errorf("got %v", seqs(c.entries))
	}
}

func (s *suite) aliases() {
	e, m := entry(1, "payload"), mirror("t", "k", "value")
	s.apply("", offline.Op{Put: e}, offline.Op{Keep: m})
	e.Payload[0], m.Value[0], e.Event, m.Kind = 'x', 'x', "x", "x"
	first := s.load("")
	s.expect("", contents{
		entries: []offline.Entry{*entry(1, "payload")}, mirrors: []offline.Mirror{*mirror("t", "k", "value")},
	})
	s.apply("", put(1, "other"), keep("t", "k", "other"))
	if string(first.entries[0].Payload) != "payload" || string(first.mirrors[0].Value) != "value" {
		s.Errorf("what was loaded has changed: %s, %s", first.entries[0].Payload, first.mirrors[0].Value)
	}
}

func (s *suite) context() {
	ctx, cancel := context.WithCancel(s.ctx)
	s.apply("", put(1, "a"), put(2, "b"))
	err := s.store.Load(ctx, "", func(offline.Entry, *offline.Mirror) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		s.Errorf("Load, whose context ends meanwhile: %v", err)
	}
	want := s.load("")
	if err := s.store.Apply(ctx, "", []offline.Op{put(3, "c")}); !errors.Is(err, context.Canceled) {
		s.Errorf("Apply: %v", err)
	}
	if err := s.store.Purge(ctx, "x"); !errors.Is(err, context.Canceled) {
		s.Errorf("Purge: %v", err)
	}
	s.expect("", want)
}

func (s *suite) writers() {
	var wg sync.WaitGroup
	const writers, each = 16, 40
	for w := range writers {
		wg.Go(func() {
			identity := fmt.Sprint(w % 2)
			for i := range each {
				seq := uint64(1 + i*writers + w)
				if err := s.store.Apply(s.ctx, identity, []offline.Op{put(seq, identity)}); err != nil {
					s.Error(err)
					return
				}
				if i%4 == 3 {
					if err := s.store.Apply(s.ctx, identity, []offline.Op{drop(seq)}); err != nil {
						s.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, identity := range []string{"0", "1"} {
		c := s.load(identity)
		if len(c.entries) != writers/2*each*3/4 {
			s.Errorf("%s has %d entries", identity, len(c.entries))
		}
		for _, e := range c.entries {
			if string(e.Payload) != identity {
				s.Errorf("%s has an entry of %s", identity, e.Payload)
			}
		}
	}
}

func (s *suite) closed() {
	s.stop()
	errs := []error{
		s.store.Apply(s.ctx, "", []offline.Op{put(1, "a")}),
		s.store.Load(s.ctx, "", func(offline.Entry, *offline.Mirror) error { return nil }),
		s.store.Purge(s.ctx, ""),
	}
	for i, err := range errs {
		if !errors.Is(err, offline.ErrStore) {
			s.Errorf("call %d: %v, want ErrStore", i, err)
		}
	}
}

func (s *suite) reopen() {
	position, err := history.NewPosition("q7hx2c9k", 129, "0m0a")
	if err != nil {
		s.Fatal(err)
	}
	want := contents{
		mirrors: []offline.Mirror{
			{Kind: "$client", Value: []byte("0193")},
			{
				Topic: "room:ü", Kind: "state", Position: position, Value: []byte{0, 255, 7},
				Policy: offline.KeepUpdating, Used: time.UnixMilli(1_750_000_000_123),
			},
		},
		entries: []offline.Entry{
			{Seq: 1},
			{
				Seq: 2, ID: "0193a", Topic: "room:ü", Event: "msg", Payload: []byte(`{"$id":"0193a"}`),
				Made: time.Now(), Sent: time.UnixMilli(-5), Tries: math.MaxInt32,
			},
		},
	}
	for i := range want.mirrors {
		s.apply("user", offline.Op{Keep: &want.mirrors[i]}, offline.Op{Put: &want.entries[i]})
	}
	for range 2 {
		s.expect("user", want)
		s.stop()
		s.start()
	}
}

func (s *suite) inUse() {
	s.apply("", put(1, "a"))
	begun := time.Now()
	second, err := s.open()
	if err == nil {
		_ = second.Close()
		s.Fatal("the store was opened a second time")
	}
	if took := time.Since(begun); took > 10*time.Second {
		s.Errorf("it took %v to refuse this", took)
	}
	s.Logf("the error is: %v", err)
	s.apply("", put(2, "b"))
	want := s.load("")
	s.stop()
	s.start()
	s.expect("", want)
}

// closeWaits closes the store while goroutines write. Each Apply that returned nil is
// stored, and the others failed with ErrStore.
func (s *suite) closeWaits() {
	var wg sync.WaitGroup
	kept := make([][]uint64, 8)
	begun := make(chan struct{}, len(kept)*2)
	for w := range kept {
		wg.Go(func() {
			for i := 0; ; i++ {
				seq := uint64(1 + i*len(kept) + w)
				if err := s.store.Apply(s.ctx, "", []offline.Op{put(seq, "a")}); err != nil {
					if !errors.Is(err, offline.ErrStore) {
						s.Error(err)
					}
					return
				}
				kept[w] = append(kept[w], seq)
				if i < 2 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	s.stop()
	wg.Wait()
	s.start()
	var found []uint64
	for _, e := range s.load("").entries {
		found = append(found, e.Seq)
	}
	want := slices.Sorted(slices.Values(slices.Concat(kept...)))
	if !slices.Equal(found, want) {
		s.Errorf("%d entries are stored, want %d", len(found), len(want))
	}
}
