package natsengine_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/state/statetest"
)

// newObjects returns a store of objects that notices faults soon.
func newObjects(t testing.TB, cfg natsengine.Config) state.Store {
	t.Helper()
	return newEngine(t, cfg).State()
}

func TestState(t *testing.T) {
	statetest.Run(t, func(t *testing.T) statetest.Engine {
		e := newServer(t, withJetStream(t))
		first, others := brokertest.NewProxy(t, e.addr()), brokertest.NewProxy(t, e.addr())
		images := &objectImages{Store: newObjects(t, natsengine.Config{URL: first.Addr, MaxObjects: 100})}
		images.server = e
		if strings.HasSuffix(t.Name(), "/rollback") {
			images.t = t
		}
		return statetest.Engine{
			Store: images,
			Node: func(t testing.TB) state.Store {
				return newObjects(t, natsengine.Config{URL: others.Addr, MaxObjects: 100})
			},
			Restart: func(t testing.TB) state.Store {
				e.stop()
				e.start(t)
				return newObjects(t, natsengine.Config{URL: e.addr(), MaxObjects: 100})
			},
			Rollback: func(t testing.TB, _ string, n int) {
				images.rollback(t, n, func() error {
					_, err := images.Tops(t.Context(), []string{"o"})
					return err
				})
			},
			Freeze: func(testing.TB) func() {
				first.Stall()
				others.Stall()
				return func() { first.Resume(); others.Resume() }
			},
			Durable: true, MaxObjects: 100,
		}
	})
}

// objectImages is a store that keeps images of the server's directory, as it was after each write.
type objectImages struct {
	state.Store
	images
}

func (i *objectImages) Apply(ctx context.Context, object string, ops []state.Op, tx state.Tx) (state.Applied, error) {
	a, err := i.Store.Apply(ctx, object, ops, tx)
	if err == nil {
		i.take()
	}
	return a, err
}

// startObjects runs a store of objects, which is connected.
func startObjects(t testing.TB, cfg natsengine.Config) *brokertest.ObjectNode {
	t.Helper()
	return brokertest.StartObjects(t, newObjects(t, cfg))
}

// stored returns the number of messages in the stream of objects, by subject.
func (e *testServer) stored(t testing.TB) map[string]uint64 {
	t.Helper()
	info, err := e.jetStream(t).StreamInfo("bennu-objects", &nats.StreamInfoRequest{SubjectsFilter: "bennu.>"})
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Subjects
}

