//go:build unix

package redisengine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/history/historytest"
	"bennu.example/serializer"
)

var keep = history.Keep{Count: 100, Bytes: 1 << 20, Age: time.Hour}

func newLog(t testing.TB, cfg redisengine.Config) history.Log {
	t.Helper()
	e, err := redisengine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e.History()
}

// topicCount returns the number of topics with a meta.
func (e *testServer) topicCount(t testing.TB) int {
	return strings.Count(e.do(t, "KEYS", "bennu:h:*:m"), "bennu:h:")
}

// rollback removes the newest records of a topic, as a failover to a replica without them does.
func (e *testServer) rollback(t testing.TB, topic string, n int) {
	const script = `
		local all = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[1] + 1)
		local last = table.remove(all)
		for _, entry in ipairs(all) do redis.call('XDEL', KEYS[2], entry[1]) end
		redis.call('XSETID', KEYS[2], last[1])
		return string.match(last[1], '^%d+') .. ' ' .. string.sub(last[2][2], 1, 4)`
	key := "bennu:h:{" + topic + "}"
	top := strings.Fields(e.do(t, "EVAL", script, "2", key+":m", key+":s", strconv.Itoa(n)))
	if len(top) != 2 {
		t.Fatalf("the top is %q", top)
	}
	e.setMeta(t, topic, top[0], top[1])
}

// setTop makes p the top in the meta of a topic.
func (e *testServer) setTop(t testing.TB, topic string, p history.Position) {
	e.setMeta(t, topic, strconv.FormatUint(p.Offset(), 10), p.Tag())
}

func (e *testServer) setMeta(t testing.TB, topic, offset, tag string) {
	key := "bennu:h:{" + topic + "}:m"
	fields := strings.Fields(e.do(t, "GET", key))
	if len(fields) != 8 {
		t.Fatalf("the meta is %q", fields)
	}
	fields[1], fields[2] = offset, tag
	e.do(t, "SET", key, strings.Join(fields, " "), "KEEPTTL")
}

func TestHistorySuite(t *testing.T) {
	historytest.Run(t, func(t *testing.T) historytest.Engine {
		e := newServer(t)
		open := func(addr string) history.Log {
			return newLog(t, quick(redisengine.Config{URL: "redis://" + addr, Queue: brokertest.Queue}))
		}
		proxy := brokertest.NewProxy(t, e.addr)
		return historytest.Engine{
			Log:      open(proxy.Addr),
			Restart:  func(testing.TB) history.Log { return open(e.addr) },
			Rollback: e.rollback,
			Topics:   e.topicCount,
			Node:     func(testing.TB) history.Log { return open(e.addr) },
			Freeze: func(testing.TB) func() {
				e.signal(syscall.SIGSTOP)()
				return e.signal(syscall.SIGCONT)
			},
			Disconnect: func(testing.TB) func() {
				proxy.Stall() // new connections do not work, too
				proxy.Cut()
				return proxy.Resume
			},
			LoseRecords: func(t testing.TB, topic string) { e.do(t, "DEL", "bennu:h:{"+topic+"}:s") },
			LoseMeta:    func(t testing.TB, topic string) { e.do(t, "DEL", "bennu:h:{"+topic+"}:m") },
			Durable:     true,
		}
	})
}

// logNode is a log that runs until the test ends, and what it has fed.
type logNode struct {
	t testing.TB
	history.Log
	stop func()

	mu    sync.Mutex
	fed   []history.Record
	notes []string // "ready", "down", "gap", "forgotten", in order
	block sync.Mutex
}

func startLog(t testing.TB, cfg redisengine.Config) *logNode {
	t.Helper()
	n := runLog(t, cfg)
	n.waitConnected()
	return n
}

// runLog is like startLog, but does not wait for the connection.
func runLog(t testing.TB, cfg redisengine.Config) *logNode {
	t.Helper()
	n := &logNode{t: t, Log: newLog(t, cfg)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.Run(ctx, history.Inbox{
			Record: func(_ string, r history.Record) {
				n.block.Lock()
				defer n.block.Unlock()
				n.mu.Lock()
				defer n.mu.Unlock()
				n.fed = append(n.fed, r)
			},
			Forgotten: func(string) { n.note("forgotten") },
			Gap:       func(error) { n.note("gap") },
		})
	}()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *logNode) note(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = append(n.notes, s)
}

func (n *logNode) ready(err error) {
	if err != nil {
		n.note("down")
	} else {
		n.note("ready")
	}
}

