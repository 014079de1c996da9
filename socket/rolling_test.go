package socket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// The tests of this file restart a service of several nodes behind one address, node after node,
// while its clients send messages.

// rolling describes a rolling restart.
type rolling struct {
	nodes, clients int
	drain          socket.Drain
	pace           time.Duration // between the pushes of one client
	virtual        bool          // in-memory connections and virtual time
}

// longestAway is how long a client may be without its channel. Some attempts may reach the node
// that is being drained. Each of them costs up to 6.25 s, because that node asks for up to 5 s, and
// the client adds up to a quarter. Three nodes make more than four such attempts in a row unlikely.
const longestAway = 30 * time.Second

// rollingNode is one process, with a handler and a server.
type rollingNode struct {
	*socket.Handler
	server       *http.Server
	listener     net.Listener
	dial         func(ctx context.Context) (net.Conn, error)
	served       chan struct{}
	leave        func() // leaves the cluster
	joined, left atomic.Int64
}

func startRollingNode(t *testing.T, c *pubsubtest.Cluster, r rolling) *rollingNode {
	n := &rollingNode{served: make(chan struct{})}
	join := func(*nobody, context.Context, *channel.Channel, serializer.Payload) (any, error) {
		n.joined.Add(1)
		return nil, nil
	}
	cfg := socket.Config{
		Channels: channel.Routes{"room:*": channel.Define(join,
			onEvent("echo", func(_ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.OK(p), nil
			}),
			channel.Terminate(func(*nobody, context.Context, *channel.Channel, error) { n.left.Add(1) }))},
		LongPoll: longpoll.Config{Secret: []byte("shared")},
		Drain:    r.drain,
	}
	cfg.PubSub, n.leave = runPubSub(t, c.Node("node"))
	n.Handler = socket.NewHandler(cfg)
	n.server = &http.Server{Handler: n.Handler, ReadHeaderTimeout: time.Minute}
	if r.virtual {
		pipes := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		n.listener, n.dial = pipes, pipes.dial
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var d net.Dialer
		n.listener, n.dial = l,
			func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", l.Addr().String()) }
	}
	go func() {
		defer close(n.served)
		_ = n.server.Serve(n.listener)
	}()
	return n
}

// end shuts the node down in the documented order.
func (n *rollingNode) end(ctx context.Context) error {
	err := errors.Join(n.Shutdown(ctx), n.server.Shutdown(ctx))
	<-n.served
	n.leave()
	if joined, left := n.joined.Load(), n.left.Load(); joined != left {
		err = errors.Join(err, fmt.Errorf("%d channels were joined before Shutdown, but %d terminated", joined, left))
	}
	return err
}

// pipeListener is an in-memory listener.
type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// rollingBalancer is the address of the service. Each connection goes to the next node that accepts
// it, which may be draining.
type rollingBalancer struct {
	mu    sync.Mutex
	nodes []*rollingNode
	next  int
}

