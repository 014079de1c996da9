package presence_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// What was sent while another node was not there yet reaches it soon after it is told of its gap, though its sender knows of none.
func TestGapOfOne(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string][]string{"one way": {"a"}, "both ways": {"a", "b"}} {
		synctest.Test(t, func(t *testing.T) {
			var net network
			a, b, c := net.join(t, "a"), net.join(t, "b"), net.join(t, "c")
			all := []*node{a, b, c}
			a.track(new(owner), "before", nil)
			eventually(t, 2*time.Second, all, "before")
			time.Sleep(10 * time.Second)
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
			time.Sleep(time.Second)
			net.setFate(func(_, _ string) []time.Duration { return []time.Duration{time.Millisecond} })
			net.take()
			b.wire.setCut(false) // is told of a gap
			eventually(t, 500*time.Millisecond, all, keys...)
			time.Sleep(time.Second)
			if sent := net.take(); len(sent) > 12 {
				t.Errorf("%s: it took %d messages: %v", name, len(sent), kinds(sent))
			} else {
				t.Logf("%s: it took %v", name, kinds(sent))
			}
			for _, n := range all {
				n.check()
			}
		})
	}
}