// count returns how often something was noted.
func (n *logNode) count(note string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.notes {
		if s == note {
			count++
		}
	}
	return count
}

// records returns what was fed.
func (n *logNode) records() []history.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.fed)
}

func (n *logNode) until(what string, ok func() bool) {
	n.t.Helper()
	brokertest.WaitUntil(n.t, what, ok)
}

func (n *logNode) waitConnected() {
	n.t.Helper()
	n.until("connected", func() bool { return n.Health().Connected })
}

// waitDown waits until the log is not connected for this reason.
func (n *logNode) waitDown(reason string) {
	n.t.Helper()
	n.until("disconnected: "+reason, func() bool {
		h := n.Health()
		return !h.Connected && h.Err != nil && strings.Contains(h.Err.Error(), reason)
	})
}

func (n *logNode) add(topic, event string) (history.Record, error) {
	return n.Append(n.t.Context(), topic, history.Record{Event: event, Payload: serializer.Value(struct{}{})}, keep)
}

// mustAdd appends count records and returns them.
func (n *logNode) mustAdd(topic string, count int) (all []history.Record) {
	n.t.Helper()
	for i := range count {
		r, err := n.add(topic, fmt.Sprint(i))
		if err != nil {
			n.t.Fatalf("append %d: %v", i, err)
		}
		all = append(all, r)
	}
	return all
}

func (n *logNode) top(topic string) history.Position {
	n.t.Helper()
	tops, err := n.Tops(n.t.Context(), []string{topic})
	if err != nil {
		n.t.Fatal(err)
	}
	return tops[0]
}

// wantRead checks the answer to a read: the error, or the number of records if it is nil.
func (n *logNode) wantRead(topic string, after history.Position, count int, want error) {
	n.t.Helper()
	b, err := n.Read(n.t.Context(), topic, after, 1000)
	if !errors.Is(err, want) || want == nil && (err != nil || len(b.Records) != count) {
		n.t.Errorf("read after %v: %d records, %v; want %d, %v", after, len(b.Records), err, count, want)
	}
}

// The permissions in the package documentation are sufficient for the log, and each of them is
// needed, except for CONFIG and WAIT. Without CONFIG there is a warning.
func TestHistoryPermissions(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	lines := documentedUsers(t)
	for _, line := range lines {
		e.do(t, append([]string{"ACL", "SETUSER"}, line...)...)
	}
	user := redisengine.Config{URL: "redis://bennu:secret@" + e.addr}
	n := startLog(t, user)
	n.Watch("t", n.ready)
	n.until("ready", func() bool { return n.count("ready") == 1 })
	r := n.mustAdd("t", 3)
	if _, err := n.Append(t.Context(), "t", history.Record{Event: "e", ID: "a"}, keep); err != nil {
		t.Error(err)
	}
	n.wantRead("t", r[0].Position, 3, nil)
	if err := n.Forget(t.Context(), "t"); err != nil {
		t.Error(err)
	}
	n.wantRead("t", r[0].Position, 0, history.ErrEpoch)
	n.stop()
	for _, permission := range slices.Concat(lines[1:3]...) {
		name, ok := strings.CutPrefix(permission, "+")
		if !ok {
			continue
		}
		e.do(t, "ACL", "SETUSER", "bennu", "-"+name)
		var log bytes.Buffer
		logger := zerolog.New(zerolog.SyncWriter(&log))
		cfg := user
		cfg.Logger = &logger
		n := runLog(t, cfg)
		switch name {
		case "wait":
			n.waitConnected()
		case "config|get":
			n.waitConnected()
			if !strings.Contains(log.String(), "maxmemory-policy") {
				t.Errorf("without CONFIG, the log is %s", log.String())
			}
		default:
			n.until("refused without "+name, func() bool {
				err := n.Health().Err
				return err != nil && (strings.Contains(err.Error(), "permission") || strings.Contains(err.Error(), "can't run"))
			})
		}
		n.stop()
		e.do(t, "ACL", "SETUSER", "bennu", "+"+name)
	}
	waitLogFailure(t, redisengine.Config{URL: user.URL, Prefix: "other"}, "permission")
	waitLogFailure(t, redisengine.Config{URL: "redis://bennu:guess@" + e.addr}, "WRONGPASS")
}

