// Command chat is a chat server with a web page. It has rooms, a history of recent messages, a list
// of present users and typing notices.
//
//	go run ./examples/chat
//
// The room is defined in room/room.go and served by room/serve.go. The directory room/page contains
// the page and its scripts.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/examples/chat/room"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:4000", "address to listen on")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C exits immediately
	if err := run(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

// run serves the chat until ctx ends.
func run(ctx context.Context, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w (-addr chooses another address)", err)
	}
	fmt.Printf("Chat is open at %s (Ctrl-C ends it)\n", room.URL(ln.Addr()))
	console := zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, TimeFormat: time.TimeOnly}
	logger := zerolog.New(console).With().Timestamp().Logger()
	return room.Serve(ctx, ln, room.Config{Logger: logger})
}
