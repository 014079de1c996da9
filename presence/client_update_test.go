package presence_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/presence"
)

// replacing is long for metas with phx_ref_prev: "u1:2<1" replaces the meta 1 of u1.
func replacing(short string) string {
	raw := long(short)
	for {
		before, after, ok := strings.Cut(raw, "<")
		if !ok {
			return raw
		}
		raw = before + `","phx_ref_prev":"` + after
	}
}

// TestClientUpdate checks which metas of a diff and of a state count as updates, and the order of
// the callbacks.
func TestClientUpdate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ state, joins, leaves, calls string }{
		"one":                  {"u1:1", "u1:2<1", "u1:1", "u1 [1] +2; u1 [2] -1; u1 [2] 1>2"},
		"one of several metas": {"u1:1,5", "u1:2<1", "u1:1", "u1 [1,5] +2; u1 [5,2] -1; u1 [5,2] 1>2"},
		"two keys": {"a:1 b:2", "a:3<1 b:4<2", "a:1 b:2",
			"a [1] +3; b [2] +4; a [3] -1; b [4] -2; a [3] 1>3; b [4] 2>4"},
		"a join beside it":       {"u1:1", "u1:2<1,7", "u1:1", "u1 [1] +2,7; u1 [2,7] -1; u1 [2,7] 1>2"},
		"without phx_ref_prev":   {"u1:1", "u1:2", "u1:1", "u1 [1] +2; u1 [2] -1"},
		"the old one stays":      {"u1:1", "u1:2<1", "", "u1 [1] +2"},
		"the old one is unknown": {"u1:9", "u1:2<1", "u1:1", "u1 [9] +2; u1 [9,2] -1"},
		"another key":            {"u1:1 u2:5", "u2:2<1", "u1:1", "u2 [5] +2; u1 [] -1"},
		"a chain":                {"u1:1", "u1:2<1,3<2,4<3", "u1:1,2,3", "u1 [1] +2,3,4; u1 [4] -1,2,3; u1 [4] 1>4"},
		"a chain backwards":      {"u1:1", "u1:4<3,3<2,2<1", "u1:3,1,2", "u1 [1] +4,3,2; u1 [4] -3,1,2; u1 [4] 1>4"},
		"a chain that ends":      {"u1:1,9", "u1:2<1,3<2", "u1:1,2,3", "u1 [1,9] +2,3; u1 [9] -1,2,3"},
		"a gap in a chain":       {"u1:1", "u1:3<2", "u1:1,2", "u1 [1] +3; u1 [3] -1,2"},
		"a cycle":                {"u1:9", "u1:2<3,3<2,4<2", "u1:2,3", "u1 [9] +2,3,4; u1 [9,4] -2,3"},
		"its own predecessor":    {"u1:9", "u1:2<2", "", "u1 [9] +2"},
		"replaced by two":        {"u1:1", "u1:2<1,3<1", "u1:1", "u1 [1] +2,3; u1 [2,3] -1; u1 [2,3] 1>2"},
	} {
		c := presence.NewLooseClient(zerolog.Nop())
		c.Receive("1", presence.EventState, long(test.state))
		j := follow(c)
		off := c.OnUpdate(func(key string, current presence.Entry, old, updated presence.Meta) {
			j.lines = append(j.lines, fmt.Sprintf("%s [%s] %s>%s", key, refsOf(current), old.Ref, updated.Ref))
		})
		diff := fmt.Sprintf(`{"joins":%s,"leaves":%s}`, replacing(test.joins), replacing(test.leaves))
		c.Receive("1", presence.EventDiff, diff)
		if got := j.take(); got != test.calls+"; sync" {
			t.Errorf("%s: called %q, want %q", name, got, test.calls+"; sync")
		}
		c.Receive("1", presence.EventDiff, diff) // again: nothing is replaced
		if got := j.take(); strings.Contains(got, ">") {
			t.Errorf("%s, again: called %q", name, got)
		}
		off()
		c.Receive("1", presence.EventDiff, fmt.Sprintf(`{"joins":%s,"leaves":%s}`, replacing("u1:8<2"), long("u1:2")))
		if got := j.take(); strings.Contains(got, ">") {
			t.Errorf("%s, after off: called %q", name, got)
		}
	}
}

// TestClientUpdateAfterRejoin checks that what was updated while the client was away is an update.
func TestClientUpdateAfterRejoin(t *testing.T) {
	t.Parallel()
	c := presence.NewLooseClient(zerolog.Nop())
	var calls []string
	c.OnUpdate(func(key string, current presence.Entry, old, updated presence.Meta) {
		calls = append(calls, fmt.Sprintf("%s [%s] %s>%s", key, refsOf(current), old.Ref, updated.Ref))
	})
	c.Receive("1", presence.EventState, long("u1:1 u2:5"))
	c.Receive("2", presence.EventDiff, fmt.Sprintf(`{"joins":%s,"leaves":%s}`, replacing("u2:6<5"), long("u2:5")))
	c.Receive("2", presence.EventState, replacing("u1:2<1 u2:5"))
	if got := strings.Join(calls, "; "); got != "u1 [2] 1>2; u2 [6] 5>6" {
		t.Errorf("called %q", got)
	}
}
