package mirror_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/offline"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// process runs f with a client that has the store, and then closes the client.
func (r *rig) process(store offline.Store, f func(c *socket.Client)) {
	r.t.Helper()
	c := r.keptClient(store)
	f(c)
	if err := c.Close(context.Background()); err != nil {
		r.t.Error(err)
	}
}

// storedMirrors returns the mirrors of topics in a store.
func storedMirrors(t *testing.T, store offline.Store) (list []*offline.Mirror) {
	t.Helper()
	if err := store.Load(t.Context(), "ann", func(_ offline.Entry, m *offline.Mirror) error {
		if m != nil && m.Topic != "" {
			list = append(list, m)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// wantNone checks that a store has no mirror.
func wantNone(t *testing.T, store offline.Store, when string) {
	t.Helper()
	synctest.Wait()
	for _, m := range storedMirrors(t, store) {
		t.Errorf("%s: %s at %s is stored: %s", when, m.Topic, m.Position, m.Value)
	}
}

// number returns a counter in JSON.
func number(n int) []byte { return fmt.Appendf(nil, `{"N":%d}`, n) }

var keepIt = &mirror.Options{Keep: mirror.Keep}

func keptMap(t *testing.T, c *socket.Client, opt *mirror.Options) *mirror.Map[counter] {
	t.Helper()
	m, err := mirror.OpenMap[counter](t.Context(), c, "map:1", opt)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestKeepShowsAtOnce opens a copy without a network, and recovers it.
func TestKeepShowsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, store := newRig(t, state.Config{}), offline.NewMemory()
		r.process(store, func(c *socket.Client) {
			m := keptMap(t, c, keepIt)
			for _, key := range []string{"a", "b", "c"} {
				if err := m.Set(t.Context(), key, counter{1}); err != nil {
					t.Fatal(err)
				}
			}
			wantNone(t, store, "within a second")
			time.Sleep(time.Second)
			synctest.Wait()
			if list := storedMirrors(t, store); len(list) != 1 || list[0].Policy != offline.Keep {
				t.Errorf("stored %v", list)
			}
			if err := m.Set(t.Context(), "d", counter{1}); err != nil {
				t.Fatal(err)
			}
		})
		r.put("map:1", state.Op{Key: "b", Value: number(2)}, state.Op{Key: "c", Delete: true})
		r.setDown(true)
		r.process(store, func(c *socket.Client) {
			m := keptMap(t, c, keepIt)
			changes := read(t, m.Changes(t.Context()))
			changes.kinds(mirror.Put, mirror.Put, mirror.Put, mirror.Put)
			if v, _ := m.Get("b"); !m.Stale() || m.Synced() || v.N != 1 {
				t.Errorf("stale %t, synced %t, %+v", m.Stale(), m.Synced(), v)
			}
			r.setDown(false)
			for c := changes.change(); c.Kind != mirror.Synced; c = changes.change() {
				if c.Kind == mirror.Reset || c.Key == "a" || c.Key == "d" {
					t.Errorf("%v of %q", c.Kind, c.Key)
				}
			}
			if v, _ := m.Get("b"); m.Stale() || v.N != 2 || m.Len() != 3 {
				t.Errorf("stale %t, %+v, %d items", m.Stale(), v, m.Len())
			}
			m.Close(mirror.Forget)
			wantNone(t, store, "closed with Forget")
		})
	})
}

// TestKeepReplaces has an object that was made anew while the client was away.
func TestKeepReplaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, store := newRig(t, state.Config{}), offline.NewMemory()
		r.put("map:1", state.Op{Key: "a", Value: number(1)})
		r.process(store, func(c *socket.Client) { keptMap(t, c, keepIt) })
		if err := r.objects.Remove(t.Context(), "map:1"); err != nil {
			t.Fatal(err)
		}
		r.put("map:1", state.Op{Key: "b", Value: number(1)})
		r.process(store, func(c *socket.Client) {
			m := keptMap(t, c, keepIt)
			read(t, m.Changes(t.Context())).kinds(mirror.Put, mirror.Reset, mirror.Put, mirror.Synced)
			if err := c.Persist(t.Context()); err != nil {
				t.Error(err)
			}
		})
		r.setDown(true)
		r.process(store, func(c *socket.Client) {
			if m := keptMap(t, c, keepIt); m.Len() != 1 || !slices.Equal(keysOf(m), []string{"b"}) {
				t.Errorf("restored %q", keysOf(m))
			}
		})
	})
}

