//go:build unix

package redisengine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/serializer"
)

// A killed server that has written everything to disk continues the log. One that has not begins
// another log.
func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprint("durable ", durable), func(t *testing.T) {
			t.Parallel()
			e := newServer(t)
			if durable {
				e = newDurable(t)
			}
			n := startLog(t, quick(redisengine.Config{URL: "redis://" + e.addr}))
			n.Watch("t", n.ready)
			n.until("ready", func() bool { return n.count("ready") == 1 })
			begin := n.top("t")
			all := n.mustAdd("t", 5)
			e.stop()
			n.until("down", func() bool { return n.count("down") == 1 })
			before := time.Now()
			if _, err := n.add("t", "e"); !errors.Is(err, history.ErrUnavailable) || errors.Is(err, history.ErrUncertain) {
				t.Errorf("append: %v", err)
			}
			if d := time.Since(before); d < time.Second || d > 10*time.Second {
				t.Errorf("Append waited %v for a connection, want 2 s", d)
			}
			waiting := make(chan error)
			go func() { _, err := n.add("t", "waits"); waiting <- err }()
			e.start(t)
			err := <-waiting // within its 2 s, or not
			if err != nil && !errors.Is(err, history.ErrUnavailable) {
				t.Errorf("an append that waited for the server: %v", err)
			}
			n.until("ready again", func() bool { return n.count("ready") == 2 })
			n.until("gap", func() bool { return n.count("gap") == 1 })
			later := n.mustAdd("t", 2)
			if durable {
				extra := 0
				if err == nil {
					extra = 1
				}
				n.wantRead("t", begin, 7+extra, nil)
				n.wantRead("t", all[4].Position, 2+extra, nil)
			} else {
				n.wantRead("t", begin, 0, history.ErrEpoch)
				n.wantRead("t", all[4].Position, 0, history.ErrEpoch)
			}
			n.wantRead("t", later[0].Position, 1, nil)
		})
	}
}

// A frozen server: an append that was sent is uncertain, and one that was not is not stored. The
// queue is bounded.
func TestServerIsFrozen(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, quick(redisengine.Config{URL: "redis://" + e.addr}))
	n.Watch("t", n.ready)
	n.until("ready", func() bool { return n.count("ready") == 1 })
	begin := n.top("t")
	e.signal(syscall.SIGSTOP)()
	var mu sync.Mutex
	outcomes := map[string]int{}
	stored := map[string]bool{} // by event: it must be in the log, or must not; others are uncertain
	var wg sync.WaitGroup
	for i := range 5000 {
		wg.Go(func() {
			event := fmt.Sprint("e", i)
			r := history.Record{Event: event, Payload: serializer.Value(struct{}{})}
			_, err := n.Append(t.Context(), "t", r, history.Keep{Count: 10_000})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				outcomes["stored"]++
				stored[event] = true
			case errors.Is(err, history.ErrUncertain):
				outcomes["uncertain"]++
			case errors.Is(err, history.ErrFull), errors.Is(err, history.ErrUnavailable):
				outcomes[map[bool]string{true: "full", false: "unavailable"}[errors.Is(err, history.ErrFull)]]++
				stored[event] = false
			default:
				t.Errorf("append: %v", err)
			}
		})
	}
	wg.Wait()
	n.until("down", func() bool { return n.count("down") == 1 })
	// On a busy machine few are refused for want of room, or none: the first have their outcome
	// before the last begin. TestWaitingAppendsAreBounded has the bound.
	if outcomes["uncertain"] == 0 || outcomes["unavailable"] == 0 || outcomes["full"] > 5000-4096 {
		t.Errorf("got %v", outcomes)
	}
	if h := n.Health(); h.Queued != 0 {
		t.Errorf("%d bytes are queued", h.Queued)
	}
	e.signal(syscall.SIGCONT)()
	n.until("ready again", func() bool { return n.count("ready") == 2 })
	// This record comes after all that the server had received.
	if _, err := n.Append(t.Context(), "t", history.Record{Event: "last"}, history.Keep{Count: 10_000}); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for at := begin; ; {
		b, err := n.Read(t.Context(), "t", at, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			found[r.Event] = true
			at = r.Position
		}
		if !b.More {
			break
		}
	}
	for event, want := range stored {
		if found[event] != want {
			t.Errorf("%s is in the log: %v, want %v", event, found[event], want)
		}
	}
	t.Logf("%v; %d are in the log", outcomes, len(found))
}

