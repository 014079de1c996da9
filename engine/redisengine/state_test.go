//go:build unix

package redisengine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/state/statetest"
)

func newStore(t testing.TB, cfg redisengine.Config) state.Store {
	t.Helper()
	e, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e.State()
}

// rollbackObject removes the newest n revisions of an object, as a failover to a replica without
// them does. The items that they put are lost.
func (e *testServer) rollbackObject(t testing.TB, object string, n int) {
	const script = `
		local members = redis.call('ZREVRANGE', KEYS[1] .. ':r', 0, ARGV[1])
		local rev, tag = string.match(table.remove(members), '^(%d+) (%w+)')
		for _, member in ipairs(members) do
			local key = string.match(member, '^%d+ %w+ %d+ %S (.*)')
			redis.call('ZREM', KEYS[1] .. ':r', member)
			redis.call('ZREM', KEYS[1] .. ':k', key)
			redis.call('HDEL', KEYS[1] .. ':i', key)
		end
		local meta = redis.call('GET', KEYS[1] .. ':m')
		redis.call('SET', KEYS[1] .. ':m', (string.gsub(meta, '^(%w+) %d+ %w+', '%1 ' .. rev .. ' ' .. tag)))
		return 1`
	e.do(t, "EVAL", script, "1", "bennu:o:{"+object+"}", strconv.Itoa(n))
}

func TestStateSuite(t *testing.T) {
	statetest.Run(t, func(t *testing.T) statetest.Engine {
		e := newDurable(t)
		open := func(testing.TB) state.Store {
			return newStore(t, quick(redisengine.Config{
				URL: "redis://" + e.addr, Queue: brokertest.Queue, MaxObjects: 100,
			}))
		}
		return statetest.Engine{
			Store: open(t), Node: open,
			Restart: func(testing.TB) state.Store {
				e.stop()
				e.start(t)
				return open(t)
			},
			Rollback: e.rollbackObject,
			Freeze: func(testing.TB) func() {
				e.signal(syscall.SIGSTOP)()
				return e.signal(syscall.SIGCONT)
			},
			Durable: true, MaxObjects: 100,
		}
	})
}

// runStore runs a store. It does not wait for the connection.
func runStore(t testing.TB, cfg redisengine.Config) *brokertest.ObjectNode {
	t.Helper()
	return brokertest.RunObjects(t, newStore(t, cfg))
}

func startStore(t testing.TB, cfg redisengine.Config) *brokertest.ObjectNode {
	t.Helper()
	return brokertest.StartObjects(t, newStore(t, cfg))
}

// The permissions in the package documentation are sufficient for objects, and each of them is
// needed.
func TestStatePermissions(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	lines := documentedUsers(t)
	for _, line := range slices.Concat(lines[:3], lines[5:]) { // not those of wills and Once
		e.do(t, append([]string{"ACL", "SETUSER"}, line...)...)
	}
	user := redisengine.Config{URL: "redis://bennu:secret@" + e.addr}
	n := startStore(t, user)
	ready := make(chan error, 10)
	n.Watch("o", func(err error) { ready <- err })
	if err := <-ready; err != nil {
		t.Error(err)
	}
	a := n.Write("o", brokertest.Put("a", "1"))
	n.Until("fed", func() bool { return n.Fed(a.Position) })
	n.Stop()
	for _, permission := range slices.Concat(lines[5:]...) {
		name, ok := strings.CutPrefix(permission, "+")
		if !ok {
			continue
		}
		e.do(t, "ACL", "SETUSER", "bennu", "-"+name)
		cfg := user
		cfg.Logger = new(zerolog.Nop())
		n := runStore(t, cfg)
		n.Until("refused without "+name, func() bool {
			err := n.Health().Err
			return err != nil && (strings.Contains(err.Error(), "permission") || strings.Contains(err.Error(), "can't run"))
		})
		n.Stop()
		e.do(t, "ACL", "SETUSER", "bennu", "+"+name)
	}
	brokertest.WaitUntil(t, "nothing left of rehearsals", func() bool {
		return e.do(t, "KEYS", "bennu:oc:*") == "[]" && e.do(t, "KEYS", "bennu:o[dn]:*") == "[]"
	})
}

