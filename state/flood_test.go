package state_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/state"
)

// TestMemoryIsBounded floods a store by writes. Its memory stays below its bound, and everything
// that was stored can be read.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const bound = 4 << 20
	m := state.NewMemory(state.MemoryConfig{MaxBytes: bound})
	value := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored, refused := make(map[string]bool), 0
	for w := range 4 {
		wg.Go(func() {
			for i := range 3000 {
				object, key := fmt.Sprint("o", i%50), fmt.Sprint(w, "/", i)
				_, err := m.Apply(t.Context(), object, []state.Op{{Key: key, Value: value}}, state.Tx{ID: key})
				mu.Lock()
				switch {
				case err == nil:
					stored[object+" "+key] = true
				case errors.Is(err, state.ErrQuota):
					refused++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if refused == 0 || len(stored)*1000 > bound || len(stored)*1500 < bound/2 {
		t.Errorf("%d were stored, %d refused", len(stored), refused)
	}
	found := 0
	for i := range 50 {
		for next := ""; ; {
			p, err := m.Read(t.Context(), fmt.Sprint("o", i), state.Range{}, next, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range p.Items {
				if stored[fmt.Sprint("o", i)+" "+it.Key] {
					found++
				}
			}
			if next = p.Next; next == "" {
				break
			}
		}
	}
	if found != len(stored) {
		t.Errorf("%d of %d can be read", found, len(stored))
	}
	for i := range 50 { // what was removed makes room
		if err := m.Remove(t.Context(), fmt.Sprint("o", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 {
		if _, err := m.Apply(t.Context(), "again", []state.Op{{Key: fmt.Sprint(i), Value: value}}, state.Tx{}); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
}

// TestChurnIsBounded writes one object for long. The store remembers a bounded part of it.
func TestChurnIsBounded(t *testing.T) {
	t.Parallel()
	m := state.NewMemory(state.MemoryConfig{MaxBytes: 1 << 20})
	for i := range 50_000 {
		op := state.Op{Key: fmt.Sprint("k", i%700), Value: []byte(`1`)}
		if i/700%2 == 1 {
			op = state.Op{Key: op.Key, Delete: true}
		}
		if _, err := m.Apply(t.Context(), "o", []state.Op{op}, state.Tx{ID: fmt.Sprint(i)}); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
}

// TestRemovalsAreBounded removes objects with IDs for long. The store remembers the last ones.
func TestRemovalsAreBounded(t *testing.T) {
	t.Parallel()
	m := state.NewMemory(state.MemoryConfig{MaxBytes: 1 << 20})
	write := func(object, id string) {
		if _, err := m.Apply(t.Context(), object, []state.Op{{Key: "a", Value: []byte(`1`)}}, state.Tx{}); err != nil {
			t.Fatalf("write before %s: %v", id, err)
		}
	}
	for i := range 20_000 {
		object, id := fmt.Sprint("o", i%7), fmt.Sprint(i)
		write(object, id)
		if err := m.Remove(t.Context(), object, id); err != nil {
			t.Fatalf("removal %s: %v", id, err)
		}
	}
	if err := m.Remove(t.Context(), "o1", "1"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the oldest one: %v", err)
	}
	for i := 19_000; i < 20_000; i++ {
		if err := m.Remove(t.Context(), fmt.Sprint("o", i%7), fmt.Sprint(i)); err != nil {
			t.Fatalf("the repeated removal %d: %v", i, err)
		}
	}
}

// TestManyExpire has items that expire at one time, without a timer or a goroutine for each.
func TestManyExpire(t *testing.T) { // not parallel: it counts goroutines
	m := state.NewMemory(state.MemoryConfig{})
	const n = 100_000
	fed, ready := make(chan int, n), make(chan error, 1)
	run(t, state.New(feedCount{m, fed}))
	m.Watch("o0", func(err error) { ready <- err })
	<-ready
	before := runtime.NumGoroutine()
	ttl := 500 * time.Millisecond
	for i := 0; i < n; i += 100 {
		ops := make([]state.Op, 100)
		for j := range ops {
			ops[j] = state.Op{Key: fmt.Sprint("k", i+j), Value: []byte(`1`), TTL: &ttl}
		}
		if _, err := m.Apply(t.Context(), fmt.Sprint("o", i/10_000), ops, state.Tx{}); err != nil {
			t.Fatal(err)
		}
	}
	if now := runtime.NumGoroutine(); now > before+50 {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	left, begun := n, time.Now()
	for limit := time.After(30 * time.Second); left > 0; {
		select {
		case k := <-fed:
			left -= k
		case <-limit:
			t.Fatalf("%d have not expired", left)
		}
	}
	t.Logf("the last of %d has expired %v after the last write, whose time to live is %v", n, time.Since(begun), ttl)
	if left != 0 {
		t.Errorf("%d have expired twice", -left)
	}
}

// TestForgedJoins has joins of objects that do not exist, and of positions that do not.
func TestForgedJoins(t *testing.T) {
	t.Parallel()
	m := state.NewMemory(state.MemoryConfig{MaxObjects: 1})
	r := serve(t, state.New(m), state.Config{Allow: allowAll})
	c := r.dial()
	for i := range 2000 {
		topic := fmt.Sprint("map:", i)
		st, _ := c.join(topic, fmt.Sprintf(`{"since":"abc-%d-0a0a"}`, i))
		if st["recovered"] != false || st["why"] != "epoch" {
			t.Fatalf("%v", st)
		}
		if status, _, _ := c.push(topic, "phx_leave", `{}`); status != "ok" {
			t.Fatal("cannot leave")
		}
		if m := c.next(); m.Event != "phx_close" {
			t.Fatal(m)
		}
	}
	c.join("map:x", `{}`)
	c.ok("map:x", "put", `{"key":"a","value":1}`) // the joins have created nothing
	deep := strings.Repeat(`{"a":`, 9000) + `{"$inc":1}` + strings.Repeat(`}`, 9000)
	c.ok("map:x", "put", `{"key":"deep","value":`+deep+`}`)
	c.ok("map:x", "merge", `{"key":"deep","value":`+deep+`}`)
}