// While there is no connection, appends wait, and their bytes are bounded.
func TestWaitingAppendsAreBounded(t *testing.T) {
	t.Parallel()
	dead, _ := freePort(t)
	n := runLog(t, redisengine.Config{URL: "redis://" + dead})
	n.waitDown("")
	large := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 1<<20))}
	errs := make(chan error)
	attempt := func() (full int) {
		for range 20 {
			go func() {
				_, err := n.Append(t.Context(), "t", large, history.Keep{Bytes: 2 << 20})
				errs <- err
			}()
		}
		for range 20 {
			switch err := <-errs; {
			case errors.Is(err, history.ErrFull):
				full++
				if queued := n.Health().Queued; queued > 16<<20 {
					t.Errorf("%d bytes are queued", queued)
				}
			case !errors.Is(err, history.ErrUnavailable):
				t.Errorf("append: %v", err)
			}
		}
		return full
	}
	// On a busy machine some give up before others begin.
	full := 0
	for range 5 {
		if full = attempt(); full > 0 {
			break
		}
	}
	if full == 0 || full > 5 {
		t.Errorf("%d of 20 appends found no room, want 5", full)
	}
	large.Payload = serializer.Binary(make([]byte, 16<<20))
	if _, err := n.Append(t.Context(), "t", large, history.Keep{Bytes: 20 << 20}); !errors.Is(err, history.ErrTooLarge) {
		t.Errorf("append of 16 MiB: %v", err)
	}
}

// An old dump is restored, and the offsets are used again for other records.
func TestDumpIsRestored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := newServer(t, "--dir", dir)
	n := startLog(t, quick(redisengine.Config{URL: "redis://" + e.addr}))
	kept := n.mustAdd("t", 5)
	e.do(t, "SAVE")
	dump, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	lost := n.mustAdd("t", 5)
	lostTopic := n.mustAdd("u", 2)
	e.stop()
	n.waitDown("")
	if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), dump, 0o600); err != nil {
		t.Fatal(err)
	}
	e.start(t)
	n.waitConnected()
	n.wantRead("t", kept[2].Position, 2, nil)
	n.wantRead("t", kept[4].Position, 0, nil)
	for _, r := range lost {
		n.wantRead("t", r.Position, 0, history.ErrAhead)
	}
	n.wantRead("u", lostTopic[1].Position, 0, history.ErrAhead)
	again := n.mustAdd("t", 7)
	n.mustAdd("u", 3)
	for i, r := range lost {
		if again[i].Position.Offset() != r.Position.Offset() {
			t.Errorf("offset %d was not used again", r.Position.Offset())
		}
		n.wantRead("t", r.Position, 0, history.ErrTag)
	}
	n.wantRead("u", lostTopic[1].Position, 0, history.ErrTag)
	n.wantRead("t", kept[4].Position, 7, nil)
}

// A replica that does not have the newest records is promoted.
func TestReplicaWithoutTailIsPromoted(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	link := brokertest.NewProxy(t, primary.addr) // between the servers
	replica := newReplica(t, &testServer{addr: link.Addr})
	n := startLog(t, quick(redisengine.Config{URL: "redis://" + primary.addr}))
	kept := n.mustAdd("t", 5)
	brokertest.WaitUntil(t, "replicated", func() bool {
		return replica.do(t, "XLEN", "bennu:h:{t}:s") == "5"
	})
	link.Stall()
	lost := n.mustAdd("t", 5)
	born := n.mustAdd("u", 3)
	primary.stop()
	link.Cut()
	replica.do(t, "REPLICAOF", "NO", "ONE")
	other := startLog(t, quick(redisengine.Config{URL: "redis://" + replica.addr}))
	if top := other.top("t"); top != kept[4].Position {
		t.Fatalf("the top is %v, want %v", top, kept[4].Position)
	}
	check := func(want error) {
		t.Helper()
		for _, r := range lost {
			other.wantRead("t", r.Position, 0, want)
		}
		for _, r := range born {
			other.wantRead("u", r.Position, 0, want)
		}
	}
	check(history.ErrAhead)
	other.mustAdd("t", 15)
	other.mustAdd("u", 3)
	check(history.ErrTag)
	other.wantRead("t", kept[4].Position, 15, nil)
	other.wantRead("t", kept[2].Position, 17, nil)
}

