package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// state is the server's state as it reports it.
type state struct {
	RSS, Heap  int // in bytes; RSS is 0 where there is no /proc
	Goroutines int
	Stats      socket.Stats
}

// maxSessions bounds the long-poll sessions of the server. It is low, so that a flood reaches it.
const maxSessions = 2000

// serve runs the server under attack until the process is killed. The first line of its output is
// its address.
func serve() error {
	// The bounds of the log are low, so that attacks reach them.
	log := history.NewMemory(history.MemoryConfig{MaxBytes: 2 << 20, MaxTopics: 1000})
	ps := pubsub.NewRecorded(nil, log, history.Rules{"rec:*": {Events: []string{"said", "shout"}}})
	join := func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }
	rooms := channel.Define(join, channel.On("echo",
		func(_ *struct{}, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}), channel.On("shout",
		func(_ *struct{}, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.NoReply, c.Broadcast("shout", p)
		}), channel.On("hang",
		func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (push.Reply, error) {
			<-ctx.Done()
			return push.NoReply, ctx.Err()
		}), channel.Pages(func(*struct{}, context.Context, *channel.Channel) error { return nil }))
	stuck := channel.Define(func(_ *struct{}, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	h := socket.NewHandler(socket.Config{
		Channels:  channel.Routes{"room:*": rooms, "rec:*": rooms, "stuck:*": stuck},
		PubSub:    ps,
		WebSocket: websocket.Config{Compress: true, WriteTimeout: 2 * time.Second, CloseTimeout: time.Second},
		LongPoll:  longpoll.Config{Window: time.Second, MaxSessions: maxSessions},
	})
	mux := http.NewServeMux()
	mux.Handle("/socket/", h)
	mux.HandleFunc("/state", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("gc") {
			debug.FreeOSMemory()
		}
		_ = json.NewEncoder(w).Encode(currentState(h)) // fails if the client is gone
	})
	go flood(ps, "room:flood", 4000)
	go flood(ps, "rec:hot", 200)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 2 * time.Second, IdleTimeout: 5 * time.Second}
	return server.Serve(l)
}

// flood broadcasts on a topic until the process ends.
func flood(ps *pubsub.PubSub, topic string, size int) {
	payload, err := serializer.Value(map[string]string{"pad": strings.Repeat("x", size)}).Encoded()
	for range time.Tick(time.Millisecond) {
		if err = errors.Join(err, ps.Broadcast(context.Background(), topic, "said", payload)); err != nil {
			fmt.Fprintln(os.Stderr, "server: broadcasts ended:", err)
			return
		}
	}
}

func currentState(h *socket.Handler) state {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := state{Heap: int(m.HeapInuse), Goroutines: runtime.NumGoroutine(), Stats: h.Stats()}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(statm)); len(f) > 1 {
			pages, _ := strconv.Atoi(f[1])
			s.RSS = pages * os.Getpagesize()
		}
	}
	return s
}
