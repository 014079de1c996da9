package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/natsengine"
	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/require"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// This test runs three server processes and a NATS server, each in its own network namespace,
// connected by a bridge. A node that is removed from the bridge receives nothing more and gets no
// notification, as if a cable was unplugged. The clients connect through Unix sockets, which
// namespaces do not separate, so that each stays connected to its server.

// asProcess runs this test binary as one of the processes.
const asProcess = "BENNU_TEST_AS_PROCESS"

const (
	engineAddr = "10.87.0.1"
	downAfter  = 3 * time.Second // time after which an unreachable node counts as down
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch what, arg, _ := strings.Cut(os.Getenv(asProcess), " "); what {
	case "engine":
		err = engineProcess(ctx)
	case "node":
		err = nodeProcess(ctx, arg)
	default:
		leak.Main(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func engineProcess(ctx context.Context) error {
	srv, err := server.NewServer(&server.Options{Host: engineAddr, Port: 4222, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	srv.Start()
	fmt.Println("ready")
	<-ctx.Done()
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}

// chatter is a client's channel. It is tracked in presence.
type chatter struct{ who *presence.Presence }

type joinParams struct {
	User string `json:"user"`
}

func (*chatter) say(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
	err := c.Broadcast("said", p)
	if errors.Is(err, serializer.ErrPayload) {
		return push.NoReply, err
	}
	return push.OK(nil), nil // while the engine is unreachable, only this node's clients receive it
}

func nodeProcess(ctx context.Context, path string) error {
	logger := zerolog.New(os.Stderr).With().Timestamp().Logger()
	engine, err := natsengine.New(natsengine.Config{
		URL: engineAddr, Name: filepath.Base(path), Timeout: time.Second, Ping: time.Second, Logger: &logger,
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	ps := pubsub.New(engine.Adapter())
	joined, leave := context.WithCancel(context.Background())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = ps.Run(joined)
	}()
	who := presence.New(ps, presence.Config{Period: 300 * time.Millisecond, Down: downAfter, Logger: &logger})
	rooms := channel.Define(func(s *chatter, _ context.Context, c *channel.Channel, p joinParams) (any, error) {
		s.who = who
		return nil, c.Send(p)
	}, channel.Info(func(s *chatter, _ context.Context, c *channel.Channel, p joinParams) error {
		if _, err := s.who.Track(c, p.User, nil); err != nil {
			return err
		}
		return s.who.Push(c)
	}), channel.On("say", (*chatter).say))
	sockets := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}, PubSub: ps, Logger: &logger})
	mux := http.NewServeMux()
	mux.Handle("/socket/", sockets)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	fmt.Println("ready")
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = errors.Join(sockets.Shutdown(ctx), who.Close(ctx), srv.Shutdown(ctx))
	leave()
	<-left
	return err
}

// network is a set of namespaces: a hub with the engine and the bridge, and one for each node.
type network struct {
	t   *testing.T
	hub string
}

func newNetwork(t *testing.T, nodes int) *network {
	require.Program(t, "ip")
	n := &network{t, fmt.Sprintf("bennu%d-hub", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", n.hub).CombinedOutput(); err != nil {
		require.Missing(t, "the right to make network namespaces: "+strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { n.ip("netns", "del", n.hub) })
	n.in(n.hub, "link", "set", "lo", "up")
	if out, err := exec.Command("ip", "-n", n.hub, "link", "add", "br0", "type", "bridge").CombinedOutput(); err != nil {
		require.Missing(t, "a bridge in a network namespace: "+strings.TrimSpace(string(out)))
	}
	n.in(n.hub, "addr", "add", engineAddr+"/24", "dev", "br0")
	n.in(n.hub, "link", "set", "br0", "up")
	for i := range nodes {
		ns, port := n.node(i), fmt.Sprintf("port%d", i)
		n.ip("netns", "add", ns)
		t.Cleanup(func() { n.ip("netns", "del", ns) })
		n.in(n.hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
		n.in(n.hub, "link", "set", port, "master", "br0", "up")
		n.in(ns, "addr", "add", fmt.Sprintf("10.87.0.%d/24", i+2), "dev", "eth0")
		n.in(ns, "link", "set", "eth0", "up")
		n.in(ns, "link", "set", "lo", "up")
	}
	return n
}

func (n *network) node(i int) string { return strings.Replace(n.hub, "hub", fmt.Sprint(i), 1) }

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n *network) in(ns string, args ...string) {
	n.t.Helper()
	n.ip(append([]string{"-n", ns}, args...)...)
}

func (n *network) cut(i int)  { n.in(n.hub, "link", "set", fmt.Sprintf("port%d", i), "nomaster") }
func (n *network) heal(i int) { n.in(n.hub, "link", "set", fmt.Sprintf("port%d", i), "master", "br0") }

// run starts a process in a namespace and returns when it is ready. The process is stopped at the
// end of the test.
func (n *network) run(ns, what string) {
	n.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0])
	cmd.Env = append(os.Environ(), asProcess+"="+what)
	cmd.Stderr = n.t.Output()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // ip was replaced by the process
		if err := cmd.Wait(); err != nil {
			n.t.Errorf("%s ended with %v", what, err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		n.t.Fatalf("%s says %q, %v", what, line, err)
	}
}

// client is a client of one node.
type client struct {
	room *channel.Client
	name string

	mu       sync.Mutex
	received map[string]int
	order    map[string][]string // by sender
	here     []string
	news     chan struct{}
}

func connect(t *testing.T, path, name string) *client {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	httpClient := &http.Client{Transport: &http.Transport{DialContext: dial}}
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	s, err := socket.Dial(ctx, "http://node/socket", &socket.ClientConfig{HTTPClient: httpClient})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close(context.Background())
		httpClient.CloseIdleConnections()
	})
	g := &client{
		room: s.Channel("room:tea", joinParams{name}), name: name,
		received: map[string]int{}, order: map[string][]string{}, news: make(chan struct{}, 1),
	}
	g.room.On("said", func(p serializer.Payload) {
		var m struct{ By, Text string }
		if err := p.Decode(&m); err != nil {
			t.Error(err)
		}
		g.change(func() {
			g.received[m.By+" "+m.Text]++
			g.order[m.By] = append(g.order[m.By], m.Text)
		})
	})
	who := presence.NewClient(g.room, nil)
	who.OnSync(func() {
		var here []string
		for name := range who.All() {
			here = append(here, name)
		}
		slices.Sort(here)
		g.change(func() { g.here = here })
	})
	if _, err := g.room.Join().Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *client) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	select {
	case g.news <- struct{}{}:
	default:
	}
}

func (g *client) say(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	if _, err := g.room.Push("say", map[string]string{"by": g.name, "text": text}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits until ok holds, and returns the elapsed time.
func (g *client) until(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for timeout := time.After(maxWait); ; {
		g.mu.Lock()
		good := ok()
		g.mu.Unlock()
		if good {
			return time.Since(begun)
		}
		select {
		case <-g.news:
		case <-timeout:
			t.Fatalf("%s: not %s; received %v", g.name, what, g.received)
		}
	}
}

func (g *client) sees(t *testing.T, names ...string) time.Duration {
	t.Helper()
	return g.until(t, "among "+strings.Join(names, ", "), func() bool {
		return slices.Equal(g.here, names)
	})
}

func (g *client) receives(t *testing.T, by, text string) time.Duration {
	t.Helper()
	return g.until(t, "received "+text+" by "+by, func() bool { return g.received[by+" "+text] > 0 })
}

// TestPartition checks that the two sides of a partition keep working, that the presences of the
// other side leave, and that everything recovers soon afterwards. Messages are neither duplicated
// nor reordered, and only those sent to the other side during the partition are lost.
func TestPartition(t *testing.T) {
	n := newNetwork(t, 3)
	n.run(n.hub, "engine")
	dir := t.TempDir()
	var all []*client
	for i, name := range []string{"ann", "bob", "carl"} {
		path := filepath.Join(dir, name)
		n.run(n.node(i), "node "+path)
		all = append(all, connect(t, path, name))
	}
	ann, bob, carl := all[0], all[1], all[2]
	everybody := func(what string) {
		t.Helper()
		for _, g := range all {
			g.sees(t, "ann", "bob", "carl")
		}
		// When all clients receive each other's messages, every message reaches all.
		for _, by := range all {
			for _, g := range all {
				for text := 0; ; text++ {
					key := fmt.Sprintf("%s to %s %d", what, g.name, text)
					by.say(t, key)
					if g.soon(by.name, key) {
						break
					}
				}
			}
		}
		for i := range 30 {
			for _, by := range all {
				by.say(t, fmt.Sprintf("%s %d", what, i))
			}
		}
		for _, g := range all {
			for i := range 30 {
				for _, by := range all {
					g.receives(t, by.name, fmt.Sprintf("%s %d", what, i))
				}
			}
		}
	}
	everybody("before")

	n.cut(2)
	t.Logf("cut: ann sees carl leave after %v", ann.sees(t, "ann", "bob"))
	bob.sees(t, "ann", "bob")
	carl.sees(t, "carl")
	ann.say(t, "apart")
	carl.say(t, "apart")
	bob.receives(t, "ann", "apart")
	carl.receives(t, "carl", "apart")

	n.heal(2)
	begun := time.Now()
	for _, g := range all {
		g.sees(t, "ann", "bob", "carl")
	}
	d := time.Since(begun)
	t.Logf("healed: everybody sees everybody after %v", d)
	if d > 5*time.Second {
		t.Error("that is too late")
	}
	everybody("after")

	for _, g := range all {
		g.mu.Lock()
		for text, times := range g.received {
			if times != 1 {
				t.Errorf("%s received %q %d times", g.name, text, times)
			}
		}
		for by, texts := range g.order {
			last := -1
			for _, text := range texts {
				var i int
				if _, err := fmt.Sscanf(text, "after %d", &i); err != nil {
					continue
				}
				if i != last+1 {
					t.Errorf("%s received %s's message %d after %d", g.name, by, i, last)
				}
				last = i
			}
		}
		g.mu.Unlock()
	}
}

// soon reports whether the client receives text within a moment.
func (g *client) soon(by, text string) bool {
	for moment := time.After(200 * time.Millisecond); ; {
		g.mu.Lock()
		ok := g.received[by+" "+text] > 0
		g.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-g.news:
		case <-moment:
			return false
		}
	}
}
