package boltengine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// chat is a child process with a server that records room:lobby in a file. It broadcasts numbers,
// each after the one before is stored, and prints those that were. When a line arrives at its
// input, it stops broadcasting, and when its input ends it shuts down.
func chat(addr, path string, from int) error {
	engine, err := boltengine.New(boltengine.Config{Path: path})
	if err != nil {
		return err
	}
	ps := pubsub.NewRecorded(engine.Adapter(), engine.History(), history.Rules{
		"room:*": {Count: 100_000, Bytes: 1 << 30, MaxReplay: 100_000},
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- ps.Run(ctx) }()
	for !ps.LogHealth().Connected {
		runtime.Gosched()
	}
	handler := socket.NewHandler(socket.Config{PubSub: ps, Channels: channel.Routes{
		"room:*": channel.Define(func(*struct{}, context.Context, *channel.Channel, serializer.Payload) (any, error) {
			return nil, nil
		}),
	}})
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	fmt.Fprintln(os.Stdout, ln.Addr())

	sending, silence := context.WithCancel(ctx)
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := from; sending.Err() == nil; i++ {
			if err := ps.Broadcast(ctx, "room:lobby", "said", map[string]int{"n": i}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			fmt.Fprintln(os.Stdout, i)
		}
	})
	line := make([]byte, 1)
	_, _ = os.Stdin.Read(line)
	silence()
	sender.Wait()
	fmt.Fprintln(os.Stdout, "silent")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := handler.Shutdown(ctx); err != nil {
		return err
	}
	_ = server.Close()
	<-served
	stop()
	if err := <-ran; err != nil {
		return err
	}
	return engine.Close()
}

// A client recovers everything that it missed while the server process was killed or restarted, in
// order and each record once. No join starts it afresh except the first.
func TestRecoveryAfterRestart(t *testing.T) {
	cfg := config(t)
	var mu sync.Mutex
	var received []int
	var joins []string // why joins were not recovered
	arrived := make(chan struct{}, 1)
	notify := func() {
		select {
		case arrived <- struct{}{}:
		default:
		}
	}
	begin := func(round int, addr string) *child {
		c := start(t, "-path", cfg.Path, "-addr", addr, "-from", fmt.Sprint(round<<20))
		return c
	}
	c := begin(0, "127.0.0.1:0")
	addr := c.line()
	if _, _, err := net.SplitHostPort(addr); err != nil {
		t.Fatalf("the server printed %q", addr)
	}

	client := socket.NewClient("ws://"+addr+"/socket", &socket.ClientConfig{Logger: silent()})
	defer client.Close(context.Background())
	room := client.Channel("room:lobby", nil)
	room.Resume(channel.ResumeConfig{OnReset: func(_ serializer.Payload, why string) {
		mu.Lock()
		defer mu.Unlock()
		joins = append(joins, why)
		notify()
	}})
	room.On("said", func(p serializer.Payload) {
		var in struct{ N int }
		if err := json.Unmarshal(p.Bytes(), &in); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		received = append(received, in.N)
		notify()
	})
	client.Connect()
	if _, err := room.Join().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	first := -1
	mu.Unlock()

	var acked []int
	read := func(c *child, line string) {
		t.Helper()
		var n int
		if _, err := fmt.Sscan(line, &n); err != nil {
			t.Fatalf("the server printed %q", line)
		}
		acked = append(acked, n)
	}
	const rounds = 6
	for round := range rounds {
		if round > 0 {
			c = begin(round, addr)
			if line := c.line(); line != addr {
				t.Fatalf("the server printed %q", line)
			}
		}
		for range 30 {
			read(c, c.line())
		}
		// Half of the processes end before the client has returned.
		if round%2 == 0 {
			for back := false; !back; {
				select {
				case <-arrived:
				case <-time.After(time.Minute):
					t.Fatal("the client does not return")
				}
				mu.Lock()
				back = len(received) > 0 && received[len(received)-1] >= round<<20
				if first < 0 && len(received) > 0 {
					first = received[0]
				}
				mu.Unlock()
			}
		}
		switch {
		case round == rounds-1:
			_, _ = c.in.Write([]byte("\n"))
			for line := c.line(); line != "silent"; line = c.line() {
				read(c, line)
			}
		case round%3 == 2: // an orderly restart
			_ = c.in.Close()
			for line := c.line(); line != ""; line = c.line() {
				if line != "silent" {
					read(c, line)
				}
			}
			if err := c.cmd.Wait(); err != nil {
				t.Errorf("the server ended with %v", err)
			}
		default:
			c.kill()
			for line := c.line(); line != ""; line = c.line() {
				read(c, line)
			}
			c.stop()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := room.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(joins, " "); got != "new" {
		t.Errorf("joins that did not continue: %s; want only the first", got)
	}
	if first < 0 {
		t.Fatal("nothing was received")
	}
	next := 0 // in received
	for _, n := range acked {
		if n < first {
			continue // before the first join
		}
		for next < len(received) && received[next] < n {
			next++ // it was stored, but the process was killed before it printed it
		}
		if next == len(received) || received[next] != n {
			t.Fatalf("record %d was not received", n)
		}
		next++
	}
	for i := range received[1:] {
		if received[i] >= received[i+1] {
			t.Errorf("record %d was received after %d", received[i+1], received[i])
		}
	}
	t.Logf("%d records of %d were received from %d processes", len(received), len(acked), rounds)
}
