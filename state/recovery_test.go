package state_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"bennu.example/state"
)

// position returns the last position that a client received.
func position(events []message) string {
	last := ""
	for _, m := range events {
		if p, ok := m.Payload["$pos"].(string); ok {
			last = p
		}
	}
	return last
}

func TestRecovery(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a := r.dial()
	_, events := a.join("map:1", `{}`)
	beginning := position(events)
	a.ok("map:1", "batch", `{"ops":[{"op":"put","key":"a","value":1},{"op":"put","key":"b","value":1}]}`)
	a.ok("map:1", "put", `{"key":"c","value":1}`)
	b := r.dial()
	_, events = b.join("map:1", `{}`)
	since := position(events)
	for _, payload := range []string{`{"key":"a","value":2}`, `{"key":"a","value":3}`, `{"key":"d","value":1}`} {
		a.ok("map:1", "put", payload)
	}
	a.ok("map:1", "del", `{"key":"b"}`)
	join := func(since string) string {
		t.Helper()
		c := r.dial()
		st, events := c.join("map:1", `{"since":"`+since+`"}`)
		got := ""
		for _, name := range []string{"recovered", "why", "pos", "more", "items"} {
			if v, ok := st[name]; ok {
				got += " " + name + "=" + text(v)
			}
		}
		for _, m := range events {
			got += "\n" + m.Event + " " + text(m.Payload)
		}
		return plain(got)
	}
	items := `[{"key":"a","rev":5,"value":3},{"key":"c","rev":3,"value":1},{"key":"d","rev":6,"value":1}]`
	all := ` pos="@7" items=` + items + "\n" + `synced {"$pos":"@7"}`
	tag := since[len(since)-4:]
	other := "0z0z"
	if tag == other {
		other = "z0z0"
	}
	epoch := since[:12]
	for _, test := range []struct{ name, since, want string }{
		{"the middle", since, ` recovered=true pos="@3" more=true` + "\n" +
			`items {"$pos":"@7","items":[{"key":"a","rev":5,"value":3},{"key":"d","rev":6,"value":1},` +
			`{"del":"deleted","key":"b","rev":7}]}` + "\n" + `synced {"$pos":"@7"}`},
		{"the beginning", beginning, ` recovered=true pos="@0" more=true` + "\n" +
			`items {"$pos":"@7","items":[{"key":"c","rev":3,"value":1},{"key":"a","rev":5,"value":3},` +
			`{"key":"d","rev":6,"value":1},{"del":"deleted","key":"b","rev":7}]}` + "\n" + `synced {"$pos":"@7"}`},
		{"another tag", since[:len(since)-4] + other, ` recovered=false why="tag"` + all},
		{"ahead", epoch + "-8-0z0z", ` recovered=false why="ahead"` + all},
		{"another epoch", "zzzzzzzzzzzz-3-0z0z", ` recovered=false why="epoch"` + all},
	} {
		if got := join(test.since); got != test.want {
			t.Errorf("%s:\ngot %s\nwant%s", test.name, got, test.want)
		}
	}
	_, events = r.dial().join("map:1", `{}`)
	if got := join(position(events)); got != ` recovered=true pos="@7"`+"\n"+`synced {"$pos":"@7"}` {
		t.Errorf("the top: %s", got)
	}
	if err := r.objects.Remove(t.Context(), "map:1"); err != nil {
		t.Fatal(err)
	}
	if got := join(since); got != ` recovered=false why="epoch" pos="@0" items=[]`+"\n"+`synced {"$pos":"@0"}` {
		t.Errorf("removed: %s", got)
	}
}

func TestTrimmedPosition(t *testing.T) {
	t.Parallel()
	r := serve(t, state.New(state.NewMemory(state.MemoryConfig{})),
		state.Config{Allow: allowAll, Limits: state.Limits{Changes: 5}})
	a := r.dial()
	a.join("doc:1", `{"value":0}`)
	_, events := a.join("map:1", `{}`)
	var all []string
	for i := range 10 {
		a.send("map:1", "put", fmt.Sprintf(`{"key":"k","value":%d}`, i))
		for all = append(all, ""); all[i] == ""; {
			m := a.next()
			all[i] = position([]message{m})
		}
	}
	for i, pos := range append([]string{position(events)}, all...) {
		st, _ := r.dial().join("map:1", `{"since":"`+pos+`"}`)
		if got, want := st["recovered"] == true, i > 5; got != want || !want && st["why"] != "trimmed" {
			t.Errorf("after %d of 10 writes: %v", i, st)
		}
	}
}

// TestPages has an object of several pages, also while it is written.
func TestPages(t *testing.T) {
	t.Parallel()
	r := memory(t)
	var ops []state.Op
	const n = 1000
	for i := range n {
		ops = append(ops, state.Op{Key: fmt.Sprintf("k%04d", i), Value: []byte(`1`)})
	}
	tx := state.Tx{Limits: state.Limits{Batch: n}}
	if _, err := r.objects.Apply(t.Context(), "map:1", ops, tx); err != nil {
		t.Fatal(err)
	}
	c := r.dial()
	st, events := c.join("map:1", `{}`)
	if st["more"] != true || st["pos"] != nil || len(st["items"].([]any)) != 256 {
		t.Errorf("more %v, pos %v, %d items", st["more"], st["pos"], len(st["items"].([]any)))
	}
	got := len(st["items"].([]any))
	for _, m := range events[:len(events)-1] {
		if m.Event != "items" || m.Payload["$pos"] != nil {
			t.Errorf("%.100s", m)
			continue
		}
		got += len(m.Payload["items"].([]any))
	}
	if got != n || plain(text(events[len(events)-1].Payload)) != `{"$pos":"@1000"}` {
		t.Errorf("%d items, then %s", got, events[len(events)-1])
	}
	large := strings.Repeat("x", 40<<10)
	for i := range 4 {
		c.ok("map:1", "put", fmt.Sprintf(`{"key":"large%d","value":"%s"}`, i, large))
	}
	st, events = r.dial().join("map:1", `{"keys":{"prefix":"large"}}`)
	if len(st["items"].([]any)) != 2 || len(events) != 2 { // a page ends after 64 KiB
		t.Errorf("%d items, then %d events", len(st["items"].([]any)), len(events))
	}
}