// Nothing of an object is left at Redis after it was removed or has expired.
func TestNothingOfObjectsIsLeft(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startStore(t, redisengine.Config{URL: "redis://" + e.addr})
	hour, soon := time.Hour, time.Millisecond
	for _, object := range []string{"removed", "expired"} {
		life := time.Hour
		if object == "expired" {
			life = 50 * time.Millisecond
		}
		for i := range 10 {
			_, err := n.Apply(t.Context(), object, []state.Op{
				{Key: fmt.Sprint("a", i), Value: []byte("1"), TTL: &hour},
				{Key: fmt.Sprint("b", i), Value: []byte("1"), TTL: &soon},
				{Key: fmt.Sprint("a", i-1), Delete: true},
			}, state.Tx{ID: fmt.Sprint(i), TTL: life})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := n.Remove(t.Context(), "removed", ""); err != nil {
		t.Fatal(err)
	}
	n.Until("nothing left", func() bool {
		if _, err := n.Expire(t.Context(), 1000); err != nil {
			t.Fatal(err)
		}
		return e.do(t, "KEYS", "*") == "[bennu:o]"
	})
}

// An object remembers a bounded number of IDs, revisions and deletions.
func TestObjectsAreBounded(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startStore(t, redisengine.Config{URL: "redis://" + e.addr})
	write := func(i int) state.Applied {
		t.Helper()
		ops := []state.Op{brokertest.Put(fmt.Sprint("k", i), "1"), {Key: fmt.Sprint("k", i-1), Delete: true}}
		a, err := n.Apply(t.Context(), "o", ops, state.Tx{ID: fmt.Sprint(i), Limits: state.Limits{Changes: 50}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for i := range 1100 {
		write(i)
	}
	if a := write(1099); !a.Repeated {
		t.Error("a new ID is not remembered")
	}
	for command, want := range map[string]string{
		"HLEN bennu:o:{o}:w": "1000", "LLEN bennu:o:{o}:o": "1000", "ZCARD bennu:o:{o}:r": "50",
		"ZCARD bennu:o:{o}:k": "1", "HLEN bennu:o:{o}:i": "26",
	} {
		if got := e.do(t, strings.Fields(command)...); got != want {
			t.Errorf("%s is %s, want %s", command, got, want)
		}
	}
	if a := write(0); a.Repeated {
		t.Error("the oldest ID is remembered")
	}
}

// A position before a deletion that is too old is not continued, unlike one behind it.
func TestDeletionsAreForgotten(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	for name, under := range map[string]bool{"item": false, "subtree": true} {
		t.Run(name, func(t *testing.T) {
			e, err := redisengine.New(redisengine.Config{URL: "redis://" + server.addr})
			if err != nil {
				t.Fatal(err)
			}
			e.ForgetDeletionsAfter(100 * time.Millisecond)
			n := brokertest.RunObjects(t, e.State())
			n.Write(name, brokertest.Put("a", "1"), brokertest.Put("b", "1"))
			before := n.Write(name, brokertest.Put("b", "2")).Position
			gone := n.Write(name, state.Op{Key: "a", Delete: true, Under: under}).Position
			since := func(p history.Position) error {
				_, err := n.Changes(t.Context(), name, p, state.Range{}, 100)
				return err
			}
			if err := since(before); err != nil {
				t.Errorf("before the deletion is forgotten: %v", err)
			}
			<-time.After(150 * time.Millisecond) // the age of a deletion is time of Redis
			n.Write(name, brokertest.Put("b", "3"))
			if err := since(before); !errors.Is(err, history.ErrTrimmed) {
				t.Errorf("after the deletion was forgotten: %v", err)
			}
			if err := since(gone); err != nil {
				t.Errorf("since the deletion: %v", err)
			}
		})
	}
}

// In a Redis Cluster, one server has all objects. The store finds it, and its replica after a
// failover.
func TestStateInCluster(t *testing.T) {
	t.Parallel()
	other, replica := newCluster(t)
	n := startStore(t, quick(redisengine.Config{Options: rueidis.ClientOption{
		InitAddress: []string{other.addr, replica.addr}, Username: "bennu", Password: "secret",
	}}))
	var last state.Applied
	for _, object := range []string{"o", "p", "}{", ""} {
		n.Watch(object, func(error) {})
		a := n.Write(object, brokertest.Put("a", "1"))
		n.Until("watched", func() bool {
			last = n.Write(object, brokertest.Put("a", "2"))
			return n.Fed(last.Position)
		})
		p, err := n.Changes(t.Context(), object, a.Position, state.Range{}, 10)
		if err != nil || p.Position != last.Position || len(p.Items) != 1 {
			t.Errorf("%+v, %v", p, err)
		}
	}
	if tops, err := n.Tops(t.Context(), []string{"o", "p", "q"}); err != nil || len(tops) != 3 || tops[2].Offset() != 0 {
		t.Errorf("tops: %v, %v", tops, err)
	}
	brokertest.WaitUntil(t, "replicated", func() bool {
		return strings.Contains(replica.do(t, "INFO", "replication"), "link_status:up")
	})
	brokertest.WaitUntil(t, "failing over", func() bool {
		_, err := replica.try("CLUSTER", "FAILOVER")
		return err == nil
	})
	n.Until("written, and fed", func() bool {
		a, err := n.Apply(t.Context(), "", []state.Op{brokertest.Put("a", "3")}, state.Tx{})
		return err == nil && n.Fed(a.Position)
	})
	p, err := n.Changes(t.Context(), "", last.Position, state.Range{}, 10)
	if err != nil || len(p.Items) != 1 || string(p.Items[0].Value) != "3" {
		t.Errorf("%+v, %v", p, err)
	}
}

// A replica that does not have the newest writes is promoted. Positions at the lost writes are not
// continued, also when as much was written again.
func TestReplicaWithoutWritesIsPromoted(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	link := brokertest.NewProxy(t, primary.addr) // between the servers
	replica := newReplica(t, &testServer{addr: link.Addr})
	n := startStore(t, quick(redisengine.Config{URL: "redis://" + primary.addr}))
	kept := n.Write("o", brokertest.Put("a", "1")).Position
	brokertest.WaitUntil(t, "replicated", func() bool { return replica.do(t, "HLEN", "bennu:o:{o}:i") == "1" })
	link.Stall()
	lost := []history.Position{
		n.Write("o", brokertest.Put("a", "2")).Position, n.Write("o", brokertest.Put("b", "2")).Position,
	}
	born := n.Write("born", brokertest.Put("a", "1")).Position
	primary.stop()
	link.Cut()
	replica.do(t, "REPLICAOF", "NO", "ONE")
	other := startStore(t, quick(redisengine.Config{URL: "redis://" + replica.addr}))
	check := func(want error) {
		t.Helper()
		for _, p := range lost {
			if _, err := other.Changes(t.Context(), "o", p, state.Range{}, 10); !errors.Is(err, want) {
				t.Errorf("since %s: %v, want %v", p, err, want)
			}
		}
		if _, err := other.Changes(t.Context(), "born", born, state.Range{}, 10); !errors.Is(err, history.ErrEpoch) {
			t.Errorf("since %s: %v", born, err)
		}
	}
	check(history.ErrAhead)
	for range 5 {
		other.Write("o", brokertest.Put("a", "3"))
		other.Write("born", brokertest.Put("a", "3"))
	}
	check(history.ErrTag)
	if p, err := other.Changes(t.Context(), "o", kept, state.Range{}, 10); err != nil || len(p.Items) != 1 {
		t.Errorf("since %s: %+v, %v", kept, p, err)
	}
}

// Nodes increment a number, while Redis is killed, frozen and cut off.
func TestWritesUnderFaults(t *testing.T) {
	t.Parallel()
	e := newDurable(t)
	proxy := brokertest.NewProxy(t, e.addr)
	cfg := quick(redisengine.Config{URL: "redis://" + proxy.Addr, Logger: new(zerolog.Nop())})
	brokertest.CountUnderFaults(t, func() *brokertest.ObjectNode { return startStore(t, cfg) }, func(progress func()) {
		for range 2 {
			proxy.Cut()
			progress()
			e.signal(syscall.SIGSTOP)()
			time.Sleep(rand.N(2 * time.Second)) // shorter and longer than the timeout of writes
			e.signal(syscall.SIGCONT)()
			progress()
			e.stop()
			e.start(t)
			progress()
		}
	})
}

// Malformed messages are skipped.
func TestMalformedChangesAreSkipped(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startStore(t, redisengine.Config{URL: "redis://" + e.addr, Logger: new(zerolog.Nop())})
	n.Watch("o", func(error) {})
	n.Until("watched", func() bool { return n.Fed(n.Write("o", brokertest.Put("a", "1")).Position) })
	for _, data := range []string{"", "x", "3:abc", "1:a1:b1:c", "9999999999999999999:", "-1:", "5:e 1 t5:e 2 t0:1:k"} {
		e.do(t, "PUBLISH", "bennu:s:o", data)
	}
	a := n.Write("o", brokertest.Put("a", "2"))
	n.Until("fed", func() bool { return n.Fed(a.Position) })
}

func FuzzParseChange(f *testing.F) {
	f.Add("7:e 1 0z0z7:e 2 0z0z0:1:k0:1:20:1:01:01:w1:1")
	f.Fuzz(func(_ *testing.T, data string) { _, _ = redisengine.ParseChange(data) })
}

// All nodes count the objects at Redis together. Those that are removed, or whose time has come,
// make room.
func TestMaxObjects(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	cfg := redisengine.Config{URL: "redis://" + e.addr, MaxObjects: 3}
	a, b := startStore(t, cfg), startStore(t, cfg)
	create := func(n *brokertest.ObjectNode, object string, tx state.Tx, want error) {
		t.Helper()
		tx.Create = state.ModeNew
		if _, err := n.Apply(t.Context(), object, []state.Op{brokertest.Put("k", "1")}, tx); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", object, err, want)
		}
	}
	create(a, "1", state.Tx{}, nil)
	create(b, "2", state.Tx{}, nil)
	create(a, "3", state.Tx{TTL: time.Millisecond}, nil)
	brokertest.WaitUntil(t, "expired", func() bool {
		p, err := a.Read(t.Context(), "3", state.Range{}, "", 1)
		return err == nil && len(p.Items) == 0
	})
	create(b, "3", state.Tx{}, nil) // in the place of the old one
	create(a, "4", state.Tx{}, state.ErrQuota)
	var limit *state.LimitError
	_, err := b.Apply(t.Context(), "4", []state.Op{brokertest.Put("k", "1")}, state.Tx{})
	if !errors.As(err, &limit) || limit.What != "objects" || limit.Max != 3 {
		t.Errorf("%v", err)
	}
	a.Write("1", brokertest.Put("k", "2"))
	if err := b.Remove(t.Context(), "1", ""); err != nil {
		t.Error(err)
	}
	create(a, "4", state.Tx{}, nil)
	create(startStore(t, redisengine.Config{URL: cfg.URL}), "5", state.Tx{}, nil) // a node without a bound
	create(b, "6", state.Tx{}, state.ErrQuota)
	if got := e.do(t, "GET", "bennu:o:n"); got != "4" {
		t.Errorf("%s objects are counted", got)
	}
}
