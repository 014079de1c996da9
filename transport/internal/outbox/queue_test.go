package outbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// The queue does what a simple one does that has no state but its frames, in any order of calls.
func TestFrameQueueModel(t *testing.T) {
	t.Parallel()
	type item struct {
		Entry
		taken bool
	}
	policies := []transport.SlowPolicy{transport.Disconnect, transport.DropOldest, transport.DropOldest, transport.DropNewest, transport.KeepLatest, transport.KeepLatest}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		q := &Queue{entries: make([]Entry, 0, 4)}
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
				if i.policy == transport.DropOldest && !i.taken {
					droppable += i.cost()
				}
				frames = append(frames, i.Frame)
			}
			if q.used != used || q.Own != own || q.InHand != inHand || q.droppable != droppable {
				t.Fatalf("seed %d, after %s: used %d, own %d, in hand %d, droppable %d, want %d, %d, %d, %d",
					seed, op, q.used, q.Own, q.InHand, q.droppable, used, own, inHand, droppable)
			}
			var got []*serializer.Frame
			for _, e := range q.entries[q.head:] {
				if e.Frame != nil {
					got = append(got, e.Frame)
				}
			}
			if !slices.Equal(got, frames) {
				t.Fatalf("seed %d, after %s: %d frames, want %d, or others", seed, op, len(got), len(frames))
			}
			for key, i := range q.latest {
				if q.entries[i].key != key || slices.ContainsFunc(q.entries[i+1:], func(e Entry) bool { return e.key == key }) {
					t.Fatalf("seed %d, after %s: the index is wrong", seed, op)
				}
			}
			if q.Empty() != (len(model) == 0) {
				t.Fatalf("seed %d, after %s: empty %v", seed, op, q.Empty())
			}
		}
		for range 400 {
			switch k := rnd.IntN(10); {
			case k < 5:
				e := Entry{Frame: &serializer.Frame{Data: make([]byte, rnd.IntN(300))}, policy: policies[rnd.IntN(len(policies))]}
				if ending {
					e.policy = transport.Disconnect
				}
				e.own = rnd.IntN(3) == 0 && e.policy != transport.DropOldest && e.policy != transport.DropNewest
				if e.policy == transport.KeepLatest {
					e.key = transport.NewKey("topic", "event", fmt.Sprint(rnd.IntN(4)))
					earlier := slices.IndexFunc(model, func(i item) bool { return i.key == e.key && !i.taken })
					if earlier >= 0 {
						model = slices.Delete(model, earlier, earlier+1)
					}
					if got := q.conflate(e.key); got != (earlier >= 0) {
						t.Fatalf("seed %d: conflate says %v, want an earlier one at %d", seed, got, earlier)
					}
					check("conflate")
				}
				q.Push(e)
				model = append(model, item{e, false})
				check("push")
			case k < 7:
				need := rnd.IntN(1000)
				n, ok := q.dropOldest(need)
				want := 0
				sum := 0
				for _, i := range model {
					if i.policy == transport.DropOldest && !i.taken {
						sum += i.cost()
					}
				}
				if sum >= need {
					for i := 0; need > 0; {
						if m := model[i]; m.policy == transport.DropOldest && !m.taken {
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
				taken = q.Take(taken[:0], size)
				for i := 0; i < len(model) && (size > 0 || i == 0); i++ {
					model[i].taken = true
					size -= model[i].cost()
					if i >= len(taken) || taken[i] != model[i].Frame {
						t.Fatalf("seed %d: take gives %d frames, or others", seed, len(taken))
					}
				}
				check("take")
			case k < 9 && len(taken) > 0:
				n := rnd.IntN(len(taken) + 1)
				partly := n < len(taken) && rnd.IntN(2) == 0
				last, obsolete := q.Written(n, partly)
				if n > 0 && last != taken[n-1] {
					t.Fatalf("seed %d: written returns another frame", seed)
				}
				model = slices.Delete(model, 0, n)
				for i := range model {
					model[i].taken = i == 0 && partly
				}
				was := len(model)
				for i := len(model) - 1; i >= 0 && !ending; i-- {
					newer := func(m item) bool { return m.key != transport.Key{} && m.key == model[i].key }
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
				q.DropAll()
				model = slices.DeleteFunc(model, func(i item) bool { return !i.taken })
				check("dropAll")
			}
		}
	}
}

// However long a client stalls under policy DropOldest, its queue does not grow.
func TestFrameQueueStaysSmall(t *testing.T) {
	t.Parallel()
	q := &Queue{entries: make([]Entry, 0, 16)}
	f := &serializer.Frame{Data: make([]byte, 100)}
	q.Push(Entry{Frame: f})
	q.Take(nil, 1) // and never write it
	for range 100_000 {
		if over := q.used + 164 - 5000; over > 0 {
			if _, ok := q.dropOldest(over); !ok {
				t.Fatal("nothing to drop")
			}
		}
		q.Push(Entry{Frame: f, policy: transport.DropOldest})
	}
	if n := cap(q.entries); n > 300 {
		t.Errorf("room for %d entries", n)
	}
}

// However long a client stalls while one key's latest is kept, its queue does not grow, and what is kept is the latest.
func TestFrameQueueKeepsTheLatest(t *testing.T) {
	t.Parallel()
	q := &Queue{entries: make([]Entry, 0, 16)}
	s := &Policy{Max: 5000, Default: transport.Disconnect}
	send := func(data string, how transport.Delivery) {
		t.Helper()
		e := s.Entry(&serializer.Frame{Data: []byte(data)}, how)
		if got := s.Admit(q, &e, false, q.InHand); got != admitted {
			t.Fatalf("%s: %v", data, got)
		}
		q.Push(e)
	}
	latest := func(of string) transport.Delivery {
		return transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("topic", "event", of)}
	}
	var in []*serializer.Frame
	taken := func() (data []string) {
		in = q.Take(in[:0], 5000)
		for _, o := range in {
			data = append(data, string(o.Data))
		}
		return data
	}
	send("a0", latest("a"))
	if got := taken(); !slices.Equal(got, []string{"a0"}) {
		t.Fatal(got)
	}
	send("reply 1", transport.Delivery{})
	for i := range 100_000 {
		send(fmt.Sprint("a", i+1), latest("a"))
		send(fmt.Sprint("b", i+1), latest("b"))
		if i == 5 {
			send("reply 2", transport.Delivery{})
			send("push", transport.Delivery{Policy: transport.Inherit})
			send("no key", transport.Delivery{Policy: transport.KeepLatest})
			send("no key", transport.Delivery{Policy: transport.KeepLatest})
		}
	}
	if n := cap(q.entries); n > 64 {
		t.Errorf("room for %d entries", n)
	}
	if n := s.Conflated.Load(); n != 2*99_999 {
		t.Errorf("%d conflated", n)
	}
	// What was in the writer's hands was not written, and is obsolete by now.
	if _, obsolete := q.Written(0, false); obsolete != 1 {
		t.Errorf("%d obsolete", obsolete)
	}
	if got := taken(); !slices.Equal(got, []string{"reply 1", "reply 2", "push", "no key", "no key", "a100000", "b100000"}) {
		t.Error(got)
	}
	if q.Written(len(in), false); !q.Empty() || len(q.latest) != 0 {
		t.Errorf("%+v", q)
	}
}

// A frame for which there is no room goes by its own policy, and those before it by theirs.
func TestFrameQueuePolicies(t *testing.T) {
	t.Parallel()
	const room = 3
	key := transport.NewKey("topic", "event", "")
	for _, test := range []struct {
		conn   transport.SlowPolicy
		before [room]transport.Delivery
		how    transport.Delivery
		Want   admission
		left   int // of those before
	}{
		{transport.Disconnect, [room]transport.Delivery{}, transport.Delivery{}, Overrun, 3},
		{transport.Disconnect, [room]transport.Delivery{}, transport.Delivery{Policy: transport.Inherit}, Overrun, 3},
		{transport.DropOldest, [room]transport.Delivery{}, transport.Delivery{Policy: transport.Inherit}, Refused, 3},
		{transport.DropOldest, [room]transport.Delivery{}, transport.Delivery{Policy: transport.Disconnect}, Overrun, 3},
		{transport.DropNewest, [room]transport.Delivery{}, transport.Delivery{Policy: transport.Inherit}, Refused, 3},
		{transport.Disconnect, [room]transport.Delivery{}, transport.Delivery{Policy: transport.DropNewest}, Refused, 3},
		{transport.Disconnect, [room]transport.Delivery{1: {Policy: transport.DropOldest}}, transport.Delivery{}, admitted, 2},
		{transport.Disconnect, [room]transport.Delivery{1: {Policy: transport.DropOldest}}, transport.Delivery{Policy: transport.DropNewest}, Refused, 3},
		{transport.Disconnect, [room]transport.Delivery{1: {Policy: transport.DropNewest}}, transport.Delivery{}, Overrun, 3},
		{transport.DropOldest, [room]transport.Delivery{1: {Policy: transport.Inherit}}, transport.Delivery{Policy: transport.KeepLatest, Key: key}, admitted, 2},
		{transport.Disconnect, [room]transport.Delivery{1: {Policy: transport.KeepLatest, Key: key}}, transport.Delivery{Policy: transport.KeepLatest, Key: key}, admitted, 2},
		{transport.DropOldest, [room]transport.Delivery{1: {Policy: transport.KeepLatest, Key: key}}, transport.Delivery{Policy: transport.Inherit}, Refused, 3},
		{transport.DropOldest, [room]transport.Delivery{{Policy: transport.KeepLatest, Key: key}}, transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("topic", "event", "other")}, Overrun, 3},
		{transport.DropOldest, [room]transport.Delivery{{Policy: transport.KeepLatest, Key: key}}, transport.Delivery{Policy: transport.KeepLatest}, Overrun, 3},
	} {
		q := &Queue{}
		s := &Policy{Max: room * frameOverhead, Default: test.conn}
		for _, how := range test.before {
			q.Push(s.Entry(&serializer.Frame{}, how))
		}
		e := s.Entry(&serializer.Frame{}, test.how)
		if got := s.Admit(q, &e, test.how.Answer, 0); got != test.Want || q.used != test.left*frameOverhead {
			t.Errorf("%+v: %d, %d bytes", test, got, q.used)
		}
	}
}
