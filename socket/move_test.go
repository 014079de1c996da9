package socket_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// The tests of this file restart the nodes of a service, and move clients between them, while the
// clients push and records are broadcast. The clients have $socket, and open the next connection
// before the server closes the last one.

// moveWorld is a service of several nodes behind one address, and what its clients saw.
type moveWorld struct {
	t *testing.T
	*histcheck.Recorder
	rnd     *rand.Rand // of play
	ps      *pubsub.PubSub
	drain   socket.Drain
	virtual bool // in-memory connections and virtual time
	calm    bool // no connection is killed, and none goes to a node that shuts down

	joined, left atomic.Int64
	moves        atomic.Int64 // connections beyond the first of each client

	mu      sync.Mutex
	nodes   []*moveNode
	next    int
	conns   map[net.Conn]struct{} // the clients' ends
	handled map[string]int        // pushes that the servers handled
}

type moveNode struct {
	h        *socket.Handler
	server   *http.Server
	dial     func(ctx context.Context) (net.Conn, error)
	served   chan struct{}
	draining bool // guarded by the world
}

func (w *moveWorld) startNode() *moveNode {
	n := &moveNode{served: make(chan struct{})}
	join := func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
		w.joined.Add(1)
		return map[string]any{"since": c.Resume().Since}, nil
	}
	n.h = socket.NewHandler(socket.Config{
		PubSub: w.ps,
		Channels: channel.Routes{"room:*": channel.Define(join,
			onEvent("echo", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.handled[string(p.Bytes())]++
				return push.OK(p), nil
			}),
			channel.Terminate(func(*nobody, context.Context, *channel.Channel, error) { w.left.Add(1) }))},
		Drain: w.drain,
	})
	n.server = &http.Server{Handler: n.h, ReadHeaderTimeout: time.Minute}
	var l net.Listener
	if w.virtual {
		pipes := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		l, n.dial = pipes, pipes.dial
	} else {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		l, n.dial = tcp, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", tcp.Addr().String())
		}
	}
	go func() {
		defer close(n.served)
		_ = n.server.Serve(l)
	}()
	return n
}

func (w *moveWorld) end(n *moveNode) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(n.h.Shutdown(ctx), n.server.Shutdown(ctx)); err != nil {
		w.t.Error(err)
	}
	<-n.served
}

// restart shuts a node down while a new one takes over.
func (w *moveWorld) restart(i int) {
	next := w.startNode()
	w.mu.Lock()
	old := w.nodes[i]
	old.draining = true
	w.nodes[i] = next
	w.nodes = append(w.nodes, old)
	w.mu.Unlock()
	w.end(old)
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, n := range w.nodes {
		if n == old {
			w.nodes = append(w.nodes[:k:k], w.nodes[k+1:]...)
			break
		}
	}
}

// dial is the balancer. Unless the world is calm, it also chooses nodes that shut down.
func (w *moveWorld) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.mu.Lock()
	var n *moveNode
	for n == nil || w.calm && n.draining {
		w.next++
		n = w.nodes[w.next%len(w.nodes)]
	}
	w.mu.Unlock()
	conn, err := n.dial(ctx)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[conn] = struct{}{}
	return conn, nil
}

// kill breaks some connections.
func (w *moveWorld) kill(one int) {
	w.mu.Lock()
	var victims []net.Conn
	for conn := range w.conns {
		if w.rnd.IntN(one) == 0 {
			victims = append(victims, conn)
			delete(w.conns, conn)
		}
	}
	w.mu.Unlock()
	for _, conn := range victims {
		_ = conn.Close()
	}
}

// moveClient is a client in a recorded room that pushes continuously.
type moveClient struct {
	w          *moveWorld
	name       string
	sock       *socket.Client
	room       *channel.Client
	conns      int
	isUp       bool
	away       atomic.Int64 // how often it was without a connection
	lost       int
	pushed     int
	unrepaired int // joins that did not continue, but for the first
}