// The primary becomes a replica and keeps its connections. Appends move to the new primary, and
// those that returned no error after the change are in its log.
func TestLogLeavesReplica(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	cfg := redisengine.Config{URL: "redis://" + primary.addr, Timeout: brokertest.Timeout, Ping: time.Minute}
	n := startLog(t, cfg) // only the answers to appends show the change
	n.Watch("t", n.ready)
	n.until("ready", func() bool { return n.count("ready") == 1 })
	n.mustAdd("t", 3)
	brokertest.WaitUntil(t, "replicated", func() bool {
		return replica.do(t, "XLEN", "bennu:h:{t}:s") == "3"
	})
	promote(t, replica, primary)
	r, err := n.add("t", "moves")
	if err != nil {
		t.Errorf("append during the change: %v", err)
	}
	n.until("ready again", func() bool { return n.count("ready") == 2 && n.count("gap") == 1 })
	other := startLog(t, quick(redisengine.Config{URL: "redis://" + replica.addr}))
	if top := other.top("t"); top != r.Position {
		t.Errorf("the top at the new primary is %v, want %v", top, r.Position)
	}
	other.mustAdd("t", 1)
	n.until("fed by the new primary", func() bool {
		all := n.records()
		return len(all) > 0 && all[len(all)-1].Prev == r.Position
	})

	// Without appends, the check shows the change.
	idle := startLog(t, quick(redisengine.Config{URL: "redis://" + replica.addr}))
	promote(t, primary, replica)
	idle.until("moved", func() bool { return idle.count("gap") == 1 && idle.Health().Connected })
	brokertest.WaitUntil(t, "replicated", func() bool {
		return primary.do(t, "XLEN", "bennu:h:{t}:s") == "5"
	})
	n.mustAdd("t", 1)
	idle.wantRead("t", r.Position, 2, nil)
}

// Wait: an append succeeds only if the replica has it.
func TestWaitForReplicas(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	cfg := redisengine.Config{URL: "redis://" + primary.addr, Wait: 1}
	n, other := startLog(t, cfg), startLog(t, cfg)
	once := func(n *logNode) (history.Record, error) {
		return n.Append(t.Context(), "t", history.Record{Event: "e", ID: "once"}, keep)
	}
	for i := range 20 {
		r := n.mustAdd("t", 1)[0]
		want := fmt.Sprintf("[[%d-0", r.Position.Offset())
		got := replica.do(t, "XREVRANGE", "bennu:h:{t}:s", "+", "-", "COUNT", "1")
		if !strings.HasPrefix(got, want) {
			t.Fatalf("append %d returned before the replica had it: %s", i, got)
		}
	}
	replica.signal(syscall.SIGSTOP)()
	if _, err := n.add("t", "e"); !errors.Is(err, history.ErrUncertain) {
		t.Errorf("without a replica: %v", err)
	}
	for _, n := range []*logNode{n, n, other} { // the later calls store nothing, and must wait all the same
		if _, err := once(n); !errors.Is(err, history.ErrUncertain) {
			t.Errorf("with an ID, without a replica: %v", err)
		}
	}
	top := n.top("t")
	replica.signal(syscall.SIGCONT)()
	n.until("replicated", func() bool { r, err := once(other); return err == nil && r.Position == top })
	n.mustAdd("t", 1)
	if !n.Health().Connected {
		t.Errorf("health %+v", n.Health())
	}
	if _, err := redisengine.New(redisengine.Config{Wait: -1}); err == nil {
		t.Error("a negative Wait is accepted")
	}
}

