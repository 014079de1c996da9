package presence_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/presence"
)

// leaver is an owner whose context has a cause, like that of a channel.
type leaver struct {
	owner
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newLeaver() *leaver {
	l := new(leaver)
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

func (l *leaver) Context() context.Context { return l.ctx }

func (l *leaver) endBecause(cause error) {
	l.cancel(cause)
	l.end()
}

// TestGrace has owners end and their keys be tracked again within the grace period. No diff is sent
// if the meta is the same, and an update otherwise.
func TestGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, presence.Config{Grace: 10 * time.Second})
		tab := device{"device": "tab"}
		a := newLeaver()
		ref := n.track(a, "u1", tab)
		n.take(&n.names)

		a.endBecause(channel.ErrClosed)
		time.Sleep(9 * time.Second)
		n.wantList(`{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}}`)
		a = newLeaver()
		if got := n.track(a, "u1", tab); got != ref {
			t.Errorf("ref %s instead of %s", got, ref)
		}
		n.want()
		time.Sleep(time.Minute)
		n.want()

		a.endBecause(channel.ErrClosed) // the timer of the first grace period does not end this one
		time.Sleep(9 * time.Second)
		a = newLeaver()
		n.track(a, "u1", device{"device": "phone"})
		n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"B","phx_ref_prev":"A","device":"phone"}]}},` +
			`"leaves":{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}}}`)

		b := newLeaver()
		n.track(b, "u1", tab)
		n.take(&n.names)
		a.endBecause(channel.ErrClosed)
		b.endBecause(channel.ErrClosed)
		n.track(newLeaver(), "u1", tab) // replaces the presence with the same meta, not the older one
		n.want()
		time.Sleep(9999 * time.Millisecond)
		n.want()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		n.want(`{"joins":{},"leaves":{"u1":{"metas":[{"phx_ref":"B","phx_ref_prev":"A","device":"phone"}]}}}`)

		for _, cause := range []error{channel.ErrLeft, channel.ErrStop} {
			c := newLeaver()
			n.track(c, "u2", nil)
			n.take(&n.names)
			c.endBecause(cause)
			if n.Count(topic) != 1 {
				t.Errorf("%v: still present", cause)
			}
			n.take(&n.names)
		}
		plain := new(owner)
		n.track(plain, "u3", nil)
		plain.end()
		n.UntrackAll(plain)
		if n.Count(topic) != 2 {
			t.Error("there was no grace period")
		}
		time.Sleep(time.Minute)
		if n.Count(topic) != 1 {
			t.Error("present after the grace period")
		}
		n.check()
	})
}

// TestGraceOnAnotherNode has a key be tracked on another node within the grace period. All nodes
// list it throughout, and in the end with one meta.
func TestGraceOnAnotherNode(t *testing.T) {
	clusterTest(t, func(t *testing.T, net *network) {
		with := func(c *presence.Config) { c.Grace = 10 * time.Second }
		a, b, c := net.join(t, "a", with), net.join(t, "b", with), net.join(t, "c")
		all := []*node{a, b, c}
		l := newLeaver()
		a.track(l, "u1", device{"device": "tab"})
		eventually(t, 2*time.Second, all, "u1")
		for _, n := range all {
			n.take(&n.names)
		}
		l.endBecause(channel.ErrClosed)
		time.Sleep(5 * time.Second)
		b.track(newLeaver(), "u1", device{"device": "tab"})
		for range 20 {
			time.Sleep(10 * time.Millisecond)
			eventually(t, 0, all, "u1")
		}
		for _, n := range all {
			n.refs = nil
			n.wantList(`{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}}`)
			n.check()
		}
	})
}

// TestWindow collects the changes of a large room into one diff. Presences that joined and left
// within the window are not in it.
func TestWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, presence.Config{Window: time.Second, WindowFrom: 3})
		o := new(owner)
		n.track(o, "u1", nil)
		n.track(o, "u2", nil)
		n.want(
			`{"joins":{"u1":{"metas":[{"phx_ref":"A"}]}},"leaves":{}}`,
			`{"joins":{"u2":{"metas":[{"phx_ref":"B"}]}},"leaves":{}}`,
		)
		n.track(o, "u3", nil)
		n.UntrackFor(o, topic, "u1")
		n.UpdateFor(o, topic, "u2", device{"v": 1})
		n.UpdateFor(o, topic, "u2", device{"v": 2})
		n.track(o, "u4", nil)
		n.UntrackFor(o, topic, "u4")
		n.track(o, "u5", nil)
		n.UpdateFor(o, topic, "u5", device{"v": 1})
		n.want()
		n.wantListOnly(`{"u2":{"metas":[{"phx_ref":"C","phx_ref_prev":"D","v":2}]},"u3":{"metas":[{"phx_ref":"E"}]},` +
			`"u5":{"metas":[{"phx_ref":"F","phx_ref_prev":"G","v":1}]}}`)
		time.Sleep(time.Second)
		synctest.Wait()
		n.want(`{"joins":{"u3":{"metas":[{"phx_ref":"E"}]},` +
			`"u2":{"metas":[{"phx_ref":"C","phx_ref_prev":"B","v":2}]},"u5":{"metas":[{"phx_ref":"F","v":1}]}},` +
			`"leaves":{"u1":{"metas":[{"phx_ref":"A"}]},"u2":{"metas":[{"phx_ref":"B"}]}}}`)
		n.check()

		n.track(o, "u6", nil)
		n.UntrackFor(o, topic, "u6")
		time.Sleep(time.Second)
		synctest.Wait()
		n.want()
		o.end()
		time.Sleep(time.Second)
		n.check()
		if got := n.Rooms(); got > 0 {
			t.Errorf("%d topics left", got)
		}
	})
}

// TestPage pages through a room while keys join and leave. Keys that stay appear exactly once.
func TestPage(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{})
	o := new(owner)
	for i := range 100 {
		n.track(o, fmt.Sprint(i), nil)
	}
	var got []string
	cursor, pages := "", 0
	for {
		page, next := n.Page(topic, cursor, 7)
		for key := range page.All() {
			got = append(got, key)
		}
		if page.Len() > 7 {
			t.Fatalf("%d on a page", page.Len())
		}
		if pages++; next == "" {
			break
		}
		cursor = next
		n.UntrackFor(o, topic, got[len(got)-1]) // the key to which the cursor points
		n.UntrackFor(o, topic, fmt.Sprint(100-pages))
		n.track(o, fmt.Sprint("new", pages), nil)
	}
	for i := range 100 - pages {
		if !slices.Contains(got, fmt.Sprint(i)) {
			t.Errorf("%d is on no page", i)
		}
	}
	if slices.Sort(got); len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Error("a key is on two pages")
	}
	for _, bad := range []string{"x", "1.2", ".", "1", "-1.-1", cursor + "x"} {
		if page, _ := n.Page(topic, bad, 3); page.Len() != 3 {
			t.Errorf("%q: %d on the page", bad, page.Len())
		}
	}
	if page, next := n.Page("room:8", "", 3); page.Len() != 0 || next != "" {
		t.Errorf("empty topic: %d on the page, next %q", page.Len(), next)
	}
	n.UntrackAll(o)
	n.track(o, "again", nil)
	if page, next := n.Page(topic, cursor, 3); page.Len() != 1 || next != "" {
		t.Errorf("after all have left: %d on the page, next %q", page.Len(), next)
	}
}

// TestOnline checks that the index, which the first call builds, follows later changes.
func TestOnline(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{})
	a, b := new(owner), new(owner)
	n.track(a, "u1", nil)
	check := func(want ...string) {
		t.Helper()
		if got := n.Online("u1", "u2", "u3"); !slices.Equal(got, want) {
			t.Errorf("online: %q instead of %q", got, want)
		}
	}
	check("u1")
	n.track(b, "u1", nil)
	n.TrackFor(b, "room:8", "u1", nil)
	n.TrackFor(b, "room:8", "u2", nil)
	check("u1", "u2")
	n.UntrackFor(a, topic, "u1")
	n.UpdateFor(b, topic, "u1", device{"v": 1})
	check("u1", "u2")
	n.UntrackFor(b, topic, "u1")
	check("u1", "u2")
	b.end()
	check()
}