// The log of an object is replaced by snapshots, also of an object that is larger than a message.
// Other nodes read the object from the snapshot, with everything that it remembers.
func TestLogIsReplacedBySnapshots(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	cfg := natsengine.Config{URL: e.addr()}
	n := startObjects(t, cfg)
	value := `"` + strings.Repeat("x", 20_000) + `"`
	var ops []state.Op
	for i := range 10 {
		ops = append(ops, brokertest.Put(fmt.Sprint("k", i), value))
	}
	for i := range 4 { // 800 KB of items
		for j := range ops {
			ops[j].Key = fmt.Sprintf("k%d/%d", i, j)
		}
		n.Write("large", ops...)
	}
	n.Write("small", brokertest.Put("a", "0"))
	if err := n.Remove(t.Context(), "small", "removal"); err != nil {
		t.Fatal(err)
	}
	first := n.Write("small", brokertest.Put("a", "0")).Position
	tx := state.Tx{ID: "once"}
	once, err := n.Apply(t.Context(), "small", []state.Op{brokertest.Put("b", "1")}, tx)
	if err != nil {
		t.Fatal(err)
	}
	gone := n.Write("small", state.Op{Key: "b", Delete: true}).Position
	for i := range 80 {
		n.Write("small", brokertest.Put("a", value))
		if i%2 == 0 {
			n.Write("large", ops...)
		}
	}
	n.Until("replaced by snapshots", func() bool {
		all := e.stored(t)
		return all["bennu.o.small"] < 30 && all["bennu.p.small"] == 1 && all["bennu.o.large"] < 35 && all["bennu.p.large"] > 1
	})
	for range 3 {
		n.Write("large", ops[:1]...)
	}
	other := startObjects(t, cfg)
	for _, object := range []string{"small", "large"} {
		if got, want := contents(t, other, object), contents(t, n, object); !reflect.DeepEqual(got, want) {
			t.Errorf("%s has %d items, want %d", object, len(got), len(want))
		}
	}
	for _, since := range []history.Position{first, once.Position, gone} {
		a, errA := n.Changes(t.Context(), "small", since, state.Range{}, 10)
		b, errB := other.Changes(t.Context(), "small", since, state.Range{}, 10)
		if !reflect.DeepEqual(a, b) || errA != nil || errB != nil {
			t.Errorf("since %s: %d items, %v, and %d, %v", since, len(a.Items), errA, len(b.Items), errB)
		}
	}
	again, err := other.Apply(t.Context(), "small", []state.Op{brokertest.Put("b", "2")}, tx)
	if err != nil || !again.Repeated || again.Position != once.Position || again.Revs[0] != once.Revs[0] {
		t.Errorf("%+v, %v", again, err)
	}
	if err := other.Remove(t.Context(), "small", "removal"); err != nil || len(contents(t, other, "small")) == 0 {
		t.Errorf("the repeated removal of an earlier object: %v", err)
	}
	for _, object := range []string{"small", "large"} {
		if err := other.Remove(t.Context(), object, ""); err != nil {
			t.Fatal(err)
		}
	}
	n.Until("nothing left but two ends", func() bool {
		all := e.stored(t)
		return len(all) == 2 && all["bennu.o.small"] == 1 && all["bennu.o.large"] == 1
	})
}

// contents returns the items of an object.
func contents(t testing.TB, n *brokertest.ObjectNode, object string) (items []state.Item) {
	t.Helper()
	for next := ""; ; {
		p, err := n.Read(t.Context(), object, state.Range{}, next, 1000)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, p.Items...)
		if next = p.Next; next == "" {
			return items
		}
	}
}

// All nodes write large values at once, so that they replace the log at the same time, and forget
// their copies. No write is lost.
func TestSnapshotsOfManyNodes(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	var writers sync.WaitGroup
	var nodes []*brokertest.ObjectNode
	for range 3 {
		engine, err := natsengine.New(natsengine.Config{URL: e.addr(), Logger: new(zerolog.Nop())})
		if err != nil {
			t.Fatal(err)
		}
		engine.KeepCopies(0)
		nodes = append(nodes, brokertest.StartObjects(t, engine.State()))
	}
	const each = 20
	for i, n := range nodes {
		writers.Go(func() {
			for j := range each {
				n.Write("o", brokertest.Put(fmt.Sprint(i, j%2), strings.Repeat("1", 20_000+j)))
			}
		})
	}
	writers.Wait()
	want := contents(t, nodes[0], "o")
	if all := e.stored(t); len(want) != 6 || all["bennu.p.o"] == 0 || all["bennu.o.o"] >= 3*each {
		t.Errorf("%d items, %v", len(want), all)
	}
	for _, it := range want {
		if len(it.Value) < 20_000+each-2 {
			t.Errorf("%s is not the last value: %d bytes", it.Key, len(it.Value))
		}
	}
	for _, n := range nodes[1:] {
		if got := contents(t, n, "o"); !reflect.DeepEqual(got, want) {
			t.Errorf("another node has %d items", len(got))
		}
	}
}

