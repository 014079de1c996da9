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
	"bennu.example/internal/leak"
	"bennu.example/internal/need"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/natspubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// Three server processes and a NATS server, each in a network namespace of its own, joined by a bridge. A node that is taken off the
// bridge hears nothing more, and nobody tells it: as when a cable is pulled out of a switch. The clients come in by Unix sockets, which
// namespaces do not part, so that each stays with its server all the time.

// asProcess makes this test binary one of the processes.
const asProcess = "BENNU_TEST_AS_PROCESS"

const (
	engineAddr = "10.87.0.1"
	downAfter  = 3 * time.Second // a node that is not heard of is taken for gone
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

// seat is a member of a room that says what it is told to, and is present.
type seat struct{ who *presence.Presence }

type entrant struct {
	User string `json:"user"`
}

func nodeProcess(ctx context.Context, path string) error {
	logger := zerolog.New(os.Stderr).With().Timestamp().Logger()
	adapter, err := natspubsub.New(natspubsub.Config{
		URL: engineAddr, Name: filepath.Base(path), Timeout: time.Second, Ping: time.Second, Logger: &logger,
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	ps := pubsub.New(adapter)
	joined, leave := context.WithCancel(context.Background())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = ps.Run(joined)
	}()
	who := presence.New(ps, &presence.Config{Period: 300 * time.Millisecond, Down: downAfter, Logger: &logger})
	rooms := channel.Define(func(s *seat, _ context.Context, c *channel.Channel, p entrant) (any, error) {
		s.who = who
		return nil, c.Send(p)
	}, channel.Info(func(s *seat, _ context.Context, c *channel.Channel, p entrant) error {
		if _, err := s.who.Track(c, p.User, nil); err != nil {
			return err
		}
		return s.who.Push(c)
	}), channel.On("say", func(_ *seat, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
		err := c.Broadcast("said", p)
		if errors.Is(err, serializer.ErrPayload) {
			return push.NoReply, err
		}
		return push.OK(nil), nil // while the engine is away those of this node hear it
	}))
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

// network is the namespaces: a hub with the engine and the bridge, and one for each node.
type network struct {
	t   *testing.T
	hub string
}

func newNetwork(t *testing.T, nodes int) *network {
	need.Program(t, "ip")
	n := &network{t, fmt.Sprintf("bennu%d-hub", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", n.hub).CombinedOutput(); err != nil {
		need.Missing(t, "the right to make network namespaces: "+strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { n.ip("netns", "del", n.hub) })
	n.in(n.hub, "link", "set", "lo", "up")
	if out, err := exec.Command("ip", "-n", n.hub, "link", "add", "br0", "type", "bridge").CombinedOutput(); err != nil {
		need.Missing(t, "a bridge in a network namespace: "+strings.TrimSpace(string(out)))
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

// run starts a process in a namespace, which ends with the test, and returns when it is ready.
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
		_ = cmd.Process.Signal(syscall.SIGTERM) // ip has become the process
		if err := cmd.Wait(); err != nil {
			n.t.Errorf("%s ended with %v", what, err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		n.t.Fatalf("%s says %q, %v", what, line, err)
	}
}

// guest is a client with a socket to one node.
type guest struct {
	room *channel.Client
	name string

	mu    sync.Mutex
	heard map[string]int
	order map[string][]string // by who said it
	here  []string
	news  chan struct{}
}

func visit(t *testing.T, path, name string) *guest {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := socket.Dial(ctx, "http://node/socket", &socket.ClientConfig{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close(context.Background())
		client.CloseIdleConnections()
	})
	g := &guest{
		room: s.Channel("room:tea", entrant{name}), name: name,
		heard: map[string]int{}, order: map[string][]string{}, news: make(chan struct{}, 1),
	}
	g.room.On("said", func(p serializer.Payload) {
		var said struct{ By, Text string }
		if err := p.Decode(&said); err != nil {
			t.Error(err)
		}
		g.change(func() {
			g.heard[said.By+" "+said.Text]++
			g.order[said.By] = append(g.order[said.By], said.Text)
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

func (g *guest) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	select {
	case g.news <- struct{}{}:
	default:
	}
}

func (g *guest) say(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := g.room.Push("say", map[string]string{"by": g.name, "text": text}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits until ok holds, and returns how long that took.
func (g *guest) until(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for timeout := time.After(patience); ; {
		g.mu.Lock()
		good := ok()
		g.mu.Unlock()
		if good {
			return time.Since(begun)
		}
		select {
		case <-g.news:
		case <-timeout:
			t.Fatalf("%s: not %s; it heard %v", g.name, what, g.heard)
		}
	}
}

func (g *guest) sees(t *testing.T, names ...string) time.Duration {
	t.Helper()
	return g.until(t, "among "+strings.Join(names, ", "), func() bool {
		return slices.Equal(g.here, names)
	})
}

func (g *guest) hears(t *testing.T, by, text string) time.Duration {
	t.Helper()
	return g.until(t, "told "+text+" by "+by, func() bool { return g.heard[by+" "+text] > 0 })
}

// TestPartition holds that two sides that are cut from each other each go on by themselves, that the others' presences leave, and that all
// is well again soon after: nothing doubled, nothing out of order, and nothing lost but what was said while the other side was away.
func TestPartition(t *testing.T) {
	n := newNetwork(t, 3)
	n.run(n.hub, "engine")
	dir := t.TempDir()
	var all []*guest
	for i, name := range []string{"ann", "bob", "carl"} {
		path := filepath.Join(dir, name)
		n.run(n.node(i), "node "+path)
		all = append(all, visit(t, path, name))
	}
	ann, bob, carl := all[0], all[1], all[2]
	everybody := func(what string) {
		t.Helper()
		for _, g := range all {
			g.sees(t, "ann", "bob", "carl")
		}
		// What is said once everybody hears everybody is heard by all.
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
					g.hears(t, by.name, fmt.Sprintf("%s %d", what, i))
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
	bob.hears(t, "ann", "apart")
	carl.hears(t, "carl", "apart")

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
		for text, times := range g.heard {
			if times != 1 {
				t.Errorf("%s heard %q %d times", g.name, text, times)
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
					t.Errorf("%s heard %s say %d after %d", g.name, by, i, last)
				}
				last = i
			}
		}
		g.mu.Unlock()
	}
}

// soon reports whether the guest hears it within a moment.
func (g *guest) soon(by, text string) bool {
	for moment := time.After(200 * time.Millisecond); ; {
		g.mu.Lock()
		ok := g.heard[by+" "+text] > 0
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