// TestRanges has clients that receive a part of the keys.
func TestRanges(t *testing.T) {
	t.Parallel()
	r := memory(t)
	w := r.dial()
	w.join("map:1", `{}`)
	w.ok("map:1", "batch", `{"ops":[{"op":"put","key":"a/1","value":1},{"op":"put","key":"b/1","value":1}]}`)
	c, d := r.dial(), r.dial()
	st, events := c.join("map:1", `{"keys":{"prefix":"a/"}}`)
	if plain(text(st["items"])) != `[{"key":"a/1","rev":1,"value":1}]` || plain(st["pos"]) != plain(position(events)) {
		t.Errorf("%s", text(st))
	}
	d.join("map:1", `{"keys":{"from":"a/2","to":"b/2"}}`)
	w.ok("map:1", "batch", `{"ops":[{"op":"put","key":"a/1","value":2},`+
		`{"op":"put","key":"a/2","value":2},{"op":"del","key":"b/1"},`+
		`{"op":"put","key":"b/2","value":2}]}`)
	w.ok("map:1", "put", `{"key":"c","value":1}`)
	w.ok("map:1", "put", `{"key":"a/1","value":3}`)
	play(t, c, "map:1",
		[2]string{"<", `batch {"$pos":"@6","items":[{"key":"a/1","rev":3,"value":2},{"key":"a/2","rev":4,"value":2}]}`},
		[2]string{"<", `put {"$pos":"@8","key":"a/1","rev":8,"value":3}`},
	)
	play(t, d, "map:1",
		[2]string{"<", `batch {"$pos":"@6","items":[{"key":"a/2","rev":4,"value":2},{"del":"deleted","key":"b/1","rev":5}]}`},
	)
	for range 255 { // with the first of them 257: a client without changes receives its position
		w.ok("map:1", "put", `{"key":"z","value":1}`)
	}
	play(t, d, "map:1", [2]string{"<", `synced {"$pos":"@262"}`})
	st, events = r.dial().join("map:1", `{"keys":{"prefix":"a/"},"since":"`+position(events)+`"}`)
	if st["recovered"] != true || len(events) != 2 || len(events[0].Payload["items"].([]any)) != 2 ||
		plain(text(events[1].Payload)) != `{"$pos":"@263"}` {
		t.Errorf("%v %v", st, events)
	}
}

// TestLeave has clients that leave and come back.
func TestLeave(t *testing.T) {
	t.Parallel()
	r := memory(t)
	a, b := r.dial(), r.dial()
	for i := range 5 {
		a.join("doc:1", `{}`)
		b.join("doc:1", `{}`)
		a.ok("doc:1", "put", fmt.Sprint(`{"value":`, i, `}`))
		play(t, b, "doc:1", [2]string{"<", fmt.Sprintf(`put {"$pos":"@%d","rev":%d,"value":%d}`, i+1, i+1, i)})
		if status, _, _ := a.push("doc:1", "phx_leave", `{}`); status != "ok" {
			t.Error("cannot leave")
		}
		if m := a.next(); m.Event != "phx_close" {
			t.Error(m)
		}
		if status, _, _ := b.push("doc:1", "phx_leave", `{}`); status != "ok" {
			t.Error("cannot leave")
		}
		if m := b.next(); m.Event != "phx_close" {
			t.Error(m)
		}
	}
}

// flicker is a store with an object that exists only while its first page is read.
type flicker struct {
	state.Store
	times int
}

func (s *flicker) Read(ctx context.Context, object string, r state.Range, next string, limit int) (state.Page, error) {
	if limit == 0 || s.times == 0 {
		return s.Store.Read(ctx, object, r, next, limit)
	}
	s.times--
	if _, err := s.Store.Apply(ctx, object, []state.Op{{Key: "a", Value: []byte(`1`)}}, state.Tx{}); err != nil {
		return state.Page{}, err
	}
	p, err := s.Store.Read(ctx, object, r, next, limit)
	return p, errors.Join(err, s.Remove(ctx, object, ""))
}

// TestRemovedWhileJoining has an object that is made and removed while a client joins. The client
// must not keep what it had.
func TestRemovedWhileJoining(t *testing.T) {
	t.Parallel()
	for _, times := range []int{1, 3, 1000} {
		store := &flicker{Store: state.NewMemory(state.MemoryConfig{}), times: times}
		r := serve(t, run(t, state.New(store)), state.Config{Allow: allowAll})
		status, response, _ := r.dial().push("map:1", "phx_join", `{}`)
		got := plain(status + " " + text(response))
		want := `ok {"$state":{"items":[],"kind":"map",` + mapLimits + `,"pos":"@0","recovered":false,"why":"new"}}`
		if times == 1000 {
			want = `error {"reason":"unavailable"}`
		}
		if got != want {
			t.Errorf("%d times: %s", times, got)
		}
	}
}
