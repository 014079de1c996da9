package statetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/state"
)

// lifetime is the lifetime of what expires. A store may count in milliseconds.
const lifetime = 100 * time.Millisecond

func itemsExpire(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.watch("o")
	begin := time.Now()
	a := n.apply("o", lasting(lifetime, put("short", `1`)), lasting(time.Hour, put("long", `1`)), put("ever", `1`))
	n.apply("o", lasting(lifetime, put("kept", `1`)))
	n.apply("o", lasting(0, put("kept", `2`)))
	n.apply("o", lasting(lifetime, put("deleted", `1`)))
	n.apply("o", del("deleted"))
	n.apply("o", put("deleted", `1`)) // it does not inherit the lifetime
	at, never := a.Items[0].Expires, a.Items[2].Expires
	if at.Before(begin) || at.After(time.Now().Add(2*lifetime)) || !never.IsZero() {
		t.Errorf("expires at %v and %v", at, never)
	}
	if at := n.apply("o", put("long", `2`)).Items[0].Expires; at.Before(begin.Add(time.Minute)) {
		t.Errorf("a put without a lifetime has changed it: %v", at)
	}
	<-time.After(2 * lifetime) // the lifetime is real time: the engine has a clock of its own
	if items := n.all("o"); len(items) != 4 {
		t.Errorf("what has expired is read, or more has expired: %v", items)
	}
	changes, err := n.since("o", a.Prev, 100)
	if err != nil || changes["short"].Deleted != state.ReasonExpired {
		t.Errorf("changes with an item that has expired: %v, %v", changes, err)
	}
	var conflict *state.ConflictError
	_, err = n.Apply(ctxOf(t), "o", []state.Op{when(a.Revs[0], del("short"))}, state.Tx{})
	if !errors.As(err, &conflict) || conflict.Rev != 0 {
		t.Errorf("a condition on an item that has expired: %v", err)
	}
	expire(t, n)
	n.await("the expiry", func(changes []state.Change, uncertain int) bool {
		for _, c := range changes {
			for _, it := range c.Items {
				if it.Deleted == state.ReasonExpired && it.Key == "short" && it.Rev > a.Position.Offset() {
					return true
				}
			}
		}
		return uncertain > 0
	})
	changes, err = n.since("o", a.Position, 100)
	if err != nil || changes["short"].Deleted != state.ReasonExpired || changes["kept"].Deleted != "" {
		t.Errorf("changes: %v, %v", changes, err)
	}
}

// expire deletes what has expired, which the store may have done already.
func expire(t *testing.T, n *node) {
	t.Helper()
	for {
		done, err := n.Expire(ctxOf(t), 100)
		if err != nil {
			t.Fatal(err)
		}
		if done < 100 {
			return
		}
	}
}

func objectsExpire(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.watch("o")
	a, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `1`)}, state.Tx{TTL: lifetime})
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.Read(ctxOf(t), "o", state.Range{}, "", 10)
	if err != nil || p.Expires.IsZero() || p.Expires.After(time.Now().Add(2*lifetime)) {
		t.Errorf("expires at %v, %v", p.Expires, err)
	}
	// The lifetime is that of the creation.
	if _, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `2`)}, state.Tx{TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * lifetime) // the lifetime is real time: the engine has a clock of its own
	if len(n.all("o")) != 0 || !n.top("o").IsBeginning() {
		t.Error("an object that has expired is read")
	}
	expire(t, n)
	n.await("the end of the object", func(changes []state.Change, uncertain int) bool {
		for _, c := range changes {
			if c.Gone == state.ReasonExpired && c.Object == "o" {
				return true
			}
		}
		return uncertain > 0
	})
	if _, err := n.since("o", a.Position, 10); !errors.Is(err, history.ErrEpoch) {
		t.Errorf("changes: %v", err)
	}
	if _, err := n.Apply(ctxOf(t), "o", nil, state.Tx{Create: state.ModeNew}); err != nil {
		t.Errorf("made again: %v", err)
	}
}

