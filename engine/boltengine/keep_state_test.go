package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/boltengine"
	"bennu.example/offline"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
)

// sharing is a server of shared objects, and the file of a client.
type sharing struct {
	t       *testing.T
	store   *state.Memory
	objects *state.Objects
	url     string
	path    string
	room    int64 // offline.Config.MirrorBytes
}

func newSharing(t *testing.T) *sharing {
	store := state.NewMemory(state.MemoryConfig{})
	s := &sharing{t: t, store: store, objects: state.New(store), path: filepath.Join(t.TempDir(), "client.db")}
	everything := state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error { return nil }}
	silent := zerolog.Nop()
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{
			"doc:*": s.objects.Documents(everything), "map:*": s.objects.Maps(everything),
			"tree:*": s.objects.Trees(everything),
		},
		Logger: &silent,
	})
	server := httptest.NewServer(handler)
	s.url = server.URL
	t.Cleanup(func() {
		if err := handler.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return s
}

// process runs f as a process of the client, which opens the file and closes it.
func (s *sharing) process(f func(c *socket.Client)) {
	s.t.Helper()
	store, err := boltengine.OpenClient(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	silent := zerolog.Nop()
	c := socket.NewClient(s.url, &socket.ClientConfig{
		Logger:  &silent,
		Offline: &offline.Config{Store: store, Identity: "ann", MirrorBytes: s.room},
	})
	f(c)
	if err := errors.Join(c.Close(context.Background()), store.Close()); err != nil {
		s.t.Error(err)
	}
}

// stored returns what the file has, by topic.
func (s *sharing) stored() map[string]offline.Mirror {
	s.t.Helper()
	store, err := boltengine.OpenClient(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]offline.Mirror{}
	err = store.Load(s.t.Context(), "ann", func(_ offline.Entry, m *offline.Mirror) error {
		if m != nil && m.Topic != "" {
			all[m.Topic] = offline.Mirror{Topic: m.Topic, Kind: m.Kind, Position: m.Position, Value: m.Value, Policy: m.Policy}
		}
		return nil
	})
	if err := errors.Join(err, store.Close()); err != nil {
		s.t.Fatal(err)
	}
	return all
}

// put changes an object at the server.
func (s *sharing) put(topic, key, value string) {
	s.t.Helper()
	ops := []state.Op{{Key: key, Value: []byte(value)}}
	if _, err := s.objects.Apply(s.t.Context(), topic, ops, state.Tx{}); err != nil {
		s.t.Fatal(err)
	}
}

// open opens a map of numbers, which is kept.
func (s *sharing) open(c *socket.Client, topic string) *mirror.Map[int] {
	s.t.Helper()
	m, err := mirror.OpenMap[int](s.t.Context(), c, topic, &mirror.Options{Keep: mirror.Keep})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// TestKeepStateOverReopen closes the file of a client and opens it again. The client has the same
// objects at the same positions and with the same policies, and continues there.
func TestKeepStateOverReopen(t *testing.T) {
	t.Parallel()
	s := newSharing(t)
	s.put("doc:1", "", "7")
	s.put("map:1", "a", "1")
	s.put("tree:1", "a\x01b", "2")
	openTree := func(c *socket.Client) *mirror.Tree {
		tree, err := mirror.OpenTree(t.Context(), c, "tree:1", &mirror.Options{Keep: mirror.KeepUpdating})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	openDoc := func(c *socket.Client) *mirror.Document[int] {
		d, err := mirror.OpenDocument[int](t.Context(), c, "doc:1", &mirror.Options{Keep: mirror.Keep})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	// check compares the copies with the values that they must have.
	check := func(d *mirror.Document[int], m *mirror.Map[int], tree *mirror.Tree, want [3]int) {
		t.Helper()
		var got [3]int
		got[0], _ = d.Value()
		got[1], _ = m.Get("a")
		if _, err := tree.At("a/b").Value(&got[2]); err != nil || got != want {
			t.Errorf("the copies have %v, %v; want %v", got, err, want)
		}
	}

	s.process(func(c *socket.Client) {
		c.Connect()
		check(openDoc(c), s.open(c, "map:1"), openTree(c), [3]int{7, 1, 2})
	})
	first := s.stored()
	policies := map[string]offline.Policy{
		"doc:1": offline.Keep, "map:1": offline.Keep, "tree:1": offline.KeepUpdating,
	}
	s.wantStored(first, policies)

	s.process(func(c *socket.Client) { // it never connects
		d, m, tree := openDoc(c), s.open(c, "map:1"), openTree(c)
		check(d, m, tree, [3]int{7, 1, 2})
		if !d.Stale() || !m.Stale() || !tree.Stale() || d.ID() != first["doc:1"].Position.Epoch() {
			t.Errorf("stale: %t, %t, %t; the document is %s", d.Stale(), m.Stale(), tree.Stale(), d.ID())
		}
	})
	if again := s.stored(); !reflect.DeepEqual(again, first) {
		t.Errorf("the file has other copies: %d and %d", len(again), len(first))
	}

	s.put("doc:1", "", "8")
	s.put("map:1", "a", "9")
	s.put("tree:1", "a\x01b", "10")
	s.process(func(c *socket.Client) {
		if err := c.Restore(t.Context(), nil); err != nil {
			t.Error(err)
		}
		d, m, tree := openDoc(c), s.open(c, "map:1"), openTree(c)
		check(d, m, tree, [3]int{7, 1, 2})
		c.Connect()
		untilSynced(t, d.Changes(t.Context()))
		untilSynced(t, m.Changes(t.Context()))
		untilSynced(t, tree.Changes(t.Context()))
		check(d, m, tree, [3]int{8, 9, 10})
	})
	s.wantStored(s.stored(), policies)
}

// untilSynced reads changes until the copy is complete. It must not begin anew.
func untilSynced[T any](t *testing.T, changes iter.Seq2[mirror.Change[T], error]) {
	t.Helper()
	for c, err := range changes {
		switch {
		case err != nil:
			t.Fatal(err)
		case c.Kind == mirror.Reset:
			t.Error("the copy began anew")
		case c.Kind == mirror.Synced:
			return
		}
	}
}

// wantStored checks that the file has the objects as they are at the server.
func (s *sharing) wantStored(got map[string]offline.Mirror, policies map[string]offline.Policy) {
	s.t.Helper()
	for topic, m := range got {
		tops, err := s.store.Tops(s.t.Context(), []string{topic})
		if err != nil {
			s.t.Fatal(err)
		}
		if policy, ok := policies[topic]; !ok || m.Policy != policy || m.Position != tops[0] {
			s.t.Errorf("%s is stored with %v at %s, the server is at %s", topic, m.Policy, m.Position, tops[0])
		}
	}
	if len(got) != len(policies) {
		s.t.Errorf("%d objects are stored, want %d", len(got), len(policies))
	}
}

// TestKeepStateMirrorBytes has two objects open and room for one copy. One of them is in the file,
// as it was last, and the other one is loaded again.
func TestKeepStateMirrorBytes(t *testing.T) {
	t.Parallel()
	s := newSharing(t)
	s.put("map:1", "a", "1")
	s.put("map:2", "a", "1")
	s.process(func(c *socket.Client) {
		c.Connect()
		s.open(c, "map:1")
	})
	size := len(s.stored()["map:1"].Value)
	s.room = int64(size) + 300 // with the overhead of one, and not of two

	want := map[string]int{"map:1": 6, "map:2": 7}
	s.process(func(c *socket.Client) {
		c.Connect()
		maps := map[string]*mirror.Map[int]{"map:1": s.open(c, "map:1"), "map:2": s.open(c, "map:2")}
		for n := range 6 {
			topic := fmt.Sprint("map:", n%2+1)
			if err := errors.Join(maps[topic].Set(t.Context(), "a", n+2), c.Persist(t.Context())); err != nil {
				t.Error(err)
			}
			if list := c.OfflineData(); len(list) != 1 {
				t.Errorf("after a change of %s there are %d copies", topic, len(list))
			}
		}
		for topic, m := range maps {
			if v, _ := m.Get("a"); v != want[topic] {
				t.Errorf("the open copy of %s has %d", topic, v)
			}
		}
	})
	stored := s.stored()
	for topic := range stored {
		s.wantStored(stored, map[string]offline.Policy{topic: offline.Keep})
	}
	if len(stored) != 1 {
		t.Errorf("%d objects are stored", len(stored))
	}
	s.process(func(c *socket.Client) {
		c.Connect()
		for topic, n := range want {
			m := s.open(c, topic)
			if v, _ := m.Get("a"); v != n {
				t.Errorf("%s has %d, want %d", topic, v, n)
			}
		}
	})
}
