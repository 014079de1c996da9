package outbox

import (
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// TestRoom checks which frames of Delivery.IfRoom are admitted, by what waits before them.
func TestRoom(t *testing.T) {
	t.Parallel()
	const max = 4000
	frame := func(cost int) *serializer.Frame { return &serializer.Frame{Data: make([]byte, cost-frameOverhead)} }
	for _, test := range []struct {
		name       string
		waits, own int
		size       int
		want       Admission
		hasRoom    bool
	}{
		{"empty", 0, 0, 100, Admitted, true},
		{"any size fits in an empty queue", 0, 0, 3 * max, Admitted, true},
		{"a quarter", 999, 0, 2000, Admitted, true},
		{"any size fits if the connection is drained", 999, 0, 3 * max, Admitted, true},
		{"not drained", 1000, 0, 2000, Admitted, false},
		{"over half", 1000, 0, 2001, NoRoom, false},
		{"below half", 1999, 0, 2000, Admitted, false},
		{"half", 2000, 0, 100, NoRoom, false},
		{"full", 3999, 0, 100, NoRoom, false},
		{"answers do not count", 0, 3 * max, 3 * max, Admitted, true},
		{"answers do not count besides others", 1999, 3 * max, 2000, Admitted, false},
	} {
		s := &Policy{Max: max, Default: transport.DropOldest}
		q := &Queue{}
		if test.waits > 0 {
			q.Enqueue(s.Entry(frame(test.waits), transport.Delivery{}))
		}
		if test.own > 0 {
			q.Enqueue(s.Entry(frame(test.own), transport.Delivery{Answer: true}))
		}
		for _, how := range []transport.Delivery{
			{IfRoom: true}, {IfRoom: true, Answer: true}, {IfRoom: true, Caused: true, Policy: transport.DropNewest},
		} {
			e := s.Entry(frame(test.size), how)
			if got := s.Admit(q, &e, how.Answer, 0); got != test.want || e.own || e.policy != transport.Disconnect {
				t.Errorf("%s: got %d, want %d; %+v", test.name, got, test.want, e)
			}
		}
		if got := s.HasRoom(q); got != test.hasRoom {
			t.Errorf("%s: has room: %v", test.name, got)
		}
		if q.Count() != min(test.waits, 1)+min(test.own, 1) || s.Dropped.Load()+s.Ended.Load() > 0 {
			t.Errorf("%s: the queue has changed", test.name)
		}
	}
	if s := (&Policy{Max: max}); !s.HasRoom(nil) {
		t.Error("no queue has no room")
	}
}