// A node keeps the deadlines of so many objects as have room, and of those that it watches. All
// others expire as well.
func TestDeadlinesAreBounded(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	node, err := natsengine.New(natsengine.Config{URL: e.addr(), Logger: new(zerolog.Nop())})
	if err != nil {
		t.Fatal(err)
	}
	const objects, room = 1000, 40_000
	node.KeepCopies(room)
	node.KeepDeadlines(room)
	n := brokertest.StartObjects(t, node.State())
	hour := time.Hour
	write := func(object string) {
		t.Helper()
		n.Write(object, state.Op{Key: "a", Value: []byte("1"), TTL: &hour})
	}
	n.Watch("watched", func(error) {})
	write("watched")
	for i := range objects {
		write(fmt.Sprint("o", i))
	}
	const most = room/600 + room/350 + 1 // copies, deadlines, and that which is watched
	cells, deadline := node.Cells("watched")
	if cells > most || cells < most/2 || !deadline {
		t.Errorf("%d cells, at most %d; the deadline of a watched object is known: %v", cells, most, deadline)
	}
	if _, deadline := node.Cells("o0"); deadline {
		t.Error("the oldest deadline is kept")
	}
	n.Unwatch("watched")
	for i := range objects {
		write(fmt.Sprint("o", i))
	}
	if cells, deadline := node.Cells("watched"); cells > most || deadline {
		t.Errorf("%d cells, at most %d; a deadline that nobody waits for is kept: %v", cells, most, deadline)
	}
	before := e.stored(t)
	node.AdvanceClock(hour + 5*time.Minute)
	n.Until("all have expired", func() bool {
		if _, err := n.Expire(t.Context(), 10_000); err != nil {
			t.Fatal(err)
		}
		all := e.stored(t)
		for i := range objects {
			if log := fmt.Sprint("bennu.o.o", i); all[log] != before[log]+1 {
				return false
			}
		}
		return all["bennu.o.watched"] == before["bennu.o.watched"]+1
	})
}

// A node that comes later deletes what has expired of objects that no node has a copy of.
func TestObjectsExpireWithoutCopies(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	cfg := natsengine.Config{URL: e.addr(), Logger: new(zerolog.Nop())}
	n := startObjects(t, cfg)
	soon := time.Millisecond
	n.Write("item", state.Op{Key: "a", Value: []byte("1"), TTL: &soon}, brokertest.Put("b", "1"))
	if _, err := n.Apply(t.Context(), "object", []state.Op{brokertest.Put("a", "1")}, state.Tx{TTL: soon}); err != nil {
		t.Fatal(err)
	}
	n.Stop()
	before := e.stored(t)
	later, err := natsengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	later.AdvanceClock(5 * time.Minute)
	n = brokertest.StartObjects(t, later.State())
	n.Watch("item", func(error) {})
	n.Until("two deletions", func() bool {
		if _, err := n.Expire(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		all := e.stored(t)
		return all["bennu.o.item"] == before["bennu.o.item"]+1 && all["bennu.o.object"] == 1
	})
	for subject := range e.stored(t) {
		if strings.HasPrefix(subject, "bennu.d.") && subject != "bennu.d.done" {
			t.Errorf("%s is left", subject)
		}
	}
	if done, err := n.Expire(t.Context(), 100); done != 0 || err != nil {
		t.Errorf("again: %d, %v", done, err)
	}
	if items := contents(t, n, "item"); len(items) != 1 {
		t.Errorf("%+v", items)
	}
}

// The stream is replaced by an empty one. The node notices it, and returns nothing that it had in
// memory.
func TestStreamOfObjectsIsReplaced(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	n := startObjects(t, natsengine.Config{URL: e.addr()})
	a := n.Write("o", brokertest.Put("a", "1"))
	if err := e.jetStream(t).DeleteStream("bennu-objects"); err != nil {
		t.Fatal(err)
	}
	n.Until("written again", func() bool {
		b, err := n.Apply(t.Context(), "o", []state.Op{brokertest.Put("b", "1")}, state.Tx{})
		return err == nil && b.Position.Epoch() != a.Position.Epoch()
	})
	if items := contents(t, n, "o"); len(items) != 1 || items[0].Key != "b" {
		t.Errorf("%+v", items)
	}
	n.Until("another epoch", func() bool {
		for _, since := range []history.Position{a.Position, a.Prev} {
			if _, err := n.Changes(t.Context(), "o", since, state.Range{}, 10); !errors.Is(err, history.ErrEpoch) {
				return false
			}
		}
		return true
	})
}

// The permissions in the package documentation are sufficient for objects, and each of those for
// JetStream is needed.
func TestObjectsPermissions(t *testing.T) {
	t.Parallel()
	publish, subscribe := documentedPermissions(t, "Shared objects")
	users := []*server.User{user("node", publish, subscribe)}
	for i := 1; i < len(publish); i++ {
		users = append(users, user(fmt.Sprint("without", i), slices.Delete(slices.Clone(publish), i, i+1), subscribe))
	}
	e := newServer(t, withJetStream(t), func(o *server.Options) { o.Users = users })
	var log brokertest.Log
	logger := zerolog.New(&log)
	connect := func(name string) *brokertest.ObjectNode {
		return brokertest.RunObjects(t, newObjects(t, natsengine.Config{
			URL: e.addr(), Options: []nats.Option{nats.UserInfo(name, "secret")}, Logger: &logger,
		}))
	}
	n := connect("node")
	n.Watch("o", func(error) {})
	n.Until("fed", func() bool {
		a, err := n.Apply(t.Context(), "o", []state.Op{brokertest.Put("a", "1")}, state.Tx{TTL: time.Hour})
		return err == nil && n.Fed(a.Position)
	})
	if err := n.Remove(t.Context(), "o", ""); err != nil || strings.Contains(log.String(), "ermissions") {
		t.Errorf("%v, %s", err, log.String())
	}
	for i, subject := range publish[1:] {
		if strings.Contains(subject, ".CREATE.") || strings.Contains(subject, ".UPDATE.") { // the stream exists
			continue
		}
		n := connect(fmt.Sprint("without", i+1))
		n.Until("refused without "+subject, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), brokertest.Timeout)
			defer cancel()
			_, _ = n.Read(ctx, "o", state.Range{}, "", 1) // it fails
			return strings.Contains(log.String(), subject)
		})
		n.Stop()
	}
}

