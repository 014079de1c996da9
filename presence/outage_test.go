package presence_test

import (
	"testing"
	"time"
)

// TestGapOfOne has one node miss changes. It receives them soon after its adapter has reported the
// gap, although the sender's adapter reported none.
func TestGapOfOne(t *testing.T) {
	for name, lost := range map[string][]string{"one way": {"a"}, "both ways": {"a", "b"}} {
		t.Run(name, func(t *testing.T) {
			clusterTest(t, func(t *testing.T, net *network) {
				a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
				all := []*node{a, b, c}
				a.track(new(owner), "before", nil)
				eventually(t, 2*time.Second, all, "before")
				time.Sleep(10 * time.Second) // virtual: clusterTest uses testing/synctest
				net.setFate(func(from, to string) []time.Duration {
					for _, l := range lost {
						if from == l && to != l && to != "c" {
							return nil
						}
					}
					return []time.Duration{time.Millisecond}
				})
				keys := []string{"before"}
				for i, n := range []*node{a, b}[:len(lost)] {
					key := []string{"by a", "by b"}[i]
					n.track(new(owner), key, nil)
					keys = append(keys, key)
				}
				time.Sleep(time.Second) // virtual: clusterTest uses testing/synctest
				net.setFate(func(_, _ string) []time.Duration { return []time.Duration{time.Millisecond} })
				net.take()
				b.wire.setCut(false) // reports a gap
				eventually(t, 500*time.Millisecond, all, keys...)
				time.Sleep(time.Second) // virtual: clusterTest uses testing/synctest
				if sent := net.take(); len(sent) > 12 {
					t.Errorf("%d messages were sent: %v", len(sent), kinds(sent))
				} else {
					t.Logf("messages: %v", kinds(sent))
				}
				for _, n := range all {
					n.check()
				}
			})
		})
	}
}
