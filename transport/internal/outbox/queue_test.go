package outbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// modelEntry is an entry in a model of the queue that has no state but its frames.
type modelEntry struct {
	Entry
	taken bool
}

func (e *modelEntry) droppable() bool { return e.policy == transport.DropOldest && !e.taken }

// checkModel compares the queue with its model.
func checkModel(t *testing.T, q *Queue, model []modelEntry, where string) {
	t.Helper()
	bytes, own, taken, droppable := 0, 0, 0, 0
	var frames []*serializer.Frame
	for _, e := range model {
		bytes += e.cost()
		switch {
		case e.own:
			own += e.cost()
		case e.taken:
			taken += e.cost()
		}
		if e.droppable() {
			droppable += e.cost()
		}
		frames = append(frames, e.Frame)
	}
	if q.bytes != bytes || q.OwnBytes != own || q.TakenBytes != taken || q.droppable != droppable {
		t.Fatalf("%s: bytes %d, own %d, taken %d, droppable %d, want %d, %d, %d, %d",
			where, q.bytes, q.OwnBytes, q.TakenBytes, q.droppable, bytes, own, taken, droppable)
	}
	var got []*serializer.Frame
	for _, e := range q.entries[q.head:] {
		if e.Frame != nil {
			got = append(got, e.Frame)
		}
	}
	if !slices.Equal(got, frames) {
		t.Fatalf("%s: %d frames, want %d, or other frames", where, len(got), len(frames))
	}
	for key, i := range q.latest {
		isNewer := func(e Entry) bool { return e.key == key }
		if q.entries[i].key != key || slices.ContainsFunc(q.entries[i+1:], isNewer) {
			t.Fatalf("%s: latest has a wrong index", where)
		}
	}
	if q.Empty() != (len(model) == 0) || q.Count() != len(model) {
		t.Fatalf("%s: Empty %v, Count %d, want %d frames", where, q.Empty(), q.Count(), len(model))
	}
}

// TestQueueEqualsModel compares the queue with a simple model, for random sequences of calls.
func TestQueueEqualsModel(t *testing.T) {
	t.Parallel()
	policies := []transport.SlowPolicy{
		transport.Disconnect, transport.DropOldest, transport.DropOldest,
		transport.DropNewest, transport.KeepLatest, transport.KeepLatest,
	}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		q := &Queue{entries: make([]Entry, 0, 4)}
		var model []modelEntry
		var taken []*serializer.Frame
		ending := false
		check := func(op string) {
			t.Helper()
			checkModel(t, q, model, fmt.Sprintf("seed %d, after %s", seed, op))
		}
		for range 400 {
			switch k := rnd.IntN(10); {
			case k < 5:
				frame := &serializer.Frame{Data: make([]byte, rnd.IntN(300))}
				e := Entry{Frame: frame, policy: policies[rnd.IntN(len(policies))]}
				if ending {
					e.policy = transport.Disconnect
				}
				e.own = rnd.IntN(3) == 0 && e.policy != transport.DropOldest && e.policy != transport.DropNewest
				if e.policy == transport.KeepLatest {
					e.key = transport.NewKey("topic", "event", fmt.Sprint(rnd.IntN(4)))
					earlier := slices.IndexFunc(model, func(m modelEntry) bool { return m.key == e.key && !m.taken })
					if earlier >= 0 {
						model = slices.Delete(model, earlier, earlier+1)
					}
					if got := q.conflate(e.key); got != (earlier >= 0) {
						t.Fatalf("seed %d: conflate returned %v, want an earlier frame at %d", seed, got, earlier)
					}
					check("conflate")
				}
				q.Enqueue(e)
				model = append(model, modelEntry{e, false})
				check("Enqueue")
			case k < 7:
				need := rnd.IntN(1000)
				n, ok := q.dropOldest(need)
				want := 0
				sum := 0
				for _, e := range model {
					if e.droppable() {
						sum += e.cost()
					}
				}
				if sum >= need {
					for i := 0; need > 0; {
						if e := model[i]; e.droppable() {
							need -= e.cost()
							model = slices.Delete(model, i, i+1)
							want++
						} else {
							i++
						}
					}
				}
				if n != want || ok != (need <= 0) {
					t.Fatalf("seed %d: dropOldest returned %d, %v, want %d", seed, n, ok, want)
				}
				check("dropOldest")
			case k < 8 && len(taken) == 0:
				size := rnd.IntN(1000)
				taken = q.Take(taken[:0], size)
				for i := 0; i < len(model) && (size > 0 || i == 0); i++ {
					model[i].taken = true
					size -= model[i].cost()
					if i >= len(taken) || taken[i] != model[i].Frame {
						t.Fatalf("seed %d: Take returned %d frames, or other frames", seed, len(taken))
					}
				}
				check("Take")
			case k < 9 && len(taken) > 0:
				n := rnd.IntN(len(taken) + 1)
				partly := n < len(taken) && rnd.IntN(2) == 0
				last, obsolete := q.Written(n, partly)
				if n > 0 && last != taken[n-1] {
					t.Fatalf("seed %d: Written returned another frame", seed)
				}
				model = slices.Delete(model, 0, n)
				for i := range model {
					model[i].taken = i == 0 && partly
				}
				before := len(model)
				for i := len(model) - 1; i >= 0 && !ending; i-- {
					isNewer := func(m modelEntry) bool { return m.key != transport.Key{} && m.key == model[i].key }
					if !model[i].taken && slices.ContainsFunc(model[i+1:], isNewer) {
						model = slices.Delete(model, i, i+1)
					}
				}
				if obsolete != before-len(model) {
					t.Fatalf("seed %d: Written dropped %d obsolete frames, want %d", seed, obsolete, before-len(model))
				}
				taken = taken[:0]
				check("Written")
			case rnd.IntN(20) == 0:
				ending = true
				q.DropAll()
				model = slices.DeleteFunc(model, func(e modelEntry) bool { return !e.taken })
				check("DropAll")
			}
		}
	}
}