// documentedUsers returns the arguments of the commands ACL SETUSER in the package documentation.
func documentedUsers(t *testing.T) (users [][]string) {
	t.Helper()
	doc, err := os.ReadFile("redisengine.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		if rest, ok := strings.CutPrefix(line, "//\tACL SETUSER "); ok {
			users = append(users, strings.Fields(rest))
		}
	}
	if len(users) != 7 {
		t.Fatalf("the documentation contains the users %q", users)
	}
	return users
}

func waitLogFailure(t *testing.T, cfg redisengine.Config, reason string) {
	t.Helper()
	n := runLog(t, cfg)
	n.waitDown(reason)
	n.stop()
}

// A server that may evict keys is refused, also if the setting changes later.
func TestEvictionIsRefused(t *testing.T) {
	t.Parallel()
	e := newServer(t, "--maxmemory-policy", "volatile-lru")
	n := runLog(t, quick(redisengine.Config{URL: "redis://" + e.addr}))
	n.waitDown(`set maxmemory-policy to noeviction, but it is "volatile-lru"`)
	if _, err := n.add("t", "e"); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("append: %v", err)
	}
	e.do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	n.waitConnected()
	n.mustAdd("t", 1)
	e.do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	n.waitDown("allkeys-lru")
}

// A full server refuses records and can still be read.
func TestServerIsFull(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	r := n.mustAdd("t", 2)
	e.do(t, "CONFIG", "SET", "maxmemory", "1")
	if _, err := n.add("t", "e"); !errors.Is(err, history.ErrFull) {
		t.Errorf("append: %v", err)
	}
	n.wantRead("t", r[0].Position, 1, nil)
	late := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	late.wantRead("t", r[0].Position, 1, nil)
	e.do(t, "CONFIG", "SET", "maxmemory", "0")
	n.mustAdd("t", 1)
	n.wantRead("t", r[0].Position, 2, nil)
}

