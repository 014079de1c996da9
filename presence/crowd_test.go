package presence_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"net/http/httptest"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

var (
	crowdSize = flag.Int("crowd", 3000, "number of clients of BenchmarkCrowd")
	crowdFull = flag.Int("full", 50, "how many of them keep the list with a presence.Client")
)

// heartbeatInterval is that of phoenix.js and of socket.Client. The server's timeouts for idle and
// slow clients are the defaults.
const heartbeatInterval = 30 * time.Second

// crowd is a number of clients that join one room at once. It is settled when each client has
// received all of them.
//
// Most of the clients are recorders. A presence.Client needs more processor time and memory for a
// room than the server needs for one client, so thousands of them in one process would measure
// themselves.
type crowd struct {
	size      int
	recorders []*recorder
	followers []*follower

	fail    context.CancelCauseFunc // called for the first failure
	settled chan struct{}           // closed when no client is missing
	missing atomic.Int64            // number of clients that have not received all

	begin    time.Time    // of the joins
	replied  atomic.Int64 // time until a recorder's join was answered, at most
	diffs    atomic.Int64
	received atomic.Int64 // by the recorders, in bytes
}

// complete is called once by each client, when it has received all keys.
func (c *crowd) complete() {
	if c.missing.Add(-1) == 0 {
		close(c.settled)
	}
}

// crowdCost is what a crowd has cost between its joins and its end.
type crowdCost struct {
	elapsed  time.Duration
	replied  time.Duration // until the last join of a recorder was answered
	cpu      time.Duration // of the server and of the clients
	diffs    int64         // received by all clients
	received int64         // by the recorders, in bytes
}

// runCrowd has size clients join, of which full are a follower. It fails the test unless they
// settle within limit, without a leave, a disconnection or an error on the way, and with equal
// lists.
func runCrowd(tb testing.TB, size, full int, limit time.Duration) (cost crowdCost) {
	tb.Helper()
	ps := pubsub.New(nil)
	p := presence.New(ps, presence.Config{})
	handler := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{"room:*": members(p)}})
	server := httptest.NewServer(handler)
	defer server.Close()
	limited, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	ctx, fail := context.WithCancelCause(limited)
	defer fail(nil)
	c := &crowd{size: size, fail: fail, settled: make(chan struct{})}
	c.missing.Store(int64(size))

	var running sync.WaitGroup
	// The label tells the clients from the server in a profile.
	pprof.Do(ctx, pprof.Labels("side", "client"), func(ctx context.Context) {
		c.connect(ctx, server.URL, full, limit)
		if ctx.Err() == nil {
			cpu := cputime.Used()
			c.begin = time.Now()
			for _, r := range c.recorders {
				running.Go(func() { r.run(ctx, c) })
			}
			for _, f := range c.followers {
				f.join(c)
			}
			running.Go(func() { c.heartbeat(ctx) })
			select {
			case <-c.settled:
			case <-ctx.Done():
			}
			cost = crowdCost{
				elapsed: time.Since(c.begin), replied: time.Duration(c.replied.Load()), cpu: cputime.Used() - cpu,
				diffs: c.diffs.Load(), received: c.received.Load(),
			}
		}
	})
	stats := handler.Stats().WebSocket
	if ended := stats.Slow + stats.Idle; ended > 0 {
		tb.Errorf("%d clients ended as slow and %d as idle", stats.Slow, stats.Idle)
	}
	if ctx.Err() != nil {
		tb.Errorf("%d of %d clients have not received all: %v", c.missing.Load(), size, context.Cause(ctx))
	} else {
		c.compare(tb, p.List(topic))
	}
	fail(nil)
	for _, end := range []func(context.Context) error{handler.Shutdown, p.Close} {
		if err := end(context.Background()); err != nil {
			tb.Error(err)
		}
	}
	for _, r := range c.recorders {
		r.conn.Close()
	}
	for _, f := range c.followers {
		running.Go(func() { f.client.Close(context.Background()) })
	}
	running.Wait()
	return cost
}

