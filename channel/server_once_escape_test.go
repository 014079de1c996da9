package channel_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"bennu.example/push"
)

// TestOnceEscapedName checks that a "$" that is escaped is the same, and that a payload which only
// looks as if it had an id is handled as always.
func TestOnceEscapedName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		b := onceBench(t, counted(&n, push.OnceConfig{}), annPhone)
		b.push("2", "add", object(`{"$id":"a"}`))
		b.want(reply("2", "ok", `{"text":"1a"}`))
		b.push("3", "add", object(`{"\u0024id":"a"}`))
		b.want(reply("3", "ok", `{"text":"1a"}`))
		b.push("4", "add", object(`{"text":"$id \u0024id","id":"a"}`))
		b.push("5", "add", object(`{"text":"C:\\id","id":"a"}`))
		b.take()
		b.end()
		if n.Load() != 3 {
			t.Errorf("%d runs, want 3", n.Load())
		}
	})
}