// expiryOnce lets many items expire, while all nodes look for them.
func expiryOnce(t *testing.T, e Engine) {
	nodes := []*node{start(t, e.Store)}
	if e.Node != nil {
		nodes = append(nodes, start(t, e.Node(t)))
	}
	n := nodes[0]
	n.watch("o")
	const items = 500
	for i := 0; i < items; i += 50 {
		var ops []state.Op
		for j := range 50 {
			ops = append(ops, lasting(lifetime, put(fmt.Sprint("k", i+j), `1`)))
		}
		n.apply("o", ops...)
	}
	<-time.After(2 * lifetime) // the lifetime is real time: the engine has a clock of its own
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 20 {
				if _, err := nodes[i%len(nodes)].Expire(ctxOf(t), 37); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, m := range nodes {
		expire(t, m)
	}
	deletions := func(changes []state.Change) map[string]uint64 {
		seen := make(map[string]uint64)
		for _, c := range changes {
			for _, it := range c.Items {
				if it.Deleted != "" {
					if rev, ok := seen[it.Key]; ok && rev != it.Rev {
						t.Errorf("%s has expired twice", it.Key)
					}
					seen[it.Key] = it.Rev
				}
			}
		}
		return seen
	}
	n.await("all deletions", func(changes []state.Change, uncertain int) bool {
		return len(deletions(changes)) == items || uncertain > 0
	})
}

func remove(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.watch("o")
	a, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `1`)}, state.Tx{ID: "once"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(ctxOf(t), "o", ""); err != nil {
		t.Fatal(err)
	}
	n.await("the end of the object", func(changes []state.Change, uncertain int) bool {
		for _, c := range changes {
			if c.Gone == state.ReasonRemoved && c.Object == "o" {
				return true
			}
		}
		return uncertain > 0
	})
	if err := n.Remove(ctxOf(t), "o", ""); !errors.Is(err, state.ErrNotFound) || len(n.all("o")) != 0 {
		t.Errorf("removed again: %v", err)
	}
	again := n.apply("o", put("b", `1`))
	if again.Position.Epoch() == a.Position.Epoch() || !again.Prev.IsBeginning() || len(n.all("o")) != 1 {
		t.Errorf("made again: %+v", again)
	}
}

// feeds checks what is fed of sequential writes.
func feeds(t *testing.T, e Engine) {
	n := start(t, e.Store)
	for _, object := range []string{"o", "p"} {
		n.watch(object)
	}
	var want []state.Applied
	for i := range 50 {
		want = append(want, n.apply("o", put("a", number(i)), put("b", number(i))))
		n.apply("p", put("a", number(i)))
	}
	n.await("all changes", func(changes []state.Change, uncertain int) bool {
		fed := make(map[history.Position]state.Change)
		for _, c := range changes {
			if c.Object == "o" {
				fed[c.Position] = c
			}
		}
		for _, a := range want {
			c, ok := fed[a.Position]
			if !ok {
				return uncertain > 0
			}
			if c.Prev != a.Prev || len(c.Items) != 2 || c.Items[1].Rev != a.Revs[1] || c.Gone != "" ||
				string(c.Items[0].Value) != string(a.Items[0].Value) {
				t.Errorf("fed %+v, want %+v", c, a)
			}
		}
		return true
	})
}

// watchThenRead watches an object while it is written. A copy that was read then, and all changes
// that are fed after it, are the whole object.
func watchThenRead(t *testing.T, e Engine) {
	n := start(t, e.Store)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if i > 5000 {
				time.Sleep(time.Millisecond) // the reader is slow, and each change is kept for it
			}
			ops := []state.Op{put(fmt.Sprint("k", i%50), number(i))}
			if _, err := n.Apply(ctxOf(t), "o", ops, state.Tx{}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for n.top("o").IsBeginning() && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // the writer needs the processor
	}
	n.watch("o")
	at := n.top("o")
	copied := make(map[string]state.Item)
	for key, it := range n.all("o") {
		copied[key] = it
	}
	n.await("some changes", func(changes []state.Change, uncertain int) bool {
		return len(changes) > 100 || uncertain > 0
	})
	cancel()
	wg.Wait()
	top := n.top("o")
	n.await("the last change", func(changes []state.Change, uncertain int) bool {
		next := make(map[history.Position]state.Change)
		for _, c := range changes {
			if c.Object == "o" {
				next[c.Prev] = c
			}
		}
		for at != top {
			c, ok := next[at]
			if !ok {
				return uncertain > 0
			}
			for _, it := range c.Items {
				if copied[it.Key].Rev < it.Rev {
					copied[it.Key] = it
				}
			}
			at = c.Position
		}
		equal(t, copied, n.all("o"))
		return true
	})
	n.Unwatch("o")
	n.watch("o")
}

