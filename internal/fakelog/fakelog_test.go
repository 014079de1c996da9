package fakelog_test

import (
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/history/historytest"
	"bennu.example/internal/fakelog"
	"bennu.example/serializer"
)

// TestSuite runs the suite of logs on a store without faults, and on one whose logs know as little
// as the suite permits.
func TestSuite(t *testing.T) {
	for name, test := range map[string]struct {
		faults fakelog.Faults
		holes  bool
	}{
		"complete": {},
		"sparse": {
			faults: fakelog.Faults{AppendHidesPrev: true, ReadHidesPrev: true, FeedHidesTag: true, Refuse: 0.5},
			holes:  true,
		},
		"slow": {faults: fakelog.Faults{
			Latency: 50 * time.Microsecond, Delay: 3 * time.Millisecond, Gap: 0.2, Repeat: 0.2, Swap: 0.2,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			historytest.Run(t, func(*testing.T) historytest.Engine {
				s := fakelog.NewStore(1)
				if test.holes {
					s.UseHoles()
				}
				return engine(s, test.faults)
			})
		})
	}
}

func engine(s *fakelog.Store, f fakelog.Faults) historytest.Engine {
	node := func(name string) history.Log {
		l := s.Log(name)
		s.Set(f)
		return l
	}
	return historytest.Engine{
		Log:      node("a"),
		Restart:  func(testing.TB) history.Log { return node("a") },
		Rollback: func(_ testing.TB, topic string, n int) { s.Rollback(topic, n) },
		Topics:   func(testing.TB) int { return s.Topics() },
		Node:     func(testing.TB) history.Log { return node("b") },
		Freeze: func(testing.TB) func() {
			s.Freeze()
			return s.Thaw
		},
		Disconnect: func(testing.TB) func() {
			s.Disconnect("a")
			return func() { s.Connect("a") }
		},
		LoseRecords: func(_ testing.TB, topic string) { s.Trim(topic, 0) },
		LoseMeta:    func(_ testing.TB, topic string) { s.Evict(topic) },
		Durable:     true,
	}
}

func binary(size int) serializer.Payload { return serializer.Binary(make([]byte, size)) }

func position(t *testing.T, epoch string, offset uint64, tag string) history.Position {
	t.Helper()
	p, err := history.NewPosition(epoch, offset, tag)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
