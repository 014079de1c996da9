// Command cluster runs the chat of examples/chat on several nodes that are connected by NATS. The
// nodes share the history of the rooms, so a page can go on at another node. For simplicity, all
// nodes and the NATS server run in one process. Open the page of each node and exchange messages
// between them.
//
//	go run ./examples/cluster
//
// On several machines, run serve on each of them, with the same secret and the URL of a shared NATS
// server with JetStream.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"bennu.example/engine/natsengine"
	"bennu.example/examples/chat/room"
	"bennu.example/pubsub"
)

func main() {
	addrs := flag.String("addrs", "127.0.0.1:4001,127.0.0.1:4002", "comma-separated addresses, one for each node")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C exits immediately
	if err := run(ctx, strings.Split(*addrs, ","), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run runs a node for each address until ctx ends or a node fails.
func run(ctx context.Context, addrs []string, out, log io.Writer) error {
	console := zerolog.ConsoleWriter{Out: log, NoColor: true, TimeFormat: time.TimeOnly}
	logger := zerolog.New(console).With().Timestamp().Logger()
	var listeners []net.Listener
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", strings.TrimSpace(addr))
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			return fmt.Errorf("%w (-addrs chooses other addresses)", err)
		}
		defer ln.Close()
		listeners = append(listeners, ln)
	}
	dir, err := os.MkdirTemp("", "cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	engine, err := startNATS(dir)
	if err != nil {
		return err
	}
	defer engine.WaitForShutdown()
	defer engine.Shutdown()

	secret := make([]byte, 32)
	rand.Read(secret) // rand.Read never fails
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failures := make([]error, len(listeners))
	var nodes sync.WaitGroup
	for i, ln := range listeners {
		name := string(rune('A' + i))
		fmt.Fprintf(out, "Chat is open at %s on node %s\n", room.URL(ln.Addr()), name)
		cfg := room.Config{Node: name, Secret: secret, Logger: logger.With().Str("on", name).Logger()}
		nodes.Go(func() {
			defer cancel()
			failures[i] = serve(ctx, ln, engine.ClientURL(), cfg)
		})
	}
	fmt.Fprintln(out, "(Ctrl-C ends it)")
	nodes.Wait()
	return errors.Join(failures...)
}

// serve runs one node until ctx ends. It shuts down the chat first, because the chat notifies the
// other nodes, and then the connection to them.
func serve(ctx context.Context, ln net.Listener, natsURL string, cfg room.Config) error {
	engine, err := natsengine.New(natsengine.Config{URL: natsURL, Name: cfg.Node, Logger: &cfg.Logger})
	if err != nil {
		return err
	}
	cfg.PubSub = pubsub.NewRecorded(engine.Adapter(), engine.History(), room.Rules())
	joined, leave := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() { left <- cfg.PubSub.Run(joined) }()

	err = room.Serve(ctx, ln, cfg)
	leave()
	return errors.Join(err, <-left)
}

// startNATS starts an embedded NATS server that listens on the loopback interface and stores the
// history in a directory.
func startNATS(dir string) (*server.Server, error) {
	options := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir,
	}
	engine, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("create the NATS server: %w", err)
	}
	engine.Start() // returns when the server is running
	if !engine.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the NATS server did not start")
	}
	return engine, nil
}