func run(t *testing.T, e Engine) {
	n := start(t, e.Store)
	n.watch("o")
	n.apply("o", put("a", `1`))
	if h := n.Health(); !h.Connected || h.Err != nil || h.Appended == 0 {
		t.Errorf("%+v", h)
	}
	n.stop()
}

func restart(t *testing.T, e Engine) {
	if e.Restart == nil {
		t.Skip("no Restart")
	}
	n := start(t, e.Store)
	a, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `1`), put("b", `1`)}, state.Tx{ID: "once"})
	if err != nil {
		t.Fatal(err)
	}
	n.apply("o", del("a"))
	before := n.all("o")
	n.stop()
	n = start(t, e.Restart(t))
	changes, err := n.since("o", a.Position, 10)
	if !e.Durable {
		if !errors.Is(err, history.ErrEpoch) || len(n.all("o")) != 0 {
			t.Errorf("something survived: %v, %v", changes, err)
		}
		return
	}
	equal(t, n.all("o"), before)
	if err != nil || changes["a"].Deleted == "" {
		t.Errorf("changes: %v, %v", changes, err)
	}
	again, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `1`)}, state.Tx{ID: "once"})
	if err != nil || !again.Repeated || again.Position != a.Position {
		t.Errorf("repeated: %+v, %v", again, err)
	}
}

// rollback loses writes. A position behind them must not be continued, also when as much was
// written again.
func rollback(t *testing.T, e Engine) {
	if e.Rollback == nil {
		t.Skip("no Rollback")
	}
	n := start(t, e.Store)
	kept := n.apply("o", put("a", `1`)).Position
	n.apply("o", put("b", `1`))
	lost := n.apply("o", put("a", `2`)).Position
	e.Rollback(t, "o", 2)
	lostToo := func(err error) bool { return errors.Is(err, history.ErrTag) || errors.Is(err, history.ErrAhead) }
	if _, err := n.since("o", lost, 10); !lostToo(err) {
		t.Errorf("a lost position: %v", err)
	}
	if items, err := n.since("o", kept, 10); err != nil || len(items) != 0 {
		t.Errorf("a position that was kept: %v, %v", items, err)
	}
	n.apply("o", put("c", `1`))
	n.apply("o", put("d", `1`))
	if _, err := n.since("o", lost, 10); !lostToo(err) {
		t.Errorf("a lost position, written again: %v", err)
	}
}

// frozen calls the methods of a store whose engine does not answer.
func frozen(t *testing.T, e Engine) {
	if e.Freeze == nil {
		t.Skip("no Freeze")
	}
	n := start(t, e.Store)
	a := n.apply("o", put("a", `1`))
	thaw := e.Freeze(t)
	for name, f := range map[string]func(ctx context.Context) error{
		"apply": func(ctx context.Context) error {
			_, err := n.Apply(ctx, "o", []state.Op{put("a", `2`)}, state.Tx{ID: "once"})
			return err
		},
		"read": func(ctx context.Context) error {
			_, err := n.Read(ctx, "o", state.Range{}, "", 10)
			return err
		},
		"changes": func(ctx context.Context) error {
			_, err := n.Changes(ctx, "o", a.Position, state.Range{}, 10)
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		begin := time.Now()
		if err := f(ctx); !errors.Is(err, history.ErrUnavailable) || time.Since(begin) > patience/2 {
			t.Errorf("%s: %v after %v", name, err, time.Since(begin))
		}
		cancel()
	}
	thaw()
	if _, err := n.Apply(ctxOf(t), "o", []state.Op{put("a", `2`)}, state.Tx{ID: "once"}); err != nil {
		t.Errorf("after the thaw: %v", err)
	}
}