// connect connects the clients. If one fails, it ends ctx.
func (c *crowd) connect(ctx context.Context, url string, full int, limit time.Duration) {
	var mu sync.Mutex
	var dials sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range c.size {
		slots <- struct{}{}
		dials.Go(func() {
			defer func() { <-slots }()
			var err error
			if i*full/c.size != (i+1)*full/c.size {
				var f *follower
				if f, err = newFollower(ctx, url, i, limit); err == nil {
					mu.Lock()
					c.followers = append(c.followers, f)
					mu.Unlock()
				}
			} else {
				var r *recorder
				if r, err = newRecorder(url, i); err == nil {
					mu.Lock()
					c.recorders = append(c.recorders, r)
					mu.Unlock()
				}
			}
			if err != nil {
				c.fail(fmt.Errorf("client %d: %w", i, err))
			}
		})
	}
	dials.Wait()
}

// heartbeat sends the heartbeats of the recorders until ctx ends.
func (c *crowd) heartbeat(ctx context.Context) {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, r := range c.recorders {
				if err := r.conn.Send([]byte(`[null,"2","phoenix","heartbeat",{}]`)); err != nil && ctx.Err() == nil {
					c.fail(fmt.Errorf("client %d: send heartbeat: %w", r.user, err))
				}
			}
		}
	}
}

// compare compares the list of each client with the server's.
func (c *crowd) compare(tb testing.TB, list presence.State) {
	tb.Helper()
	want := make([]uint32, c.size)
	if n, err := checksums(stateText(tb, list), want); err != nil || n != c.size {
		tb.Fatalf("the server lists %d of %d: %v", n, c.size, err)
	}
	for _, r := range c.recorders {
		if !slices.Equal(r.sums, want) {
			tb.Errorf("client %d received other metas than the server lists", r.user)
		}
	}
	for _, f := range c.followers {
		got := make([]uint32, c.size)
		if n, err := checksums(stateText(tb, f.list.List()), got); err != nil || !slices.Equal(got, want) {
			tb.Errorf("client %d lists %d of %d, or other metas than the server: %v", f.user, n, c.size, err)
		}
	}
}

