package socket

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/offline"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// keptClient returns a connected client with a store.
func keptClient(p *peer, store offline.Store) *Client {
	c := p.client(ClientConfig{Offline: &offline.Config{Store: store, Identity: "ann"}})
	c.Connect()
	return c
}

// keep begins a channel with history and a policy, and joins it.
func keep(t *testing.T, p *peer, c *Client, policy offline.Policy) *follower {
	t.Helper()
	f := follow(p, c, channel.ResumeConfig{})
	f.Keep(policy)
	mustReply(t, f.Join())
	return f
}

// disk returns what a store has now in a store of its own, as a process finds it that is started
// after the one before was killed.
func disk(t *testing.T, store offline.Store) offline.Store {
	t.Helper()
	var ops []offline.Op
	if err := store.Load(t.Context(), "ann", func(e offline.Entry, m *offline.Mirror) error {
		if m != nil {
			ops = append(ops, offline.Op{Keep: m})
		} else {
			ops = append(ops, offline.Op{Put: &e})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	now := offline.NewMemory()
	if err := now.Apply(t.Context(), "ann", ops); err != nil {
		t.Fatal(err)
	}
	return now
}

// wantStored compares the positions of the mirrors in a store.
func wantStored(t *testing.T, store offline.Store, want ...string) {
	t.Helper()
	var got []string
	if err := store.Load(t.Context(), "ann", func(_ offline.Entry, m *offline.Mirror) error {
		if m != nil && m.Topic != "" {
			got = append(got, fmt.Sprintf("%s %s", m.Topic, m.Position))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
}

func TestKeepOverRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		first := keptClient(p, store)
		f := keep(t, p, first, offline.Keep)
		f.log.append("a", "b")
		f.want(t, "reset: new", "a", "b")
		if list := first.OfflineData(); len(list) > 0 {
			t.Errorf("stored at once: %v", list)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		killed := disk(t, store)
		wantStored(t, killed, "room:1 e1-2-aaaa")
		f.log.append("c")
		f.want(t, "c")
		closeClient(t, first)
		wantStored(t, store, "room:1 e1-3-aaaa")
		f.log.append("d")

		for want, store := range map[string]offline.Store{"c d": killed, "d": store} {
			second := keptClient(p, store)
			list := second.OfflineData()
			if len(list) != 1 || list[0].Topic != "room:1" || list[0].Kind != "history" ||
				list[0].Policy != offline.Keep || list[0].Used.IsZero() {
				t.Errorf("offline data %+v", list)
			}
			f := keep(t, p, second, offline.Keep)
			if want == "d" {
				f.want(t, "d")
			} else {
				f.want(t, "c", "d")
			}
			if done, total := f.Progress(); done != total || done == 0 {
				t.Errorf("%d of %d", done, total)
			}
			closeClient(t, second)
		}
	})
}

func TestKeepReset(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		c := keptClient(p, store)
		f := keep(t, p, c, offline.Keep)
		f.log.append("a")
		f.want(t, "reset: new", "a")
		closeClient(t, c)
		wantStored(t, store, "room:1 e1-1-aaaa")
		f.log.mu.Lock()
		f.log.epoch, f.log.records = "e2", nil
		f.log.mu.Unlock()
		c = keptClient(p, store)
		f = keep(t, p, c, offline.Keep)
		f.want(t, "reset: epoch")
		if err := c.Persist(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStored(t, store, "room:1 e2-0-0000")
		closeClient(t, c)
	})
}

// TestKeepSince has a program with a position of its own.
func TestKeepSince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		c := keptClient(p, store)
		f := keep(t, p, c, offline.Keep)
		f.want(t, "reset: new")
		since := f.Position()
		f.log.append("a", "b")
		closeClient(t, c)
		c = keptClient(p, store)
		f = follow(p, c, channel.ResumeConfig{Since: since})
		f.Keep(offline.Keep)
		mustReply(t, f.Join())
		f.want(t, "a", "b")
		closeClient(t, c)
	})
}

// TestKeepAfterHandling has callbacks and a reader of a stream that are not done with a record.
func TestKeepAfterHandling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		c := keptClient(p, store)
		defer closeClient(t, c)
		f := follow(p, c, channel.ResumeConfig{})
		release, read := make(chan struct{}), make(chan struct{})
		f.On("news", func(p serializer.Payload) {
			if idOf(p) == "b" {
				<-release
			}
		})
		news := f.Stream("news")
		go func() {
			for m := range news.All(t.Context()) {
				if idOf(m.Payload) == "a" {
					<-read
				}
			}
		}()
		f.Keep(offline.Keep)
		mustReply(t, f.Join())
		f.log.append("a", "b")
		persist := func(want string) {
			t.Helper()
			synctest.Wait()
			if err := c.Persist(t.Context()); err != nil {
				t.Error(err)
			}
			wantStored(t, store, "room:1 "+want)
		}
		persist("e1-0-0000") // the reader has a
		close(read)
		persist("e1-1-aaaa") // the callback has b
		f.wantPosition(t, "e1-2-aaaa")
		close(release)
		time.Sleep(time.Second)
		synctest.Wait()
		wantStored(t, store, "room:1 e1-2-aaaa")
		f.log.append("c")
		time.Sleep(time.Second)
		synctest.Wait()
		wantStored(t, store, "room:1 e1-3-aaaa")
	})
}