// A log with a message that the store has not written is an error, and no panic.
func TestMalformedObjects(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	n := startObjects(t, natsengine.Config{URL: e.addr()})
	n.Write("o", brokertest.Put("a", "1"))
	js := e.jetStream(t)
	for _, subject := range []string{"bennu.o.o", "bennu.o.other"} {
		if _, err := js.Publish(subject, []byte("junk")); err != nil {
			t.Fatal(err)
		}
	}
	n.Watch("o", func(error) {})
	for _, object := range []string{"o", "other"} {
		if _, err := n.Read(t.Context(), object, state.Range{}, "", 10); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("%s: %v", object, err)
		}
		_, err := n.Apply(t.Context(), object, []state.Op{brokertest.Put("a", "2")}, state.Tx{})
		if !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("%s: %v", object, err)
		}
	}
	n.Write("third", brokertest.Put("a", "1"))
}

func FuzzParseObject(f *testing.F) {
	for _, seed := range natsengine.ObjectSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) { natsengine.ParseObject(t, data) })
}

// A node counts the objects at the server, also those of other nodes.
func TestMaxObjects(t *testing.T) {
	t.Parallel()
	e := newServer(t, withJetStream(t))
	cfg := natsengine.Config{URL: e.addr()}
	other := startObjects(t, cfg)
	for _, object := range []string{"1", "2"} {
		other.Write(object, brokertest.Put("k", "1"))
	}
	cfg.MaxObjects = 3
	n := startObjects(t, cfg)
	create := func(object string, want error) {
		t.Helper()
		_, err := n.Apply(t.Context(), object, []state.Op{brokertest.Put("k", "1")}, state.Tx{})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", object, err, want)
		}
	}
	create("3", nil)
	create("4", state.ErrQuota)
	create("1", nil) // it exists
	if err := n.Remove(t.Context(), "1", ""); err != nil {
		t.Error(err)
	}
	create("1", nil)
	create("4", state.ErrQuota)
	other.Write("4", brokertest.Put("k", "1"))
	create("4", nil)
}