// The server forgets the scripts while many appends are in flight.
func TestScriptsAreSentAgain(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	n.Watch("t", n.ready)
	n.until("ready", func() bool { return n.count("ready") == 1 })
	begin := n.top("t")
	const writers, each = 8, 40
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range each {
				if i%10 == 0 {
					e.do(t, "SCRIPT", "FLUSH")
				}
				if _, err := n.Append(t.Context(), "t", history.Record{Event: "e"}, history.Keep{Count: 1000}); err != nil {
					t.Error(err)
				}
				if _, err := n.Read(t.Context(), "t", begin, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n.wantRead("t", begin, writers*each, nil)
	n.until("fed", func() bool { return len(n.records()) == writers*each })
	for i, r := range n.records() {
		if r.Prev != begin {
			t.Fatalf("record %d has Prev %v, want %v", i, r.Prev, begin)
		}
		begin = r.Position
	}
}

// A refused append is sent again after the reconnect, unless its caller has given up.
func TestRefusedAppendsAreSentAgain(t *testing.T) {
	if again, first := redisengine.Requeue(); !errors.Is(first, history.ErrUncertain) || again != 1 {
		t.Errorf("got %v; %d are sent again", first, again)
	}
}

// The record of an ID was lost, and its offset was used again.
func TestIDOfLostRecord(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	n.mustAdd("t", 2)
	once := func() history.Record {
		t.Helper()
		r, err := n.Append(t.Context(), "t", history.Record{Event: "once", ID: "a"}, keep)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	lost := once()
	e.rollback(t, "t", 1)
	other := n.mustAdd("t", 1)[0]
	if other.Position.Offset() != lost.Position.Offset() {
		t.Fatalf("%v did not replace %v", other.Position, lost.Position)
	}
	if r := once(); r.Event != "once" || r.Prev != other.Position {
		t.Errorf("got %+v", r)
	}
	if h := n.Health(); h.Appended != 5 {
		t.Errorf("health %+v", h)
	}
	once() // is found
	if h := n.Health(); h.Appended != 5 || n.top("t").Offset() != other.Position.Offset()+1 {
		t.Errorf("health %+v", h)
	}
}

// newCluster starts a Redis Cluster of three servers with the documented users. One has the slot of
// the keys of an engine, replica is its replica, and other has the other slots.
func newCluster(t *testing.T) (other, replica *testServer) {
	t.Helper()
	var nodes []*testServer
	for range 3 {
		_, bus := freePort(t)
		e := newServer(t, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000",
			"--repl-diskless-sync-delay", "0")
		nodes = append(nodes, e)
		host, port, _ := net.SplitHostPort(nodes[0].addr)
		if len(nodes) > 1 {
			brokertest.WaitUntil(t, "met", func() bool {
				e.do(t, "CLUSTER", "MEET", host, port, nodes[0].args[slices.Index(nodes[0].args, "--cluster-port")+1])
				return strings.Contains(e.do(t, "CLUSTER", "NODES"), nodes[0].addr)
			})
		}
	}
	owner := nodes[1]
	other, replica = nodes[0], nodes[2]
	slot, err := strconv.Atoi(owner.do(t, "CLUSTER", "KEYSLOT", "{bennu}:h"))
	if err != nil {
		t.Fatal(err)
	}
	owner.do(t, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(slot), strconv.Itoa(slot))
	other.do(t, "CLUSTER", "ADDSLOTSRANGE", "0", strconv.Itoa(slot-1), strconv.Itoa(slot+1), "16383")
	id := strings.TrimSpace(owner.do(t, "CLUSTER", "MYID"))
	brokertest.WaitUntil(t, "a replica", func() bool {
		_, err := replica.try("CLUSTER", "REPLICATE", id)
		return err == nil
	})
	for _, e := range nodes {
		brokertest.WaitUntil(t, "one cluster", func() bool {
			return strings.Contains(e.do(t, "CLUSTER", "INFO"), "cluster_state:ok")
		})
	}
	for _, line := range documentedUsers(t) {
		for _, e := range nodes {
			e.do(t, append([]string{"ACL", "SETUSER"}, line...)...)
		}
	}
	return other, replica
}

// In a Redis Cluster, one server has the whole history. The log finds it, and its replica after a
// failover.
func TestHistoryInCluster(t *testing.T) {
	t.Parallel()
	other, replica := newCluster(t)
	n := startLog(t, quick(redisengine.Config{Options: rueidis.ClientOption{
		InitAddress: []string{other.addr, replica.addr}, Username: "bennu", Password: "secret",
	}}))
	for _, topic := range []string{"t", "u", "}{", ""} {
		n.Watch(topic, n.ready)
		all := n.mustAdd(topic, 3)
		n.wantRead(topic, all[0].Position, 2, nil)
	}
	n.until("ready", func() bool { return n.count("ready") == 4 })
	if tops, err := n.Tops(t.Context(), []string{"t", "u", "v"}); err != nil || len(tops) != 3 {
		t.Errorf("tops: %v, %v", tops, err)
	}
	at := n.top("t")
	failOver(t, replica)
	n.until("ready again", func() bool { return n.count("ready") == 8 && n.count("gap") >= 1 })
	var r history.Record
	var err error
	n.until("appended", func() bool {
		r, err = n.add("t", "after")
		return err == nil
	})
	n.until("fed", func() bool {
		all := n.records()
		return len(all) > 0 && all[len(all)-1].Position == r.Position
	})
	n.wantRead("t", at, 1, nil)
}

// A beginning that was read before the topic was born is continued for 22 h, and no longer, since
// the meta of a topic that had records in between may have expired by then.
func TestOldBeginnings(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	n := startLog(t, redisengine.Config{URL: "redis://" + e.addr})
	born := n.top("born")
	n.mustAdd("born", 3)
	n.mustAdd("trimmed", 3)
	e.do(t, "XTRIM", "bennu:h:{trimmed}:s", "MAXLEN", "2")
	old := n.top("forgotten")
	if err := n.Forget(t.Context(), "forgotten"); err != nil {
		t.Fatal(err)
	}
	n.wantRead("forgotten", old, 0, history.ErrEpoch)
	for {
		now := n.top("unborn")
		for hours := -3; hours < 100; hours++ {
			since := func(p history.Position) history.Position {
				p, err := history.NewPosition(p.Epoch(), p.Offset()-uint64(hours<<24), "0000")
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			want, trimmed := error(nil), history.ErrTrimmed
			switch {
			case hours < -1:
				want, trimmed = history.ErrAhead, history.ErrAhead
			case hours > 22:
				want = history.ErrTrimmed
			}
			n.wantRead("unborn", since(now), 0, want)
			n.wantRead("born", since(born), 3, want)
			n.wantRead("trimmed", since(born), 0, trimmed)
			n.wantRead("forgotten", since(old), 0, history.ErrEpoch)
			b, err := n.Read(t.Context(), "born", since(born), 1)
			if err == nil && (b.After != since(born) || b.Records[0].Prev != b.After || !b.More) {
				t.Errorf("%d hours: got %+v", hours, b)
			}
		}
		if n.top("unborn") == now {
			return
		}
		if t.Failed() {
			t.Fatal("the hour changed during the test: run it again")
		}
	}
}