func (w *moveWorld) connect(name string, tr *http.Transport) *moveClient {
	c := &moveClient{w: w, name: name}
	c.sock = socket.NewClient("http://service/socket", &socket.ClientConfig{
		HTTPClient:  &http.Client{Transport: tr},
		RejoinAfter: func(int) time.Duration { return 50 * time.Millisecond },
	})
	c.sock.OnState(func(s socket.State) {
		switch {
		case s.Status == socket.StatusConnected:
			c.isUp = true
		case s.Status == socket.StatusDenied || s.Status == socket.StatusFailed:
			w.t.Errorf("%s: %v", name, s)
		case c.isUp && s.Wanted == socket.WantConnected:
			c.isUp = false
			c.away.Add(1)
		}
	})
	c.room = c.sock.Channel("room:1", nil)
	c.room.Resume(channel.ResumeConfig{})
	c.room.OnJoin(c.rejoined)
	c.room.OnError(func(error) { w.Cut(name) })
	c.room.On("msg", c.received)
	c.sock.Connect()
	c.room.Join()
	return c
}

func (c *moveClient) rejoined(reply serializer.Payload) {
	var r struct {
		Since   history.Position
		History struct {
			Pos       history.Position
			Recovered bool
			Why       string
		} `json:"$history"`
	}
	if err := reply.Decode(&r); err != nil {
		c.w.t.Errorf("%s: %v", c.name, err)
		return
	}
	if c.conns++; c.conns > 1 {
		c.w.moves.Add(1)
		if !r.History.Recovered {
			c.unrepaired++
		}
	}
	since := ""
	if !r.Since.IsZero() {
		since = r.Since.String()
	}
	c.w.Join(c.name, since, true)
	c.w.Joined(c.name, histcheck.Reply{
		Pos: r.History.Pos.String(), Recovered: r.History.Recovered, Why: r.History.Why,
	})
}

func (c *moveClient) received(p serializer.Payload) {
	var r struct {
		ID  string
		Pos string `json:"$pos"`
	}
	if err := p.Decode(&r); err != nil {
		c.w.t.Errorf("%s: %v", c.name, err)
		return
	}
	c.w.Received(c.name, r.Pos, r.ID)
}

// push makes pushes until stop is closed. Each ends once, and the servers handle it once at most.
func (c *moveClient) push(stop <-chan struct{}, pace time.Duration) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(pace):
		}
		c.pushed++
		id := fmt.Sprintf("%s/%d", c.name, c.pushed)
		var ends atomic.Int64
		p := c.room.Push("echo", id).Receive("ok", func(serializer.Payload) { ends.Add(1) })
		got, err := p.Wait(context.Background())
		var back string
		switch {
		case err == nil:
			if err := got.Decode(&back); err != nil || back != id {
				c.w.t.Errorf("the echo of %s is %q: %v", id, back, err)
			}
		case errors.Is(err, push.ErrLost), errors.Is(err, push.ErrTimeout):
			c.lost++
		default:
			c.w.t.Errorf("push %s: %v", id, err)
		}
		c.w.mu.Lock()
		n := c.w.handled[strconv.Quote(id)]
		c.w.mu.Unlock()
		if n > 1 || err == nil && n != 1 || ends.Load() > 1 {
			c.w.t.Errorf("push %s: handled %d times, answered %d times: %v", id, n, ends.Load(), err)
		}
	}
}

// broadcast appends records until stop is closed.
func (w *moveWorld) broadcast(sender string, stop <-chan struct{}, pace time.Duration) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(pace):
		}
		id := fmt.Sprintf("%s/%d", sender, i)
		w.Append(sender, id, "")
		pos, err := w.ps.AppendOnce(context.Background(), id, "room:1", "msg", map[string]string{"id": id})
		if err != nil {
			w.t.Errorf("append: %v", err)
			w.Failed(id)
			continue
		}
		w.Appended(id, pos.String())
	}
}

