// Command chat is a chat room, to talk in and to copy from: rooms by name, what was said before, who is here, who is typing.
//
//	go run ./examples/chat
//
// The room is in room.go, the page and its scripts in the folder page.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// drainTime is how long the clients get to take their leave when the server ends.
const drainTime = 10 * time.Second

//go:embed page
var files embed.FS

func main() {
	addr := flag.String("addr", "127.0.0.1:4000", "address to listen on")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := run(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w (-addr chooses another address)", err)
	}
	fmt.Printf("Chat is open at %s (Ctrl-C ends it)\n", url(ln.Addr()))
	return serve(ctx, ln, os.Stderr)
}

// serve serves the chat until ctx ends, and then drains it: every client is told to come back, so that none takes it for an accident.
func serve(ctx context.Context, ln net.Listener, log io.Writer) error {
	logger := zerolog.New(zerolog.ConsoleWriter{Out: log, NoColor: true, TimeFormat: time.TimeOnly}).With().Timestamp().Logger()
	ps := pubsub.New(nil)
	who := presence.New(ps, &presence.Config{Logger: &logger})
	sockets := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": newRoom(who)},
		PubSub:   ps,
		Logger:   &logger,
	})
	mux := http.NewServeMux()
	mux.Handle("/socket/", sockets)
	mux.Handle("/", page())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}

	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	logger.Info().Msg("closing")
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return errors.Join(sockets.Shutdown(ctx), who.Close(ctx), server.Shutdown(ctx))
}

// url is what to open in a browser on this machine.
func url(addr net.Addr) string {
	a := addr.(*net.TCPAddr)
	host := a.IP.String()
	if a.IP.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(a.Port)) + "/"
}

// page serves the page. It may load nothing from elsewhere and run no script but its own files, whatever somebody may say in a room.
func page() http.Handler {
	root, err := fs.Sub(files, "page")
	if err != nil {
		panic(err)
	}
	static := http.FileServerFS(root)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		static.ServeHTTP(w, r)
	})
}