func (b *rollingBalancer) dial(ctx context.Context, _, _ string) (conn net.Conn, err error) {
	b.mu.Lock()
	nodes := slices.Clone(b.nodes)
	first := b.next
	b.next++
	b.mu.Unlock()
	for i := range nodes {
		if conn, err = nodes[(first+i)%len(nodes)].dial(ctx); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (b *rollingBalancer) replace(i int, n *rollingNode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[i] = n
}

// rollingClient is a client in a room that pushes continuously.
type rollingClient struct {
	t       *testing.T
	by      socket.ClientTransport
	c       *socket.Client
	room    *channel.Client
	news    atomic.Int64
	told    chan struct{} // receives one value per event
	changed chan struct{} // signals that the fields below have changed
	pushed  int           // belongs to the pushing goroutine
	failed  map[string]int
	slowest time.Duration

	mu     sync.Mutex
	up     bool
	lost   []time.Time // when connections were lost
	skip   int         // the number of those that were lost in earlier restarts
	joined []time.Time
}

func newRollingClient(t *testing.T, i int, b *rollingBalancer, tr *http.Transport) *rollingClient {
	x := &rollingClient{t: t, told: make(chan struct{}, 10), changed: make(chan struct{}, 1), failed: map[string]int{}}
	if i%5 == 4 {
		x.by = socket.TransportLongPoll
	}
	x.c = socket.NewClient("http://service/socket", &socket.ClientConfig{
		Transport: x.by, HTTPClient: &http.Client{Transport: tr},
		NoSocketChannel: true, // it receives no advice, as most clients
	})
	x.c.OnState(x.note)
	x.room = x.c.Channel(fmt.Sprintf("room:%d", i%7), nil)
	x.room.OnJoin(func(serializer.Payload) {
		defer x.wake()
		x.mu.Lock()
		defer x.mu.Unlock()
		x.joined = append(x.joined, time.Now())
	})
	x.room.On("news", func(serializer.Payload) {
		x.news.Add(1)
		x.told <- struct{}{}
	})
	x.c.Connect()
	x.room.Join()
	return x
}

func (x *rollingClient) wake() {
	select {
	case x.changed <- struct{}{}:
	default:
	}
}

// isBack reports whether the client is joined, also after its last lost connection.
func (x *rollingClient) isBack() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	isJoined := x.up && len(x.joined) > 0 && x.room.Stats().State == channel.StateJoined
	return isJoined && (len(x.lost) == 0 || !x.back(x.lost[len(x.lost)-1]).IsZero())
}

// back returns when the client joined again after it lost a connection. The caller holds mu.
func (x *rollingClient) back(lost time.Time) time.Time {
	for _, at := range x.joined {
		if at.After(lost) {
			return at
		}
	}
	return time.Time{}
}

// note records each lost connection and its cause.
func (x *rollingClient) note(s socket.State) {
	defer x.wake()
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case s.Status == socket.StatusFailed || s.Status == socket.StatusDenied:
		x.t.Errorf("a client %s: %v", s.Status, s.Cause)
	case s.Status == socket.StatusConnected:
		x.up = true
	case x.up && s.Wanted == socket.WantConnected:
		x.up = false
		x.lost = append(x.lost, s.Since)
		closed, ok := errors.AsType[*transport.CloseError](s.Cause)
		if x.by == socket.TransportWebSocket && (!ok || closed.Code != transport.CodeRestart) {
			x.t.Errorf("a connection ended with %v", s.Cause)
		}
	}
}

// push makes one push at a time until stop is closed. Each push gets a reply or fails as documented
// within the usual time.
func (x *rollingClient) push(stop <-chan struct{}, pace time.Duration) {
	// The last push must get a reply, because a long poll may notice late that it lost its session.
	for stopped, answered := false, false; !stopped || !answered; {
		select {
		case <-stop:
			stopped = true
		case <-time.After(pace):
		}
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		p, err := x.room.Push("echo", x.pushed).Wait(ctx)
		cancel()
		x.slowest = max(x.slowest, time.Since(begun))
		answered = stopped && err == nil
		var back int
		switch {
		case err == nil:
			if err := p.Decode(&back); err != nil || back != x.pushed {
				x.t.Errorf("the echo of %d is %d: %v", x.pushed, back, err)
			}
		case errors.Is(err, push.ErrLost):
			x.failed["lost"]++
		case errors.Is(err, push.ErrTimeout):
			x.failed["timeout"]++
		default:
			x.t.Errorf("a push failed after %v with %v", time.Since(begun), err)
		}
		x.pushed++
	}
}

func TestRollingRestart(t *testing.T) {
	t.Parallel()
	t.Run("virtual", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			rolling{nodes: 3, clients: 200, drain: socket.Drain{Batch: 10, Interval: 2 * time.Second}, pace: 2 * time.Second,
				virtual: true}.play(t)
		})
	})
	t.Run("sockets", func(t *testing.T) {
		t.Parallel()
		rolling{nodes: 3, clients: 80, drain: socket.Drain{Batch: 5, Interval: 50 * time.Millisecond},
			pace: 50 * time.Millisecond}.play(t)
	})
}

