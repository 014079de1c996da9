package outbox

import (
	"testing"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// TestAgeFollowsTheOldestFrame checks that the age of a queue is that of its oldest frame, or more
// by no more than the time that the queue has taken to pass.
func TestAgeFollowsTheOldestFrame(t *testing.T) {
	t.Parallel()
	policy := Policy{Max: 1 << 20}
	entry := policy.Entry(&serializer.Frame{Data: []byte("text")}, transport.Delivery{})
	q := new(Queue)
	want := func(now, age time.Duration) {
		t.Helper()
		if got := q.Age(now); got != age {
			t.Errorf("age %d at %d, want %d", got, now, age)
		}
	}
	write := func(now time.Duration, n int) {
		q.Stamp(now)
		q.Take(nil, 1<<20)
		q.Written(n, false)
	}
	want(5, 0)
	q.Enqueue(entry)
	want(5, 0) // no writer has begun
	q.Stamp(10)
	q.Take(nil, 1)
	want(15, 5)
	q.Enqueue(entry) // between 10 and 20
	q.Enqueue(entry)
	write(20, 1)
	want(30, 20) // two frames are left that came after 10
	write(40, 0)
	want(50, 40)
	q.Enqueue(entry) // after 40
	write(60, 2)
	write(70, 0)
	want(80, 40) // one frame is left that came after 40
	write(90, 1)
	want(95, 0)
	q.Enqueue(entry) // the queue was empty: what was noted before has no effect
	want(96, 0)
	q.Stamp(100)
	want(101, 1)
	for range 100 { // the slice is compacted meanwhile
		q.Enqueue(entry)
	}
	write(200, 1)
	want(250, 150)
}
