package socket

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeartbeatRate checks that heartbeats have a rate of their own, which is far above that of any
// real client.
func TestHeartbeatRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, Config{MessageRate: 1})
		count := func(n int) (ok, refused int) {
			for range n {
				l.send(`[null,"1","phoenix","heartbeat",{}]`)
			}
			synctest.Wait()
			all := strings.Join(l.frames, "\n")
			l.frames = nil
			return strings.Count(all, `"ok"`), strings.Count(all, `"too many messages"`)
		}
		if ok, refused := count(1000); ok != 2*maxHeartbeats || refused != 1000-ok {
			t.Errorf("%d replies, %d refused", ok, refused)
		}
		time.Sleep(time.Second)
		if ok, refused := count(1000); ok != maxHeartbeats || refused != 1000-ok {
			t.Errorf("a second later: %d replies, %d refused", ok, refused)
		}
		if l.logged("too many heartbeats") != 1 || l.h.Stats().FastMessages != 2000-3*maxHeartbeats {
			t.Errorf("log: %s, stats: %+v", l.log, l.h.Stats())
		}
		l.s.Closed(nil)
	})
}