// TestQueueStaysSmall checks that the queue of a client that never reads does not grow while
// DropOldest bounds its bytes.
func TestQueueStaysSmall(t *testing.T) {
	t.Parallel()
	q := &Queue{entries: make([]Entry, 0, 16)}
	f := &serializer.Frame{Data: make([]byte, 100)}
	q.Enqueue(Entry{Frame: f})
	q.Take(nil, 1) // never written
	for range 100_000 {
		if over := q.bytes + 164 - 5000; over > 0 {
			if _, ok := q.dropOldest(over); !ok {
				t.Fatal("nothing to drop")
			}
		}
		q.Enqueue(Entry{Frame: f, policy: transport.DropOldest})
	}
	if n := cap(q.entries); n > 300 {
		t.Errorf("capacity for %d entries", n)
	}
}

// TestQueueKeepsLatest checks that the queue of a client that never reads keeps the newest frame of
// each key, and does not grow.
func TestQueueKeepsLatest(t *testing.T) {
	t.Parallel()
	q := &Queue{entries: make([]Entry, 0, 16)}
	s := &Policy{Max: 5000, Default: transport.Disconnect}
	send := func(data string, how transport.Delivery) {
		t.Helper()
		e := s.Entry(&serializer.Frame{Data: []byte(data)}, how)
		if got := s.Admit(q, &e, false, q.TakenBytes); got != Admitted {
			t.Fatalf("%s: %v", data, got)
		}
		q.Enqueue(e)
	}
	latest := func(of string) transport.Delivery {
		return transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("topic", "event", of)}
	}
	var frames []*serializer.Frame
	take := func() (data []string) {
		frames = q.Take(frames[:0], 5000)
		for _, f := range frames {
			data = append(data, string(f.Data))
		}
		return data
	}
	send("a0", latest("a"))
	if got := take(); !slices.Equal(got, []string{"a0"}) {
		t.Fatal(got)
	}
	send("reply 1", transport.Delivery{Answer: true})
	for i := range 100_000 {
		send(fmt.Sprint("a", i+1), latest("a"))
		send(fmt.Sprint("b", i+1), latest("b"))
		if i == 5 {
			send("reply 2", transport.Delivery{Answer: true})
			send("push", transport.Delivery{})
			send("no key", transport.Delivery{Policy: transport.KeepLatest})
			send("no key", transport.Delivery{Policy: transport.KeepLatest})
		}
	}
	if n := cap(q.entries); n > 64 {
		t.Errorf("capacity for %d entries", n)
	}
	if n := s.Conflated.Load(); n != 2*99_999 {
		t.Errorf("%d conflated", n)
	}
	// The writer had taken this frame but did not write it. By now it is obsolete.
	if _, obsolete := q.Written(0, false); obsolete != 1 {
		t.Errorf("%d obsolete", obsolete)
	}
	want := []string{"reply 1", "reply 2", "push", "no key", "no key", "a100000", "b100000"}
	if got := take(); !slices.Equal(got, want) {
		t.Error(got)
	}
	if q.Written(len(frames), false); !q.Empty() || len(q.latest) != 0 {
		t.Errorf("%+v", q)
	}
}