func (r rolling) play(t *testing.T) {
	cluster := pubsubtest.NewCluster()
	b := &rollingBalancer{}
	for range r.nodes {
		b.nodes = append(b.nodes, startRollingNode(t, cluster, r))
	}
	tr := &http.Transport{DialContext: b.dial}
	defer tr.CloseIdleConnections()
	var all []*rollingClient
	for i := range r.clients {
		all = append(all, newRollingClient(t, i, b, tr))
	}
	allBack(t, all)

	stop := make(chan struct{})
	var pushers sync.WaitGroup
	for _, x := range all {
		pushers.Go(func() { x.push(stop, r.pace) })
	}
	for i, old := range b.nodes {
		r.restart(t, all, old)
		b.replace(i, startRollingNode(t, cluster, r))
	}
	close(stop)
	pushers.Wait()
	allBack(t, all)

	// Every client is joined on a new node and receives broadcasts.
	sockets, polls := 0, 0
	for _, n := range b.nodes {
		s := n.Stats()
		sockets += s.Sockets
		polls += s.LongPoll.Sessions
	}
	// A session may still wait for a client that has a new one.
	if websockets := r.clients - r.clients/5; sockets-polls != websockets || polls < r.clients/5 {
		t.Errorf("%d WebSockets and %d sessions for %d clients", sockets-polls, polls, r.clients)
	}
	for i := range 7 {
		if err := b.nodes[0].PubSub().Broadcast(t.Context(), fmt.Sprintf("room:%d", i), "news", struct{}{}); err != nil {
			t.Error(err)
		}
	}
	pushed, failed, losses, slowest, gone := 0, 0, 0, time.Duration(0), time.Duration(0)
	reasons := map[string]int{}
	late := time.After(patience)
	for i, x := range all {
		select {
		case <-x.told:
		case <-late:
			t.Fatalf("client %d receives nothing", i)
		}
		if s := x.room.Stats().State; s != channel.StateJoined {
			t.Errorf("client %d is %v", i, s)
		}
		pushed += x.pushed
		for reason, n := range x.failed {
			failed += n
			reasons[reason] += n
		}
		slowest = max(slowest, x.slowest)
		losses += len(x.lost)
		for _, at := range x.lost {
			gone = max(gone, x.back(at).Sub(at))
		}
		closeSocket(t, x.c)
		if n := x.news.Load(); n != 1 {
			t.Errorf("client %d received the broadcast %d times", i, n)
		}
	}
	if failed > losses { // each lost connection can fail one push
		t.Errorf("%d connections were lost, but %d pushes failed: %v", losses, failed, reasons)
	}
	for _, n := range b.nodes {
		if err := n.end(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if gone > longestAway {
		t.Errorf("a client was away for %v", gone)
	}
	t.Logf("%d connections lost; away for %v at most; of %d pushes %v, the slowest after %v", losses, gone, pushed,
		reasons, slowest)
}

// allBack waits until all clients are back.
func allBack(t *testing.T, all []*rollingClient) {
	t.Helper()
	late := time.After(patience)
	for i, x := range all {
		for !x.isBack() {
			select {
			case <-x.changed:
			case <-late:
				t.Fatalf("client %d is not back: %+v", i, x.c.Stats())
			}
		}
	}
}

// restart ends a node and checks that its clients leave in batches and return in batches.
func (r rolling) restart(t *testing.T, all []*rollingClient, n *rollingNode) {
	var lost, joined []time.Duration // of WebSockets; a long poll may notice later, or use several nodes
	note := func(begun time.Time, skip bool) {
		lost, joined = nil, nil
		for _, x := range all {
			if x.mu.Lock(); x.by == socket.TransportWebSocket {
				if skip {
					x.skip = len(x.lost)
				}
				for _, at := range x.lost[x.skip:] {
					lost, joined = append(lost, at.Sub(begun)), append(joined, x.back(at).Sub(begun))
				}
			}
			x.mu.Unlock()
		}
	}
	note(time.Time{}, true)
	stats := n.Stats()
	had, websockets := stats.Sockets, stats.Sockets-stats.LongPoll.Sessions
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.end(ctx); err != nil {
		t.Error(err)
	}
	allBack(t, all)
	note(begun, false)
	if len(lost) != websockets {
		t.Errorf("a node with %d WebSockets was shut down, and %d were lost", websockets, len(lost))
	}
	batches := (had + r.drain.Batch - 1) / r.drain.Batch
	if batches < 4 {
		t.Errorf("%d sockets are too few to test batches", had)
	}
	for k := range batches {
		from, until := time.Duration(k)*r.drain.Interval, time.Duration(k+1)*r.drain.Interval
		// The end of a connection may be noticed late, but never early.
		if ended, most := before(lost, until), (k+1)*r.drain.Batch; ended > most {
			t.Errorf("after %v %d connections had ended, in batches of %d", until, ended, r.drain.Batch)
		}
		if !r.virtual {
			continue
		}
		ended, back := before(lost, until)-before(lost, from), before(joined, until)-before(joined, from)
		if ended == 0 && k < batches-1 || ended > r.drain.Batch || back > 2*r.drain.Batch {
			t.Errorf("batch %d of %d: %d WebSockets ended, and %d returned, in batches of %d", k, batches, ended, back,
				r.drain.Batch)
		}
		if ended != before(lost, from+1)-before(lost, from) {
			t.Errorf("batch %d of %d: not all at once", k, batches)
		}
	}
}

func before(all []time.Duration, until time.Duration) (n int) {
	for _, d := range all {
		if d < until {
			n++
		}
	}
	return n
}
