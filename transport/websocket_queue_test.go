package transport

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"bennu.example/serializer"
)

// The queue does what a simple one does that has no state but its frames, in any order of calls.
func TestFrameQueueModel(t *testing.T) {
	t.Parallel()
	type item struct {
		entry
		taken bool
	}
	policies := []SlowPolicy{Disconnect, DropOldest, DropOldest, DropNewest, KeepLatest, KeepLatest}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		q := &frameQueue{entries: make([]entry, 0, 4)}
		var model []item
		var taken []*serializer.Frame
		ending := false
		check := func(op string) {
			t.Helper()
			used, own, inHand, droppable := 0, 0, 0, 0
			var frames []*serializer.Frame
			for _, i := range model {
				used += i.cost()
				switch {
				case i.own:
					own += i.cost()
				case i.taken:
					inHand += i.cost()
				}
				if i.policy == DropOldest && !i.taken {
					droppable += i.cost()
				}
				frames = append(frames, i.frame)
			}
			if q.used != used || q.own != own || q.inHand != inHand || q.droppable != droppable {
				t.Fatalf("seed %d, after %s: used %d, own %d, in hand %d, droppable %d, want %d, %d, %d, %d",
					seed, op, q.used, q.own, q.inHand, q.droppable, used, own, inHand, droppable)
			}
			var got []*serializer.Frame
			for _, e := range q.entries[q.head:] {
				if e.frame != nil {
					got = append(got, e.frame)
				}
			}
			if !slices.Equal(got, frames) {
				t.Fatalf("seed %d, after %s: %d frames, want %d, or others", seed, op, len(got), len(frames))
			}
			for key, i := range q.latest {
				if q.entries[i].key != key || slices.ContainsFunc(q.entries[i+1:], func(e entry) bool { return e.key == key }) {
					t.Fatalf("seed %d, after %s: the index is wrong", seed, op)
				}
			}
			if q.empty() != (len(model) == 0) {
				t.Fatalf("seed %d, after %s: empty %v", seed, op, q.empty())
			}
		}
		for range 400 {
			switch k := rnd.IntN(10); {
			case k < 5:
				e := entry{frame: &serializer.Frame{Data: make([]byte, rnd.IntN(300))}, policy: policies[rnd.IntN(len(policies))]}
				if ending {
					e.policy = Disconnect
				}
				e.own = rnd.IntN(3) == 0 && e.policy != DropOldest && e.policy != DropNewest
				if e.policy == KeepLatest {
					e.key = NewKey("topic", "event", fmt.Sprint(rnd.IntN(4)))
					earlier := slices.IndexFunc(model, func(i item) bool { return i.key == e.key && !i.taken })
					if earlier >= 0 {
						model = slices.Delete(model, earlier, earlier+1)
					}
					if got := q.conflate(e.key); got != (earlier >= 0) {
						t.Fatalf("seed %d: conflate says %v, want an earlier one at %d", seed, got, earlier)
					}
					check("conflate")
				}
				q.push(e)
				model = append(model, item{e, false})
				check("push")
			case k < 7:
				need := rnd.IntN(1000)
				n, ok := q.dropOldest(need)
				want := 0
				sum := 0
				for _, i := range model {
					if i.policy == DropOldest && !i.taken {
						sum += i.cost()
					}
				}
				if sum >= need {
					for i := 0; need > 0; {
						if m := model[i]; m.policy == DropOldest && !m.taken {
							need -= m.cost()
							model = slices.Delete(model, i, i+1)
							want++
						} else {
							i++
						}
					}
				}
				if n != want || ok != (need <= 0) {
					t.Fatalf("seed %d: dropOldest says %d %v, want %d", seed, n, ok, want)
				}
				check("dropOldest")
			case k < 8 && len(taken) == 0:
				size := rnd.IntN(1000)
				taken = q.take(taken[:0], size)
				for i := 0; i < len(model) && (size > 0 || i == 0); i++ {
					model[i].taken = true
					size -= model[i].cost()
					if i >= len(taken) || taken[i] != model[i].frame {
						t.Fatalf("seed %d: take gives %d frames, or others", seed, len(taken))
					}
				}
				check("take")
			case k < 9 && len(taken) > 0:
				n := rnd.IntN(len(taken) + 1)
				partly := n < len(taken) && rnd.IntN(2) == 0
				last, obsolete := q.written(n, partly)
				if n > 0 && last != taken[n-1] {
					t.Fatalf("seed %d: written returns another frame", seed)
				}
				model = slices.Delete(model, 0, n)
				for i := range model {
					model[i].taken = i == 0 && partly
				}
				was := len(model)
				for i := len(model) - 1; i >= 0 && !ending; i-- {
					newer := func(m item) bool { return m.key != Key{} && m.key == model[i].key }
					if !model[i].taken && slices.ContainsFunc(model[i+1:], newer) {
						model = slices.Delete(model, i, i+1)
					}
				}
				if obsolete != was-len(model) {
					t.Fatalf("seed %d: written says %d are obsolete, want %d", seed, obsolete, was-len(model))
				}
				taken = taken[:0]
				check("written")
			case rnd.IntN(20) == 0:
				ending = true
				q.dropAll()
				model = slices.DeleteFunc(model, func(i item) bool { return !i.taken })
				check("dropAll")
			}
		}
	}
}