// TestPolicies checks what becomes of a frame that arrives at a full queue, and of the frames
// before it.
func TestPolicies(t *testing.T) {
	t.Parallel()
	const room = 3
	var (
		inherit    = transport.Delivery{}
		disconnect = transport.Delivery{Policy: transport.Disconnect}
		oldest     = transport.Delivery{Policy: transport.DropOldest}
		newest     = transport.Delivery{Policy: transport.DropNewest}
		noKey      = transport.Delivery{Policy: transport.KeepLatest}
		latest     = transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("topic", "event", "")}
		other      = transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("topic", "event", "other")}
	)
	for _, test := range []struct {
		conn   transport.SlowPolicy
		before transport.Delivery // of one frame in the queue; the others have Disconnect
		how    transport.Delivery
		want   Admission
		left   int // the number of those before
	}{
		{transport.Inherit, disconnect, inherit, Overflow, 3},
		{transport.Inherit, inherit, disconnect, Overflow, 3},
		{transport.Disconnect, disconnect, disconnect, Overflow, 3},
		{transport.Disconnect, disconnect, inherit, Overflow, 3},
		{transport.DropOldest, disconnect, inherit, Dropped, 3},
		{transport.DropOldest, disconnect, disconnect, Overflow, 3},
		{transport.DropOldest, inherit, disconnect, Admitted, 2},
		{transport.DropNewest, disconnect, inherit, Dropped, 3},
		{transport.Disconnect, disconnect, newest, Dropped, 3},
		{transport.Disconnect, oldest, disconnect, Admitted, 2},
		{transport.Disconnect, oldest, newest, Dropped, 3},
		{transport.Disconnect, newest, disconnect, Overflow, 3},
		{transport.DropOldest, inherit, latest, Admitted, 2},
		{transport.Disconnect, latest, latest, Admitted, 2},
		{transport.DropOldest, latest, inherit, Dropped, 3},
		{transport.DropOldest, latest, other, Overflow, 3},
		{transport.DropOldest, latest, noKey, Overflow, 3},
	} {
		q := &Queue{}
		s := &Policy{Max: room * frameOverhead, Default: test.conn}
		for _, how := range [room]transport.Delivery{disconnect, test.before, disconnect} {
			q.Enqueue(s.Entry(&serializer.Frame{}, how))
		}
		e := s.Entry(&serializer.Frame{}, test.how)
		if got := s.Admit(q, &e, false, 0); got != test.want || q.bytes != test.left*frameOverhead {
			t.Errorf("%+v: %d, %d bytes", test, got, q.bytes)
		}
	}
}

// TestAnswersAreNeverDropped checks that the policy of a connection, or of the frame itself, does
// not apply to answers.
func TestAnswersAreNeverDropped(t *testing.T) {
	t.Parallel()
	policies := []transport.SlowPolicy{
		transport.Inherit, transport.Disconnect, transport.DropOldest, transport.DropNewest, transport.KeepLatest,
	}
	for _, conn := range policies[:4] {
		for _, policy := range policies {
			q := &Queue{}
			s := &Policy{Max: frameOverhead, Default: conn}
			how := transport.Delivery{Policy: policy, Key: transport.NewKey("topic", "event", ""), Answer: true}
			const answers = 10
			for range answers {
				e := s.Entry(&serializer.Frame{}, how)
				if got := s.Admit(q, &e, true, 0); got != Admitted {
					t.Fatalf("conn %d, frame %d: answer got %d", conn, policy, got)
				}
				q.Enqueue(e)
			}
			for range 3 { // broadcasts that find no room, and may not take that of the answers
				e := s.Entry(&serializer.Frame{}, transport.Delivery{Policy: transport.DropOldest})
				if s.Admit(q, &e, false, 0) == Admitted {
					q.Enqueue(e)
				}
			}
			if q.OwnBytes != answers*frameOverhead || q.Count() != answers+1 {
				t.Errorf("conn %d, frame %d: %d bytes of answers, %d frames", conn, policy, q.OwnBytes, q.Count())
			}
		}
	}
}