// Redis loses one of a topic's keys, or all of them. Positions of before are not continued.
func TestKeysAreLost(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	for name, lose := range map[string]func(){
		"meta":   func() { e.do(t, "DEL", "bennu:h:{meta}:m") },
		"stream": func() { e.do(t, "DEL", "bennu:h:{stream}:s") },
	} {
		for _, watched := range []bool{false, true} {
			begin := n.top(name)
			all := n.mustAdd(name, 5)
			lose()
			last := history.ErrEpoch
			if name == "stream" {
				last = nil // nothing is missed
				n.wantRead(name, begin, 0, history.ErrTrimmed)
				n.wantRead(name, all[1].Position, 0, history.ErrTrimmed)
			} else {
				n.wantRead(name, begin, 0, history.ErrEpoch)
				n.wantRead(name, all[1].Position, 0, history.ErrEpoch)
			}
			n.wantRead(name, all[4].Position, 0, last)
			if watched {
				n.Watch(name, n.ready)
				n.wantRead(name, n.top(name), 0, nil)
			}
			later := n.mustAdd(name, 3)
			for _, p := range []history.Position{begin, all[0].Position, all[2].Position} {
				want := history.ErrEpoch
				if name == "stream" {
					want = history.ErrTrimmed
				}
				n.wantRead(name, p, 0, want)
			}
			n.wantRead(name, later[0].Position, 2, nil)
			n.wantRead(name, later[0].Prev, 3, nil)
		}
	}
	// The meta is older than the records.
	old := n.mustAdd("old", 5)
	e.setTop(t, "old", old[2].Position)
	n.wantRead("old", old[2].Position, 0, nil)
	n.wantRead("old", old[4].Position, 0, history.ErrAhead)
	n.mustAdd("old", 5)
	for _, r := range old {
		n.wantRead("old", r.Position, 0, history.ErrEpoch)
	}

	begin, other := n.top("all"), n.top("other")
	all := n.mustAdd("all", 3)
	e.do(t, "FLUSHALL")
	for _, p := range []history.Position{begin, all[0].Position, all[2].Position} {
		n.wantRead("all", p, 0, history.ErrEpoch)
	}
	n.wantRead("other", other, 0, history.ErrEpoch)
	if n.top("other").Epoch() == other.Epoch() {
		t.Error("the base epoch survived")
	}
	n.mustAdd("all", 5)
	for _, p := range []history.Position{begin, all[0].Position, all[2].Position} {
		n.wantRead("all", p, 0, history.ErrEpoch)
	}
}

// The records and the meta expire at Redis. A topic with a subscriber keeps its top.
func TestKeysExpire(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	n.mustAdd("t", 1)
	ttl := func(key string) time.Duration {
		var ms int64
		if _, err := fmt.Sscan(e.do(t, "PTTL", key), &ms); err != nil {
			t.Fatal(err)
		}
		return (time.Duration(ms) * time.Millisecond).Round(time.Minute)
	}
	if m, s := ttl("bennu:h:{t}:m"), ttl("bennu:h:{t}:s"); m != 24*time.Hour || s != time.Hour {
		t.Errorf("the meta lives for %v, the records for %v", m, s)
	}
	long := history.Keep{Age: 5 * time.Hour}
	if _, err := n.Append(t.Context(), "t", history.Record{Event: "e", ID: "a"}, long); err != nil {
		t.Fatal(err)
	}
	if m, s, i := ttl("bennu:h:{t}:m"), ttl("bennu:h:{t}:s"), ttl("bennu:h:{t}:i:a"); m != 50*time.Hour ||
		s != 5*time.Hour || i != 2*time.Minute {
		t.Errorf("the meta lives for %v, the records for %v, the ID for %v", m, s, i)
	}
	top := n.top("t")
	e.do(t, "PEXPIRE", "bennu:h:{t}:m", "60000")
	n.Watch("t", n.ready)
	if n.top("t") != top || ttl("bennu:h:{t}:m") != 50*time.Hour {
		t.Errorf("the meta of a watched topic lives for %v", ttl("bennu:h:{t}:m"))
	}
	n.Watch("u", n.ready)
	if begin := n.top("u"); !begin.IsBeginning() || ttl("bennu:h:{u}:m") != time.Hour {
		t.Errorf("the meta of a topic without records lives for %v", ttl("bennu:h:{u}:m"))
	}
	n.mustAdd("u", 1)
	if m := ttl("bennu:h:{u}:m"); m != 24*time.Hour {
		t.Errorf("the meta lives for %v", m)
	}
}

// One append removes at most 16 records.
func TestTrimsAreBounded(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	n.mustAdd("t", 60)
	small := keep
	small.Count = 5
	for i, want := range []string{"45", "30", "15", "5", "5"} {
		if _, err := n.Append(t.Context(), "t", history.Record{Event: "e"}, small); err != nil {
			t.Fatal(err)
		}
		if got := e.do(t, "XLEN", "bennu:h:{t}:s"); got != want {
			t.Errorf("append %d: %s records are left, want %s", i, got, want)
		}
	}
	e.do(t, "DEL", "bennu:h:{t}:s") // as if the records had expired
	n.mustAdd("t", 1)
	if bytes := e.bytes(t, "t"); bytes != 2 { // an empty payload is {}
		t.Errorf("the meta counts %d bytes", bytes)
	}
}

