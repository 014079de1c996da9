package boltengine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/engine/boltengine"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// outboxMessage is a message of the test of killed clients. Even numbers belong to one room, odd
// numbers to the other one.
type outboxMessage struct {
	N int `json:"n"`
}

// pushForever is the child process: a client with an outbox. It prints "stored N" and "ok N". If
// from is 0 it pushes nothing, and prints "delivered" when all that was stored has a result.
func pushForever(path, url string, from int) error {
	store, err := boltengine.OpenClient(path)
	if err != nil {
		return err
	}
	var printing sync.Mutex
	printLine := func(what string, v any) {
		printing.Lock()
		defer printing.Unlock()
		fmt.Fprintln(os.Stdout, what, v)
	}
	silent := zerolog.Nop()
	c := socket.NewClient(url, &socket.ClientConfig{
		Logger:         &silent,
		ReconnectDelay: func(socket.Retry) time.Duration { return 10 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 10 * time.Millisecond },
		Offline: &offline.Config{Store: store, Ordered: true,
			OnDelivered: func(e offline.Entry, _ serializer.Payload, err error) {
				var m outboxMessage
				var p serializer.Payload
				if err == nil {
					err = errors.Join(p.UnmarshalJSON(e.Payload), p.Decode(&m))
				}
				if err != nil {
					printLine("failed", err)
					return
				}
				printLine("ok", m.N)
			}},
	})
	c.Connect()
	rooms := [2]*channel.Client{c.Channel("room:0", nil), c.Channel("room:1", nil)}
	for _, room := range rooms {
		room.Join()
	}
	if from == 0 {
		if err := c.Flush(context.Background()); err != nil {
			return err
		}
		if err := errors.Join(c.Close(context.Background()), store.Close()); err != nil {
			return err
		}
		printLine("delivered", "all")
		return nil
	}
	for n := from; ; n++ {
		p, err := rooms[n%2].PushDurable(context.Background(), "msg", outboxMessage{n})
		if err != nil {
			return err
		}
		printLine("stored", n)
		if n%20 == 0 { // so that not too much waits
			_, _ = p.Wait(context.Background())
		}
	}
}

// outboxServer is the server of the test. Its restarts and cuts keep what the rooms have and what
// Once knows, as a database would.
type outboxServer struct {
	addr string
	once push.OnceStore

	mu    sync.Mutex
	rooms map[string][]int
	conns []net.Conn

	handler *socket.Handler
	http    *http.Server
	served  chan error
}

// outboxOnce is a push.OnceStore that forgets nothing.
type outboxOnce struct {
	mu   sync.Mutex
	runs map[string]*outboxRun
}

type outboxRun struct {
	holder string
	reply  []byte
}

func (o *outboxOnce) Begin(
	_ context.Context, key, holder string, _ time.Duration,
) (mine bool, reply []byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.runs[key]
	if r == nil {
		r = &outboxRun{holder: holder}
		o.runs[key] = r
	}
	return r.reply == nil && r.holder == holder, r.reply, nil
}

func (o *outboxOnce) Finish(_ context.Context, key, holder string, reply []byte, _ time.Duration) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.runs[key]
	if r == nil {
		r = &outboxRun{holder: holder}
		o.runs[key] = r
	}
	if r.reply == nil {
		r.reply = reply
	}
	return r.reply, nil
}

func (o *outboxOnce) Release(_ context.Context, key, holder string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.runs[key]; r != nil && r.holder == holder && r.reply == nil {
		delete(o.runs, key)
	}
	return nil
}

// outboxListener notes the connections, so that the test can cut them.
type outboxListener struct {
	net.Listener
	s *outboxServer
}

func (l outboxListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.s.mu.Lock()
		l.s.conns = append(l.s.conns, c)
		l.s.mu.Unlock()
	}
	return c, err
}

func (s *outboxServer) cut() {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (s *outboxServer) start(t *testing.T) {
	t.Helper()
	type none struct{}
	room := channel.Define(func(*none, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
		channel.On("msg", func(_ *none, _ context.Context, c *channel.Channel, m outboxMessage) (push.Reply, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.rooms[c.Topic()] = append(s.rooms[c.Topic()], m.N)
			return push.OK(nil), nil
		}),
		channel.Once[none](push.OnceConfig{Store: s.once}))
	silent := zerolog.Nop()
	s.handler = socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": room}, Logger: &silent})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("/socket/", s.handler)
	s.http, s.served = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}, make(chan error, 1)
	go func() { s.served <- s.http.Serve(outboxListener{ln, s}) }()
}

func (s *outboxServer) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.http.Close()
	<-s.served
	s.cut() // first, because Shutdown would wait for the client to move to another server
	if err := errors.Join(err, s.handler.Shutdown(ctx)); err != nil {
		t.Error(err)
	}
}

// TestOutboxKill kills a client at random moments, again and again, while the server is restarted
// and connections are cut. Each message that was stored is in its room once, in order, and so is
// each one that was answered.
func TestOutboxKill(t *testing.T) {
	kills, limit := 100, 5*time.Second // as many as fit
	if os.Getenv("NIGHTLY") == "true" {
		kills, limit = 1000, 10*time.Minute
	}
	s := &outboxServer{
		addr: "127.0.0.1:0", once: &outboxOnce{runs: make(map[string]*outboxRun)}, rooms: make(map[string][]int),
	}
	s.start(t)
	defer func() { s.stop(t) }()
	path := filepath.Join(t.TempDir(), "outbox.db")
	args := []string{"-path", path, "-outbox", "ws://" + s.addr + "/socket"}
	stored, answered := map[int]bool{}, map[int]bool{}
	last := 0
	read := func(line string) {
		var n int
		what, rest, _ := strings.Cut(line, " ")
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatalf("the process printed %q", line)
		}
		switch what {
		case "stored":
			stored[n], last = true, n
		case "ok":
			answered[n] = true
		default:
			t.Errorf("the process printed %q", line)
		}
	}
	rounds := 0
	for begun := time.Now(); rounds < 5 || rounds < kills && time.Since(begun) < limit; rounds++ {
		c := start(t, append(args, "-from", fmt.Sprint(last+2))...) // the one after last may be stored
		for range rand.IntN(60) {
			read(c.line())
		}
		switch rand.IntN(4) {
		case 0:
			s.cut()
		case 1:
			s.stop(t)
			s.start(t)
		}
		<-time.After(time.Duration(rand.IntN(5000)) * time.Microsecond) // a random moment
		c.readAndKill(0, read)
	}
	c := start(t, append(args, "-from", "0")...)
	for line := c.line(); line != "delivered all"; line = c.line() {
		read(line)
	}
	c.readAndKill(0, read)

	s.mu.Lock()
	defer s.mu.Unlock()
	times := map[int]int{}
	for topic, list := range s.rooms {
		if !slices.IsSorted(list) {
			t.Errorf("%s has %v", topic, list)
		}
		for _, n := range list {
			times[n]++
		}
	}
	for n, count := range times {
		if count != 1 {
			t.Errorf("message %d is there %d times", n, count)
		}
	}
	for n := range stored {
		if times[n] == 0 || !answered[n] {
			t.Errorf("message %d was stored, is there %d times, and answered: %t", n, times[n], answered[n])
		}
	}
	for n := range answered {
		if times[n] == 0 {
			t.Errorf("message %d was answered, and is not there", n)
		}
	}
	t.Logf("%d kills, %d messages stored, %d in the rooms", rounds, len(stored), len(times))
}