// However long a client stalls under policy DropOldest, its queue does not grow.
func TestFrameQueueStaysSmall(t *testing.T) {
	t.Parallel()
	q := &frameQueue{entries: make([]entry, 0, 16)}
	f := &serializer.Frame{Data: make([]byte, 100)}
	q.push(entry{frame: f})
	q.take(nil, 1) // and never write it
	for range 100_000 {
		if over := q.used + 164 - 5000; over > 0 {
			if _, ok := q.dropOldest(over); !ok {
				t.Fatal("nothing to drop")
			}
		}
		q.push(entry{frame: f, policy: DropOldest})
	}
	if n := cap(q.entries); n > 300 {
		t.Errorf("room for %d entries", n)
	}
}

// However long a client stalls while one key's latest is kept, its queue does not grow, and what is kept is the latest.
func TestFrameQueueKeepsTheLatest(t *testing.T) {
	t.Parallel()
	q := &frameQueue{entries: make([]entry, 0, 16)}
	s := &slowness{max: 5000, policy: Disconnect}
	send := func(data string, how Delivery) {
		t.Helper()
		e := s.entry(&serializer.Frame{Data: []byte(data)}, how)
		if got := s.admit(q, &e, false, q.inHand); got != admitted {
			t.Fatalf("%s: %v", data, got)
		}
		q.push(e)
	}
	latest := func(of string) Delivery { return Delivery{Policy: KeepLatest, Key: NewKey("topic", "event", of)} }
	var in []*serializer.Frame
	taken := func() (data []string) {
		in = q.take(in[:0], 5000)
		for _, o := range in {
			data = append(data, string(o.Data))
		}
		return data
	}
	send("a0", latest("a"))
	if got := taken(); !slices.Equal(got, []string{"a0"}) {
		t.Fatal(got)
	}
	send("reply 1", Delivery{})
	for i := range 100_000 {
		send(fmt.Sprint("a", i+1), latest("a"))
		send(fmt.Sprint("b", i+1), latest("b"))
		if i == 5 {
			send("reply 2", Delivery{})
			send("push", Delivery{Policy: Inherit})
			send("no key", Delivery{Policy: KeepLatest})
			send("no key", Delivery{Policy: KeepLatest})
		}
	}
	if n := cap(q.entries); n > 64 {
		t.Errorf("room for %d entries", n)
	}
	if n := s.conflated.Load(); n != 2*99_999 {
		t.Errorf("%d conflated", n)
	}
	// What was in the writer's hands was not written, and is obsolete by now.
	if _, obsolete := q.written(0, false); obsolete != 1 {
		t.Errorf("%d obsolete", obsolete)
	}
	if got := taken(); !slices.Equal(got, []string{"reply 1", "reply 2", "push", "no key", "no key", "a100000", "b100000"}) {
		t.Error(got)
	}
	if q.written(len(in), false); !q.empty() || len(q.latest) != 0 {
		t.Errorf("%+v", q)
	}
}

// A frame for which there is no room goes by its own policy, and those before it by theirs.
func TestFrameQueuePolicies(t *testing.T) {
	t.Parallel()
	const room = 3
	key := NewKey("topic", "event", "")
	for _, test := range []struct {
		conn   SlowPolicy
		before [room]Delivery
		how    Delivery
		want   admission
		left   int // of those before
	}{
		{Disconnect, [room]Delivery{}, Delivery{}, overrun, 3},
		{Disconnect, [room]Delivery{}, Delivery{Policy: Inherit}, overrun, 3},
		{DropOldest, [room]Delivery{}, Delivery{Policy: Inherit}, refused, 3},
		{DropOldest, [room]Delivery{}, Delivery{Policy: Disconnect}, overrun, 3},
		{DropNewest, [room]Delivery{}, Delivery{Policy: Inherit}, refused, 3},
		{Disconnect, [room]Delivery{}, Delivery{Policy: DropNewest}, refused, 3},
		{Disconnect, [room]Delivery{1: {Policy: DropOldest}}, Delivery{}, admitted, 2},
		{Disconnect, [room]Delivery{1: {Policy: DropOldest}}, Delivery{Policy: DropNewest}, refused, 3},
		{Disconnect, [room]Delivery{1: {Policy: DropNewest}}, Delivery{}, overrun, 3},
		{DropOldest, [room]Delivery{1: {Policy: Inherit}}, Delivery{Policy: KeepLatest, Key: key}, admitted, 2},
		{Disconnect, [room]Delivery{1: {Policy: KeepLatest, Key: key}}, Delivery{Policy: KeepLatest, Key: key}, admitted, 2},
		{DropOldest, [room]Delivery{1: {Policy: KeepLatest, Key: key}}, Delivery{Policy: Inherit}, refused, 3},
		{DropOldest, [room]Delivery{{Policy: KeepLatest, Key: key}}, Delivery{Policy: KeepLatest, Key: NewKey("topic", "event", "other")}, overrun, 3},
		{DropOldest, [room]Delivery{{Policy: KeepLatest, Key: key}}, Delivery{Policy: KeepLatest}, overrun, 3},
	} {
		q := &frameQueue{}
		s := &slowness{max: room * frameOverhead, policy: test.conn}
		for _, how := range test.before {
			q.push(s.entry(&serializer.Frame{}, how))
		}
		e := s.entry(&serializer.Frame{}, test.how)
		if got := s.admit(q, &e, test.how.Answer, 0); got != test.want || q.used != test.left*frameOverhead {
			t.Errorf("%+v: %d, %d bytes", test, got, q.used)
		}
	}
}
