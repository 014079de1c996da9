//go:build unix

package redisengine_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/serializer"
)

// follower follows a topic by the feed. It reads only if the feed says that something is missing.
type follower struct {
	log  history.Log
	stop func()

	mu      sync.Mutex
	cursor  history.Position
	readies int
	gaps    int
	repairs int // because of a hole that no gap had announced yet
	wake    chan struct{}
}

// follow runs a log and follows the topic "t".
func follow(t *testing.T, cfg redisengine.Config) *follower {
	f := &follower{log: newLog(t, cfg), wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	repair := func() {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	running.Go(func() {
		_ = f.log.Run(ctx, history.Inbox{
			Record: func(_ string, r history.Record) {
				f.mu.Lock()
				defer f.mu.Unlock()
				switch {
				case f.cursor.IsZero(), r.Position.Offset() <= f.cursor.Offset():
				case r.Prev == f.cursor:
					f.cursor = r.Position
				default:
					f.repairs++
					repair()
				}
			},
			Gap:       func(error) { f.count(&f.gaps); repair() },
			Forgotten: func(string) { repair() },
		})
	})
	running.Go(func() {
		for {
			select {
			case <-f.wake:
				f.repair(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	f.log.Watch("t", func(err error) {
		if err == nil {
			f.count(&f.readies)
			repair()
		}
	})
	f.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(f.stop)
	return f
}

func (f *follower) count(n *int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*n++
}

func (f *follower) at() (cursor history.Position, readies, gaps, repairs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cursor, f.readies, f.gaps, f.repairs
}

// repair reads on from the cursor until nothing is missing.
func (f *follower) repair(ctx context.Context) {
	for ctx.Err() == nil {
		at, _, _, _ := f.at()
		if at.IsZero() {
			if tops, err := f.log.Tops(ctx, []string{"t"}); err == nil {
				f.mu.Lock()
				f.cursor = tops[0]
				f.mu.Unlock()
				return
			}
			continue
		}
		b, err := f.log.Read(ctx, "t", at, 1000)
		if err != nil {
			continue
		}
		f.mu.Lock()
		for _, r := range b.Records {
			if r.Prev == f.cursor {
				f.cursor = r.Position
			}
		}
		done := f.cursor.Offset() >= b.Top.Offset()
		f.mu.Unlock()
		if done {
			return
		}
	}
}

// Connections are cut and stalled while records are appended. After ready, whatever is not fed is
// followed by a gap, so that a node which reads only then misses nothing.
func TestFeedAnnouncesLosses(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	proxy := brokertest.NewProxy(t, e.addr)
	cfg := quick(redisengine.Config{URL: "redis://" + proxy.Addr, Queue: brokertest.Queue})
	cfg.Timeout = 500 * time.Millisecond
	f := follow(t, cfg)
	n.until("ready", func() bool { _, readies, _, _ := f.at(); return readies == 1 })
	quit := make(chan struct{})
	var appending sync.WaitGroup
	appending.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			// Nothing that the node missed may be trimmed.
			if _, err := n.Append(t.Context(), "t", history.Record{Event: "e"}, history.Keep{Count: 1 << 20}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 6 {
		_, ready, _, _ := f.at()
		if i%2 == 0 {
			proxy.Cut()
		} else {
			proxy.Stall()
			n.until("disconnected", func() bool { return !f.log.Health().Connected })
			proxy.Resume()
		}
		n.until("ready again", func() bool { _, now, _, _ := f.at(); return now > ready })
	}
	close(quit)
	appending.Wait()
	top := n.top("t")
	n.until("at the top", func() bool { at, _, _, _ := f.at(); return at == top })
	at, readies, gaps, repairs := f.at()
	t.Logf("at %v: %d readies, %d gaps, %d holes", at, readies, gaps, repairs)
	if gaps < 6 || f.log.Health().Gaps != uint64(gaps) {
		t.Errorf("%d gaps; health %+v", gaps, f.log.Health())
	}
}

// A node that does not keep up misses records, and learns it. Other nodes and appends are not
// affected.
func TestSlowNodeReportsGap(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	cfg := redisengine.Config{URL: "redis://" + e.addr, Queue: 100_000}
	slow, fast := startLog(t, quick(cfg)), startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	for _, n := range []*logNode{slow, fast} {
		n.Watch("t", n.ready)
		n.until("ready", func() bool { return n.count("ready") == 1 })
	}
	slow.block.Lock()
	const count = 300
	body := serializer.Binary(make([]byte, 1000))
	for range count {
		if _, err := slow.Append(t.Context(), "t", history.Record{Event: "e", Payload: body}, keep); err != nil {
			t.Fatal(err)
		}
	}
	fast.until("fed", func() bool { return len(fast.records()) == count })
	slow.block.Unlock()
	slow.until("notified", func() bool { return slow.count("gap") == 1 })
	if got := len(slow.records()); got == 0 || got > 100 || fast.count("gap") > 0 {
		t.Errorf("the slow node received %d records, and the fast one %d gaps", got, fast.count("gap"))
	}
	last := slow.mustAdd("t", 1)[0]
	slow.until("fed again", func() bool {
		all := slow.records()
		return all[len(all)-1].Position == last.Position
	})
}

// All nodes that watch a topic learn that it was forgotten. Foreign messages are skipped, and the
// feed of a topic ends with Unwatch.
func TestFeedOfManyKinds(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	cfg := redisengine.Config{URL: "redis://" + e.addr}
	one, two := startLog(t, cfg), startLog(t, cfg)
	for _, n := range []*logNode{one, two} {
		n.Watch("t", n.ready)
		n.until("ready", func() bool { return n.count("ready") == 1 })
	}
	for _, data := range []string{" ", "x", "a 1 b c d e f", strings.Repeat(" ", 20), "e 1 abcd 0000 5 5 \x01"} {
		e.do(t, "PUBLISH", "bennu:r:t", data)
	}
	if err := one.Forget(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	r := one.mustAdd("t", 1)[0]
	for _, n := range []*logNode{one, two} {
		n.until("fed", func() bool { return len(n.records()) == 1 && n.count("forgotten") == 1 })
		got := n.records()[0]
		if got.Position != r.Position || got.Prev != r.Prev || got.Event != "0" || !got.Time.Equal(r.Time) {
			t.Errorf("fed %+v, want %+v", got, r)
		}
	}
	two.Unwatch("t")
	two.Watch("u", two.ready)
	two.until("ready", func() bool { return two.count("ready") == 2 })
	one.mustAdd("t", 1)
	one.until("fed", func() bool { return len(one.records()) == 2 })
	one.mustAdd("u", 1)
	two.until("fed", func() bool { return len(two.records()) == 2 })
	two.Watch("t", two.ready)
	two.Unwatch("t")
	two.Watch("t", two.ready)
	two.until("ready", func() bool { return two.count("ready") >= 3 })
	one.mustAdd("t", 1)
	two.until("fed", func() bool { return len(two.records()) == 3 })
}

// Senders and readers use a server that is cut off, frozen, and killed. The checker of package
// histcheck judges what the readers saw.
func TestAppendsUnderFaults(t *testing.T) {
	t.Parallel()
	e := newDurable(t)
	rec := new(histcheck.Recorder)
	k := history.Keep{Count: 5000, Age: time.Hour, Bytes: 10 << 20}
	proxy := brokertest.NewProxy(t, e.addr)
	cfg := quick(redisengine.Config{URL: "redis://" + proxy.Addr})
	quit, finish := make(chan struct{}), make(chan struct{})
	var senders, readers sync.WaitGroup
	for s := range 3 {
		n := startLog(t, cfg)
		senders.Go(func() { send(t, n, rec, fmt.Sprint("sender ", s), k, quit) })
	}
	for c := range 3 {
		n := startLog(t, cfg)
		readers.Go(func() { readOn(t, n, rec, fmt.Sprint("client ", c), finish) })
	}
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	progress := func() {
		t.Helper()
		n.waitConnected()
		before := n.top("t")
		n.until("in progress", func() bool {
			tops, err := n.Tops(t.Context(), []string{"t"})
			return err == nil && tops[0].Offset() > before.Offset()+200
		})
	}
	for range 3 {
		progress()
		proxy.Cut()
		progress()
		e.signal(syscall.SIGSTOP)()
		time.Sleep(rand.N(3 * time.Second)) // shorter and longer than the timeout of appends
		e.signal(syscall.SIGCONT)()
		progress()
		e.stop()
		e.start(t)
	}
	progress()
	close(quit)
	senders.Wait()
	close(finish)
	readers.Wait()
	for _, v := range rec.Check(histcheck.Limits{Count: k.Count, MaxReplay: 100_000}) {
		t.Error(v)
	}
}

// send appends records until quit is closed. An uncertain record is sent again with its ID. If it
// stays uncertain, it may be stored later than the next one, so it is the last one of a sender.
func send(t *testing.T, n *logNode, rec *histcheck.Recorder, name string, k history.Keep, quit <-chan struct{}) {
	sender := name
	for i := 0; ; i++ {
		select {
		case <-quit:
			return
		default:
		}
		id := fmt.Sprintf("%s/%d", name, i)
		rec.Append(sender, id, "")
		r := history.Record{Event: id, ID: id}
		got, err := n.Append(t.Context(), "t", r, k)
		for range 3 {
			if !errors.Is(err, history.ErrUncertain) {
				break
			}
			got, err = n.Append(t.Context(), "t", r, k)
			if err != nil {
				err = history.ErrUncertain // the first attempt may have stored it
			}
		}
		switch {
		case err == nil:
			rec.Appended(id, got.Position.String())
		case errors.Is(err, history.ErrUncertain):
			rec.Uncertain(id)
			sender = fmt.Sprint(name, " after ", i)
		default:
			rec.Failed(id)
		}
	}
}

// readOn is a client that reads the log from its position on, until finish is closed and it has
// reached the top.
func readOn(t *testing.T, n *logNode, rec *histcheck.Recorder, name string, finish <-chan struct{}) {
	var at history.Position
	rec.Join(name, "", true)
	for at.IsZero() {
		if tops, err := n.Tops(t.Context(), []string{"t"}); err == nil {
			at = tops[0]
		}
	}
	rec.Joined(name, histcheck.Reply{Pos: at.String(), Why: "new"})
	for {
		ending := false
		select {
		case <-finish:
			ending = true
		default:
		}
		b, err := n.Read(t.Context(), "t", at, 100)
		switch {
		case errors.Is(err, history.ErrUnavailable):
			continue
		case err != nil:
			t.Errorf("%s at %v: %v", name, at, err)
			return
		}
		for _, r := range b.Records {
			if r.Prev != at {
				t.Errorf("%s was at %v and read %v after %v", name, at, r.Position, r.Prev)
			}
			rec.Received(name, r.Position.String(), r.Event)
			at = r.Position
		}
		if ending && at == b.Top {
			return
		}
	}
}

func FuzzFed(f *testing.F) {
	r := history.Record{Event: "e", Payload: serializer.Binary([]byte(" x"))}
	data, err := r.AppendBinary(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("epoch 17 abcd 0000 1764374400000 2 " + string(data))
	f.Add("epoch 0 abcd 0000 1764374400000 2 " + string(data))
	f.Add("epoch 17 abcd 0000 1764374400000 2")
	f.Add("")
	f.Fuzz(func(t *testing.T, data string) {
		r, err := redisengine.ParseFed(data)
		if err != nil {
			return
		}
		same := strings.HasPrefix(data, r.Position.Epoch()+" ")
		if !same || r.Prev.Offset() != r.Position.Offset()-1 || r.Prev.Epoch() != r.Position.Epoch() {
			t.Errorf("%q became %v after %v", data, r.Position, r.Prev)
		}
	})
}

// The log has three connections. If one of them carries nothing anymore, or ends, the log notices
// it soon, although the others work and nothing is appended. All of them are made again, so that
// they never lead to different servers.
func TestOneConnectionStalls(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	for i := range 3 {
		proxies := []*brokertest.Proxy{
			brokertest.NewProxy(t, e.addr), brokertest.NewProxy(t, e.addr), brokertest.NewProxy(t, e.addr),
		}
		var dials atomic.Int64
		n := startLog(t, quick(redisengine.Config{Options: rueidis.ClientOption{
			InitAddress: []string{e.addr},
			DialCtxFn: func(ctx context.Context, _ string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return d.DialContext(ctx, "tcp", proxies[(dials.Add(1)-1)%3].Addr)
			},
		}}))
		n.Watch("t", n.ready)
		n.until("ready", func() bool { return n.count("ready") == 1 })
		if dials.Load() != 3 {
			t.Fatalf("there are %d connections", dials.Load())
		}
		proxies[i].Stall()
		n.until("down", func() bool { return n.count("down") == 1 })
		proxies[i].Resume()
		n.until("ready again", func() bool { return n.count("ready") == 2 && n.count("gap") == 1 })
		proxies[i].Cut()
		n.until("ready again", func() bool { return n.count("ready") == 3 && n.count("gap") == 2 })
		n.stop()
	}
}