// bytes returns how many bytes of records the meta of a topic counts.
func (e *testServer) bytes(t testing.TB, topic string) int {
	t.Helper()
	fields := strings.Fields(e.do(t, "GET", "bennu:h:{"+topic+"}:m"))
	if len(fields) != 8 {
		t.Fatalf("the meta is %q", fields)
	}
	total, err := strconv.Atoi(fields[4])
	removed, err2 := strconv.Atoi(fields[5])
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return total - removed
}

// Records that exceed the count are removed unread, so the meta counts their bytes until these
// exceed the bound. No other record is removed then.
func TestBytesOfRecordsThatExceedTheCount(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	bounded := history.Keep{Count: 5, Bytes: 1000, Age: time.Hour}
	add := func(size int) {
		t.Helper()
		r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, size))}
		if _, err := n.Append(t.Context(), "t", r, bounded); err != nil {
			t.Fatal(err)
		}
	}
	length := func(want string) {
		t.Helper()
		if got := e.do(t, "XLEN", "bennu:h:{t}:s"); got != want {
			t.Errorf("%s records are left, want %s", got, want)
		}
	}
	for range 50 {
		add(100)
		if bytes := e.bytes(t, "t"); bytes > bounded.Bytes {
			t.Errorf("the meta counts %d bytes", bytes)
		}
	}
	length("5")
	for _, tt := range []struct {
		size, bytes int
		length      string
	}{{600, 1000, "5"}, {200, 1000, "4"}, {600, 800, "2"}, {1000, 1000, "1"}} {
		add(tt.size)
		length(tt.length)
		if bytes := e.bytes(t, "t"); bytes < tt.bytes || bytes > bounded.Bytes {
			t.Errorf("after %d bytes, the meta counts %d bytes, want %d", tt.size, bytes, tt.bytes)
		}
	}
}

// Every eighth append looks for records that are too old, and removes at most half of what is
// there. Reading skips them anyway.
func TestOldRecordsAreRemoved(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	all := n.mustAdd("t", 20)
	short := keep
	short.Age = 2 * time.Second
	n.until("old", func() bool { return time.Since(all[19].Time) > short.Age })
	var lengths []string
	for range 12 {
		if _, err := n.Append(t.Context(), "t", history.Record{Event: "e"}, short); err != nil {
			t.Fatal(err)
		}
		lengths = append(lengths, e.do(t, "XLEN", "bennu:h:{t}:s"))
		n.wantRead("t", all[19].Position, len(lengths), nil)
		n.wantRead("t", all[10].Position, 0, history.ErrTrimmed)
	}
	if got := strings.Join(lengths, " "); got != "21 22 23 12 13 14 15 16 17 18 19 12" {
		t.Errorf("the stream had %s records", got)
	}
}

// A context that ends ends a call, and Run, although the server does not answer.
func TestCallsEndWithContext(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	at := n.mustAdd("t", 1)[0].Position
	e.signal(syscall.SIGSTOP)()
	defer e.signal(syscall.SIGCONT)()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	soon := func(what string) {
		if d := time.Since(begun); d > 2500*time.Millisecond {
			t.Errorf("%s returned after %v", what, d)
		}
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := n.Tops(ctx, []string{"t"}); !errors.Is(err, history.ErrUnavailable) {
				t.Errorf("tops: %v", err)
			}
			if _, err := n.Read(ctx, "t", at, 1); !errors.Is(err, history.ErrUnavailable) {
				t.Errorf("read: %v", err)
			}
			if _, err := n.Append(ctx, "t", history.Record{Event: "e"}, keep); err == nil {
				t.Error("append: no error")
			}
			soon("a call")
		})
	}
	wg.Wait()
	if _, err := n.Append(ctx, "t", history.Record{Event: "e"}, keep); errors.Is(err, history.ErrUncertain) {
		t.Errorf("append with a context that has ended: %v", err)
	}
	begun = time.Now()
	n.stop()
	soon("Run")
	if _, err := n.add("t", "e"); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("append after Run: %v", err)
	}
	if err := n.Run(t.Context(), history.Inbox{}); err == nil {
		t.Error("Run was called twice")
	}
}
