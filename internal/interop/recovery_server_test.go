package interop_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/internal/testenv/guide"
	"bennu.example/js"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

const recoveryGuide = "../../docs/recovery.md"

// lobby is the topic that the code of the guide joins.
const lobby = "room:lobby"

// recordedServer serves recorded topics on one port for each client, so that the test can cut the
// connections of each.
type recordedServer struct {
	t *testing.T
	*histcheck.Recorder
	ps    *pubsub.PubSub
	ports []*listener
	slow  atomic.Int64 // bounds what a join callback of room:lobby takes, in nanoseconds

	mu       sync.Mutex
	ids      []string          // the application's database: the ids of records, each before its append
	byOffset map[uint64]string // ids of the records of room:lobby
}

// newRecordedServer starts a server. Without rules, nothing is recorded.
func newRecordedServer(t *testing.T, rules history.Rules) *recordedServer {
	t.Helper()
	s := &recordedServer{t: t, Recorder: new(histcheck.Recorder), byOffset: map[uint64]string{}}
	s.ps = pubsub.New(nil)
	if rules != nil {
		s.ps = pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules)
	}
	nop := zerolog.Nop()
	h := socket.NewHandler(socket.Config{
		Channels:          channel.Routes{"room:*": channel.Define(s.join), "script:*": s.script()},
		PubSub:            s.ps,
		InsecureAnyOrigin: true, // pages come from another port
		LongPoll:          longpoll.Config{Window: 2 * time.Second},
		Logger:            &nop,
	})
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	for range askingClients + plainClients {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := &listener{Listener: l, open: map[net.Conn]struct{}{}}
		s.ports = append(s.ports, port)
		served.Go(func() { _ = srv.Serve(port) })
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, port := range s.ports {
			port.reset()
		}
		if err := h.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		_ = srv.Close()
		served.Wait()
	})
	return s
}

// url returns the address of a port, as phoenix.js takes it.
func (s *recordedServer) url(port int) string {
	return "ws://" + s.ports[port].Addr().String() + "/socket"
}

// join returns what the database contains, unless the client receives what it missed anyway.
func (s *recordedServer) join(_ *struct{}, ctx context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
	if slow := s.slow.Load(); slow > 0 {
		select {
		case <-time.After(time.Duration(rand.N(slow))): // longer than phoenix.js waits, now and then
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if c.Resume().OK {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	messages := make([]map[string]string, len(s.ids))
	for i, id := range s.ids {
		messages[i] = map[string]string{"id": id}
	}
	return map[string]any{"messages": messages}, nil
}

// append stores a record, appends it and records both.
func (s *recordedServer) append(sender, id string) {
	s.mu.Lock()
	s.ids = append(s.ids, id)
	s.mu.Unlock()
	s.Append(sender, id, "")
	pos, err := s.ps.Append(context.Background(), lobby, "new_msg", map[string]string{"id": id})
	if err != nil {
		s.t.Errorf("append: %v", err)
		s.Failed(id)
		return
	}
	s.Appended(id, pos.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byOffset[pos.Offset()] = id
}

// after returns the ids of the records after an offset. The memory log counts without gaps.
func (s *recordedServer) after(offset uint64) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for n := offset + 1; s.byOffset[n] != ""; n++ {
		ids = append(ids, s.byOffset[n])
	}
	return ids
}

// script is the handler of a session whose frames are compared.
func (s *recordedServer) script() *channel.Handler {
	type room struct{}
	type callback = func(*room, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error)
	say := func(event string, payload any) callback {
		return func(_ *room, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			if payload == nil {
				return push.OK(p), c.Broadcast(event, p)
			}
			return push.OK(p), c.Broadcast(event, payload)
		}
	}
	join := func(_ *room, _ context.Context, c *channel.Channel, p serializer.Payload) (any, error) {
		if c.Topic() == "script:refused" {
			return nil, push.Reject("refused")
		}
		return p, nil
	}
	sayToOthers := func(_ *room, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
		return push.OK(nil), c.BroadcastFrom("new_msg", p)
	}
	return channel.Define(join,
		channel.On("say", say("new_msg", nil)),
		channel.On("say_secret", say("secret", nil)),
		channel.On("say_binary", say("blob", serializer.Binary([]byte{1, 2, 3}))),
		channel.On("say_unrecorded", say("typing", nil)),
		channel.On("say_to_others", sayToOthers),
		channel.On("job", func(_ *room, ctx context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(nil), s.ps.Broadcast(ctx, c.Topic(), "new_msg", p)
		}),
		channel.On("fail", func(*room, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, push.Reject("no")
		}),
		channel.Intercept("secret", func(_ *room, _ context.Context, c *channel.Channel, p serializer.Payload) error {
			return c.Push("secret", map[string]any{"revealed": p})
		}),
	)
}

// pages serves the scripts, phoenix.js and the code of the guide.
func pages(t *testing.T, modules string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("GET /client/", http.StripPrefix("/client/", http.FileServer(http.Dir("client"))))
	packages := http.FileServer(http.Dir(filepath.Join(modules, "node_modules")))
	mux.Handle("GET /modules/", http.StripPrefix("/modules/", packages))
	for i, code := range guide.Blocks(t, recoveryGuide, "js") {
		mux.HandleFunc(fmt.Sprintf("GET /guide/%d", i), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(code))
		})
	}
	mux.Handle("GET /js/", js.Handler())
	shared := []byte(stateCode(t))
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(shared) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}