func TestKeepPolicies(t *testing.T) {
	t.Parallel()
	revoke := func(reason string) func(*testing.T, *peer, *Client, *follower) {
		return func(_ *testing.T, p *peer, _ *Client, _ *follower) {
			k := p.last()
			k.mu.Lock()
			ref := k.joined["room:1"]
			k.mu.Unlock()
			payload := map[string]string{}
			if reason != "" {
				payload["reason"] = reason
			}
			k.lifecycle("room:1", serializer.EventClose, ref, payload)
		}
	}
	leave := func(t *testing.T, _ *peer, _ *Client, f *follower) { mustReply(t, f.Leave()) }
	lose := func(_ *testing.T, p *peer, _ *Client, _ *follower) { p.last().cut(errReset) }
	deny := func(_ *testing.T, p *peer, _ *Client, _ *follower) {
		p.last().end(&transport.CloseError{Code: CodeDenied, Reason: "revoked"})
	}
	again := func(p offline.Policy) func(*testing.T, *peer, *Client, *follower) {
		return func(_ *testing.T, _ *peer, _ *Client, f *follower) { f.Keep(p) }
	}
	for name, tt := range map[string]struct {
		policy offline.Policy
		do     func(*testing.T, *peer, *Client, *follower)
		onEnd  bool // OnClose calls Keep
		kept   bool
	}{
		"leave":                {offline.Keep, leave, false, true},
		"leave updating":       {offline.KeepUpdating, leave, false, true},
		"lost":                 {offline.Keep, lose, false, true},
		"closed":               {offline.Keep, revoke(""), false, true},
		"revoked":              {offline.Keep, revoke("kicked"), false, false},
		"revoked and kept":     {offline.Keep, revoke("kicked"), true, true},
		"denied":               {offline.Keep, deny, false, false},
		"forgotten":            {offline.Keep, again(offline.Forget), false, false},
		"updating and revoked": {offline.KeepUpdating, revoke("kicked"), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, store := newPeer(), offline.NewMemory()
				c := keptClient(p, store)
				f := keep(t, p, c, tt.policy)
				if tt.onEnd {
					f.OnClose(func(error) { f.Keep(tt.policy) })
				}
				f.log.append("a")
				time.Sleep(time.Second)
				synctest.Wait()
				wantStored(t, store, "room:1 e1-1-aaaa")
				tt.do(t, p, c, f)
				synctest.Wait()
				want := []string{"room:1 e1-1-aaaa"}
				if !tt.kept {
					want = nil
				}
				wantStored(t, store, want...)
				closeClient(t, c)
				wantStored(t, store, want...)
			})
		})
	}
}

// TestKeepForgetsByDefault has a channel without Keep, whose topic was kept before.
func TestKeepForgetsByDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		c := keptClient(p, store)
		keep(t, p, c, offline.Keep)
		closeClient(t, c)
		wantStored(t, store, "room:1 e1-0-0000")
		c = keptClient(p, store)
		f := follow(p, c, channel.ResumeConfig{})
		mustReply(t, f.Join())
		f.want(t, "reset: new")
		wantStored(t, store, "room:1 e1-0-0000")
		mustReply(t, f.Leave())
		closeClient(t, c)
		wantStored(t, store)
	})
}

// TestKeepLives has a handle that is joined again after each end.
func TestKeepLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		c := keptClient(p, store)
		f := keep(t, p, c, offline.Keep)
		f.want(t, "reset: new")
		for _, id := range []string{"a", "b", "c"} {
			f.Leave()
			mustReply(t, f.Join())
			f.log.append(id)
			f.want(t, id)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		wantStored(t, store, "room:1 e1-3-aaaa")
		closeClient(t, c)
	})
}

func TestCleanOffline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPeer(), offline.NewMemory()
		if err := store.Apply(t.Context(), "ann", []offline.Op{
			{Keep: &offline.Mirror{Topic: "a", Kind: "x", Value: []byte("1"), Policy: offline.Keep}},
			{Keep: &offline.Mirror{Topic: "b", Kind: "x", Value: []byte("2"), Policy: offline.Keep}},
			{Keep: &offline.Mirror{Topic: "c", Kind: "x", Value: []byte("3"), Policy: offline.Keep}},
		}); err != nil {
			t.Fatal(err)
		}
		c := keptClient(p, store)
		defer closeClient(t, c)
		for _, topics := range [][]string{{"b", "none"}, nil} {
			if err := c.CleanOffline(t.Context(), topics...); err != nil {
				t.Error(err)
			}
			left := 0
			if topics != nil {
				left = 2
			}
			if list := c.OfflineData(); len(list) != left {
				t.Errorf("%v left after %v", list, topics)
			}
		}
		wantStored(t, store)
	})
}

func TestPersistErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPeer()
		plain := p.client(ClientConfig{})
		if err := plain.Persist(t.Context()); !errors.Is(err, offline.ErrStore) {
			t.Errorf("without a store: %v", err)
		}
		if err := plain.CleanOffline(t.Context()); err != nil || plain.OfflineData() != nil {
			t.Errorf("without a store: %v", err)
		}
		closeClient(t, plain)

		fine := func(int, []offline.Op) (before, after error) { return nil, nil }
		full := func(int, []offline.Op) (before, after error) { return errDisk, nil }
		store := &faultyStore{Store: offline.NewMemory(), apply: fine}
		c := keptClient(p, store)
		f := keep(t, p, c, offline.Keep)
		f.log.append("a")
		synctest.Wait()
		store.set(full)
		if err := c.Persist(t.Context()); !errors.Is(err, offline.ErrStore) {
			t.Errorf("store is broken: %v", err)
		}
		time.Sleep(time.Second)
		store.set(fine)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		wantStored(t, store, "room:1 e1-1-aaaa")

		store.set(full)
		if err := c.CleanOffline(t.Context()); !errors.Is(err, offline.ErrStore) {
			t.Errorf("store is broken: %v", err)
		}
		store.set(fine)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		wantStored(t, store)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Persist(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		closeClient(t, c)
	})
}