func stateText(tb testing.TB, s presence.State) []byte {
	tb.Helper()
	raw, err := s.MarshalJSON()
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

const (
	userPrefix = `"user-`
	userDigits = 5
)

func userName(i int) string { return fmt.Sprintf("%s%0*d", userPrefix[1:], userDigits, i) }

// checksums finds the entries of users in a state or in the joins of a diff. It stores a checksum
// of each entry in sums, by the number of the user, and returns the number of users that sums did
// not have. It fails if an entry differs from the one in sums.
func checksums(text []byte, sums []uint32) (added int, err error) {
	for {
		at := bytes.Index(text, []byte(userPrefix))
		if at < 0 {
			return added, nil
		}
		text = text[at+len(userPrefix):]
		end := bytes.Index(text, []byte("]}"))
		if end < userDigits {
			return added, errors.New("malformed entry")
		}
		user, err := strconv.Atoi(string(text[:userDigits]))
		if err != nil || user >= len(sums) {
			return added, fmt.Errorf("unexpected user %q", text[:userDigits])
		}
		sum := max(1, crc32.ChecksumIEEE(text[:end]))
		switch sums[user] {
		case 0:
			sums[user] = sum
			added++
		case sum:
		default:
			return added, fmt.Errorf("two different entries of user %d", user)
		}
		text = text[end:]
	}
}

// recorder is a client that records a checksum for each entry, without parsing its messages.
type recorder struct {
	user  int
	conn  *wstest.Conn
	sums  []uint32 // by user; 0 if the user has not been received
	known int      // number of users in sums
}

func newRecorder(url string, user int) (*recorder, error) {
	conn, err := wstest.Dial(strings.TrimPrefix(url, "http://"), "/websocket?vsn=2.0.0")
	return &recorder{user: user, conn: conn}, err
}

// run joins the room and reads until the connection is closed.
func (r *recorder) run(ctx context.Context, c *crowd) {
	r.sums = make([]uint32, c.size)
	join := fmt.Sprintf(`["1","1",%q,"phx_join",{"user":%q}]`, topic, userName(r.user))
	err := r.conn.Send([]byte(join))
	for err == nil {
		var text []byte
		if text, err = r.conn.Text(); err == nil {
			c.received.Add(int64(len(text)))
			err = r.receive(text, c)
		}
	}
	if ctx.Err() == nil {
		c.fail(fmt.Errorf("client %d: %w", r.user, err))
	}
}

func (r *recorder) receive(text []byte, c *crowd) error {
	head := text[:min(len(text), 60)] // is longer than everything before the payload
	switch {
	case bytes.Contains(head, []byte(`"`+presence.EventState+`"`)):
	case bytes.Contains(head, []byte(`"`+presence.EventDiff+`"`)):
		c.diffs.Add(1)
		if !bytes.HasSuffix(text, []byte(`"leaves":{}}]`)) {
			return fmt.Errorf("a key left: …%s", text[max(0, len(text)-200):])
		}
	case bytes.Contains(head, []byte(`"phx_reply",{"status":"ok"`)):
		if bytes.HasPrefix(head, []byte(`["1","1",`)) {
			for now, last := int64(time.Since(c.begin)), c.replied.Load(); now > last; last = c.replied.Load() {
				if c.replied.CompareAndSwap(last, now) {
					break
				}
			}
		}
		return nil
	default:
		return fmt.Errorf("unexpected message %.200s", text)
	}
	added, err := checksums(text, r.sums)
	if r.known += added; added > 0 && r.known == c.size {
		c.complete()
	}
	return err
}

// follower is a client of this module with a presence.Client. Its requests have the time that the
// crowd has: how fast the server is must not decide whether the benchmark fails.
type follower struct {
	user   int
	client *socket.Client
	room   *channel.Client
	list   *presence.Client
}

func newFollower(ctx context.Context, url string, user int, limit time.Duration) (*follower, error) {
	client, err := socket.Dial(ctx, url, &socket.ClientConfig{
		Timeout: limit, ConnectTimeout: limit, HeartbeatTimeout: limit,
	})
	if err != nil {
		return nil, err
	}
	room := client.Channel(topic, map[string]string{"user": userName(user)})
	return &follower{user, client, room, presence.NewClient(room, nil)}, nil
}

// join joins the room. It fails the crowd if a key leaves, which also happens when a client has to
// join again.
func (f *follower) join(c *crowd) {
	f.room.On(presence.EventDiff, func(serializer.Payload) { c.diffs.Add(1) })
	known := 0
	f.list.OnJoin(func(_ string, current, _ presence.Entry) {
		if len(current.Metas) > 0 {
			return
		}
		if known++; known == c.size {
			c.complete()
		}
	})
	f.list.OnLeave(func(key string, _, _ presence.Entry) {
		c.fail(fmt.Errorf("client %d: %s left", f.user, key))
	})
	f.room.OnError(func(err error) { c.fail(fmt.Errorf("client %d: %w", f.user, err)) })
	f.room.Join()
}

// TestCrowd has enough clients join one room at once that their diffs are merged.
func TestCrowd(t *testing.T) {
	const size, full = 300, 30
	cost := runCrowd(t, size, full, 2*time.Minute)
	if every := int64(size * size / 2); cost.diffs >= every {
		t.Errorf("%d diffs, as many as without merging them (%d)", cost.diffs, every)
	}
}

// BenchmarkCrowd measures how long a crowd takes to settle. Run it with -benchtime 1x. With
// -cpuprofile, the samples of the clients have the label side=client.
func BenchmarkCrowd(b *testing.B) {
	var sum crowdCost
	for b.Loop() {
		cost := runCrowd(b, *crowdSize, *crowdFull, 10*time.Minute)
		sum.elapsed += cost.elapsed
		sum.replied += cost.replied
		sum.cpu += cost.cpu
		sum.diffs += cost.diffs
		sum.received += cost.received
	}
	n := float64(b.N)
	b.ReportMetric(sum.elapsed.Seconds()/n, "s-to-settle")
	b.ReportMetric(sum.replied.Seconds()/n, "s-to-replies")
	b.ReportMetric(sum.cpu.Seconds()/n, "cpu-s")
	b.ReportMetric(float64(sum.diffs)/n/float64(*crowdSize), "diffs/client")
	b.ReportMetric(float64(sum.received)/n/float64(*crowdSize-*crowdFull), "B/recorder")
}