func keysOf(m *mirror.Map[counter]) (keys []string) {
	for key := range m.All() {
		keys = append(keys, key)
	}
	return keys
}

// TestKeepUnreadable has stored copies that cannot be used.
func TestKeepUnreadable(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"no copy": "x", "another version": `{"version":2}`,
		"other keys": `{"version":1,"topic":"map:1","kind":"map","keys":{"prefix":"z"},"items":[]}`,
		"a query":    `{"version":1,"topic":"map:1","kind":"map","keys":{},"query":{"name":"q"},"items":[]}`,
		"a document": `{"version":1,"topic":"map:1","kind":"document","keys":{},"items":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, store := newRig(t, state.Config{}), offline.NewMemory()
				r.put("map:1", state.Op{Key: "a", Value: number(1)})
				bad := &offline.Mirror{Topic: "map:1", Kind: "state", Value: []byte(value), Policy: offline.Keep}
				if err := store.Apply(t.Context(), "ann", []offline.Op{{Keep: bad}}); err != nil {
					t.Fatal(err)
				}
				r.process(store, func(c *socket.Client) {
					if m := keptMap(t, c, keepIt); m.Stale() || m.Len() != 1 {
						t.Errorf("stale %t, %d items", m.Stale(), m.Len())
					}
				})
				if list := storedMirrors(t, store); len(list) != 1 || string(list[0].Value) == value {
					t.Errorf("stored %v", list)
				}
			})
		})
	}
}

// TestKeepRevoked has a client that may not have the object any more when it is back.
func TestKeepRevoked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var isForbidden atomic.Bool
		r := newRig(t, state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error {
			if isForbidden.Load() {
				return state.ErrForbidden
			}
			return nil
		}})
		r.put("doc:1", state.Op{Value: number(1)})
		store, running := offline.NewMemory(), offline.NewMemory()
		r.process(store, func(c *socket.Client) { openDoc(t, c, "doc:1", keepIt) })
		if len(storedMirrors(t, store)) != 1 {
			t.Error("the document is not stored")
		}
		r.process(running, func(c *socket.Client) {
			d := openDoc(t, c, "doc:1", keepIt)
			time.Sleep(time.Second)
			r.setDown(true)
			isForbidden.Store(true)
			time.Sleep(time.Second)
			if len(storedMirrors(t, running)) != 1 {
				t.Error("a lost connection removed the document")
			}
			r.setDown(false)
			time.Sleep(time.Second)
			wantNone(t, running, "refused by a rejoin")
			d.Close(mirror.Keep)
		})
		wantNone(t, running, "closed after that")

		r.process(store, func(c *socket.Client) {
			d := openDoc(t, c, "doc:1", keepIt)
			changes := read(t, d.Changes(t.Context()))
			changes.kinds(mirror.Put)
			if err := changes.err(); !errors.Is(err, mirror.ErrForbidden) {
				t.Errorf("the mirror ended: %v", err)
			}
			wantNone(t, store, "refused after a restart")
		})
	})
}

// TestKeepRemoved has an object that is removed: the server closes its channel with a reason.
func TestKeepRemoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, store := newRig(t, state.Config{}), offline.NewMemory()
		r.put("doc:1", state.Op{Value: number(1)})
		r.process(store, func(c *socket.Client) {
			openDoc(t, c, "doc:1", keepIt)
			time.Sleep(time.Second)
			if err := r.objects.Remove(t.Context(), "doc:1"); err != nil {
				t.Fatal(err)
			}
			wantNone(t, store, "removed")
		})
		wantNone(t, store, "closed after that")
	})
}

// TestKeepUpdating has a mirror that is updated without a user, also over a restart.
func TestKeepUpdating(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, store := newRig(t, state.Config{}), offline.NewMemory()
		r.put("doc:1", state.Op{Value: number(1)})
		stored := func() string {
			synctest.Wait()
			list := storedMirrors(t, store)
			if len(list) != 1 {
				return fmt.Sprint(list)
			}
			var s struct{ Items []struct{ Value counter } }
			if err := json.Unmarshal(list[0].Value, &s); err != nil {
				t.Error(err)
			}
			return fmt.Sprint(list[0].Policy, s.Items)
		}
		r.process(store, func(c *socket.Client) {
			openDoc(t, c, "doc:1", keepIt).Close(mirror.KeepUpdating)
			r.put("doc:1", state.Op{Value: number(2)})
			time.Sleep(2 * time.Second)
			if got := stored(); got != "KeepUpdating [{{2}}]" {
				t.Error("closed:", got)
			}
		})
		r.put("doc:1", state.Op{Value: number(3)})
		r.process(store, func(c *socket.Client) {
			if err := c.Restore(t.Context(), func(topic string) any { return map[string]string{"of": topic} }); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Second)
			if got := stored(); got != "KeepUpdating [{{3}}]" {
				t.Error("restored:", got)
			}
			r.put("doc:1", state.Op{Value: number(4)})
			synctest.Wait()
			d := openDoc(t, c, "doc:1", &mirror.Options{Keep: mirror.KeepUpdating})
			if v, _ := d.Value(); v.N != 4 || !d.Stale() {
				t.Errorf("taken over: %+v", v)
			}
			read(t, d.Changes(t.Context())).kinds(mirror.Put, mirror.Synced)
			if err := d.Set(t.Context(), counter{5}); err != nil {
				t.Error(err)
			}
			if _, err := mirror.OpenDocument[counter](t.Context(), c, "doc:1", keepIt); !errors.Is(err, channel.ErrDuplicate) {
				t.Errorf("opened twice: %v", err)
			}
		})
		if got := stored(); got != "KeepUpdating [{{5}}]" {
			t.Error("at the end:", got)
		}
	})
}

// TestKeepForgetsByDefault has a mirror without Keep, of an object that was kept before.
func TestKeepForgetsByDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, store := newRig(t, state.Config{}), offline.NewMemory()
		r.put("doc:1", state.Op{Value: number(1)})
		r.process(store, func(c *socket.Client) { openDoc(t, c, "doc:1", keepIt).Close(mirror.KeepUpdating) })
		r.process(store, func(c *socket.Client) {
			if err := c.Restore(t.Context(), nil); err != nil {
				t.Error(err)
			}
			d := openDoc(t, c, "doc:1", nil)
			if len(storedMirrors(t, store)) != 1 || d.Stale() {
				t.Errorf("%d mirrors, stale %t", len(storedMirrors(t, store)), d.Stale())
			}
			d.Close(mirror.Forget)
			e := openDoc(t, c, "doc:1", keepIt) // while the other one is leaving
			time.Sleep(2 * time.Second)
			if list := storedMirrors(t, store); len(list) != 1 || e.Stale() {
				t.Errorf("stored %v, stale %t", list, e.Stale())
			}
			e.Close(mirror.Forget)
			wantNone(t, store, "forgotten")
			openDoc(t, c, "doc:1", keepIt).Close(mirror.Keep)
			openDoc(t, c, "doc:1", nil)
		})
		wantNone(t, store, "closed with the client")
	})
}

// dyingStore is the store of a process that dies at a commit.
type dyingStore struct {
	offline.Store
	mu    sync.Mutex
	at    int // the commit, from 1
	after bool
	calls int
}

var errDead = errors.New("the process is dead")

func (s *dyingStore) Apply(ctx context.Context, identity string, ops []offline.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.calls > s.at || s.calls == s.at && !s.after {
		return errDead
	}
	return s.Store.Apply(ctx, identity, ops)
}

// TestKeepDeaths kills a process before and after each of its commits. The value and the position
// that the next one finds belong together, and it misses nothing.
func TestKeepDeaths(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 6; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("commit %d after %t", at, after), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { keepDeath(t, at, after) })
			})
		}
	}
}

func keepDeath(t *testing.T, at int, after bool) {
	r, file := newRig(t, state.Config{}), offline.NewMemory()
	const last = 40
	r.process(&dyingStore{Store: file, at: at, after: after}, func(c *socket.Client) {
		d := openDoc(t, c, "doc:1", keepIt)
		for range last / 2 {
			if err := d.Update(t.Context(), increment); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
	})
	for n := last/2 + 1; n <= last; n++ {
		r.put("doc:1", state.Op{Value: number(n)})
	}
	for _, m := range storedMirrors(t, file) {
		var s struct {
			Position string
			Items    []struct {
				Rev   uint64
				Value counter
			}
		}
		if err := json.Unmarshal(m.Value, &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Items) != 1 || s.Position != m.Position.String() || s.Items[0].Rev != m.Position.Offset() ||
			s.Items[0].Value.N != int(s.Items[0].Rev) {
			t.Errorf("stored at %s: %s", m.Position, m.Value)
		}
	}
	r.process(file, func(c *socket.Client) {
		d := openDoc(t, c, "doc:1", keepIt)
		time.Sleep(time.Second)
		if v, _ := d.Value(); v.N != last || d.Stale() {
			t.Errorf("the next process has %+v", v)
		}
	})
}