// play lets clients and senders work while faults happen, and checks everything at rest.
func (w *moveWorld) play(clients int, pace time.Duration, faults func()) {
	w.Recorder = new(histcheck.Recorder)
	w.ps = pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{MaxBytes: 256 << 20}), history.Rules{
		"room:*": {Count: 100_000, Bytes: 100 << 20, MaxReplay: 100_000},
	})
	w.conns, w.handled = map[net.Conn]struct{}{}, map[string]int{}
	w.nodes = []*moveNode{w.startNode(), w.startNode()}
	tr := &http.Transport{DialContext: w.dial}
	defer tr.CloseIdleConnections()
	var all []*moveClient
	for i := range clients {
		all = append(all, w.connect(fmt.Sprint("client ", i), tr))
	}
	w.catchUp(all)
	stop := make(chan struct{})
	var working sync.WaitGroup
	for _, c := range all {
		working.Go(func() { c.push(stop, pace) })
	}
	for i := range 2 {
		working.Go(func() { w.broadcast(fmt.Sprint("sender ", i), stop, pace/2) })
	}
	faults()
	close(stop)
	working.Wait()
	pushed, lost, away := 0, 0, int64(0)
	w.catchUp(all)
	for _, c := range all {
		pushed, lost, away = pushed+c.pushed, lost+c.lost, away+c.away.Load()
	}
	for _, v := range w.Check(histcheck.Limits{Count: 100_000, MaxReplay: 100_000}) {
		w.t.Error(v)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, c := range all {
		if err := c.sock.Close(ctx); err != nil {
			w.t.Errorf("%s: %v", c.name, err)
		}
		if c.unrepaired > 0 {
			w.t.Errorf("%s: %d joins did not continue", c.name, c.unrepaired)
		}
	}
	for _, n := range w.nodes {
		w.end(n)
	}
	if joined, left := w.joined.Load(), w.left.Load(); joined != left {
		w.t.Errorf("%d channels were joined, and %d ended", joined, left)
	}
	if moves := w.moves.Load(); moves < int64(clients) {
		w.t.Errorf("%d clients joined again %d times", clients, moves)
	}
	if w.calm && (lost > 0 || away > 0) {
		w.t.Errorf("of %d pushes %d were lost, and %d times a client was without a connection", pushed, lost, away)
	}
	w.t.Logf("%d moves or reconnections, %d times without a connection, %d of %d pushes lost", w.moves.Load(), away,
		lost, pushed)
}

// catchUp waits until the clients are joined and have received everything.
func (w *moveWorld) catchUp(all []*moveClient) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for _, c := range all {
		if err := c.room.CatchUp(ctx); err != nil {
			w.t.Errorf("%s does not catch up: %v, %v", c.name, err, c.sock.State())
		}
	}
}

// TestMoves restarts two nodes one after the other, several times. Nothing is lost, and no client
// is ever without a connection.
func TestMoves(t *testing.T) {
	t.Parallel()
	t.Run("virtual", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := &moveWorld{t: t, virtual: true, calm: true, drain: socket.Drain{Batch: 4, Interval: 500 * time.Millisecond}}
			w.play(20, 200*time.Millisecond, func() {
				for i := range 6 {
					w.restart(i % 2)
				}
				if err := w.nodes[0].h.Advise(context.Background(), "move", 1); err != nil {
					t.Error(err)
				}
			})
		})
	})
	t.Run("sockets", func(t *testing.T) {
		t.Parallel()
		w := &moveWorld{t: t, calm: true, drain: socket.Drain{Batch: 4, Interval: 50 * time.Millisecond}}
		w.play(10, 20*time.Millisecond, func() {
			w.restart(0) // each takes 5 s: the clients do not move before their connections are stable
			w.restart(1)
		})
	})
}

// TestMovesWithFaults kills connections while the nodes restart and move clients, and sends some
// attempts to nodes that shut down. BENNU_MOVE_SEEDS sets the number of runs.
func TestMovesWithFaults(t *testing.T) {
	t.Parallel()
	seeds := 6
	if n, err := strconv.Atoi(os.Getenv("BENNU_MOVE_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(uint64(seed), 1))
				w := &moveWorld{t: t, rnd: rnd, virtual: true, drain: socket.Drain{
					Batch: 1 + rnd.IntN(5), Interval: time.Duration(rnd.IntN(1000)) * time.Millisecond,
					Notice: time.Duration(rnd.IntN(12)-1) * time.Second, // zero means the defaults
				}}
				w.play(8, 100*time.Millisecond, func() { w.faults(12) })
			})
		})
	}
}

// faults makes n faults.
func (w *moveWorld) faults(n int) {
	var running sync.WaitGroup
	for range n {
		switch w.rnd.IntN(4) {
		case 0:
			w.kill(1 + w.rnd.IntN(5))
		case 1:
			i := w.rnd.IntN(2)
			running.Wait()
			running.Go(func() { w.restart(i) })
		case 2:
			w.mu.Lock()
			h := w.nodes[w.rnd.IntN(len(w.nodes))].h
			w.mu.Unlock()
			part := w.rnd.Float64()
			running.Go(func() {
				if err := h.Advise(context.Background(), "move", part); err != nil {
					w.t.Error(err)
				}
			})
		}
		for range w.rnd.IntN(4) {
			time.Sleep(time.Duration(w.rnd.IntN(4000)) * time.Millisecond) // in virtual time
			w.kill(5 + w.rnd.IntN(20))
		}
	}
	running.Wait()
}
