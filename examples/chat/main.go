// Command chat is a chat server with a web page. It has rooms, a history of their messages, a list
// of present users and typing notices. A page that was offline receives what it missed.
//
//	go run ./examples/chat
//	go run ./examples/chat -data ./rooms
//	go run ./examples/chat -live
//
// With -data, the messages are kept in that directory, and pages go on after a restart of the
// server as if they had been offline. With -live, browsers of this machine see the live page at
// /live/, on which they can watch the server and act on it.
//
// The room is defined in room/room.go and served by room/serve.go. The directory room/page contains
// the page and its scripts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/engine/boltengine"
	"bennu.example/examples/chat/room"
	"bennu.example/pubsub"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:4000", "address to listen on")
	data := flag.String("data", "", "directory in which the messages are kept; empty means in memory")
	live := flag.Bool("live", false, "serve the live page at /live/ to browsers of this machine")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C exits immediately
	if err := run(ctx, *addr, *data, *live); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// run serves the chat until ctx ends.
func run(ctx context.Context, addr, data string, live bool) (err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w (-addr chooses another address)", err)
	}
	defer ln.Close() // Serve has closed it, if it was called
	console := zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, TimeFormat: time.TimeOnly}
	logger := zerolog.New(console).With().Timestamp().Logger()
	cfg := room.Config{Logger: logger, Live: live}
	if data != "" {
		var end func() error
		if cfg.PubSub, end, err = open(data, &logger); err != nil {
			return fmt.Errorf("open the data: %w", err)
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	fmt.Printf("Chat is open at %s (Ctrl-C ends it)\n", room.URL(ln.Addr()))
	if live {
		fmt.Printf("The live page is at %slive/\n", room.URL(ln.Addr()))
	}
	return room.Serve(ctx, ln, cfg)
}

// open runs a PubSub that keeps the messages in a directory, until end is called.
func open(dir string, logger *zerolog.Logger) (ps *pubsub.PubSub, end func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	engine, err := boltengine.New(boltengine.Config{Path: filepath.Join(dir, "rooms.db"), Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	ps = pubsub.NewRecorded(engine.Adapter(), engine.History(), room.Rules())
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ps.Run(ctx) }()
	return ps, func() error {
		stop()
		return errors.Join(<-ended, engine.Close())
	}, nil
}
