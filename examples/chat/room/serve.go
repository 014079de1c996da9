// Package room is the chat of examples/chat and examples/cluster: the rooms, the page, and how both are served.
package room

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

// drainTime is how long the clients get to take their leave when the server ends.
const drainTime = 10 * time.Second

//go:embed page
var files embed.FS

// Config says how the chat is served. Its zero value is a chat on one machine.
type Config struct {
	// PubSub joins the nodes of a cluster; it is running. nil: there are no others.
	PubSub *pubsub.PubSub
	// Node is what the page calls this node; "": it does not say.
	Node string
	// Secret, the same on all nodes, lets each of them serve the long polls of all.
	Secret []byte

	Logger zerolog.Logger
}

// Serve serves the chat until ctx ends, and then drains it: every client is told to come back, so that none takes it for an accident.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	if cfg.PubSub == nil {
		cfg.PubSub = pubsub.New(nil)
	}
	who := presence.New(cfg.PubSub, &presence.Config{Logger: &cfg.Logger})
	sockets := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": newRoom(who, cfg.Node)},
		PubSub:   cfg.PubSub,
		LongPoll: longpoll.Config{Secret: cfg.Secret},
		// A message has at most bodyLimit characters, and nobody types faster than this.
		MaxMessage:  64 << 10,
		MessageRate: 100,
		Logger:      &cfg.Logger,
	})
	mux := http.NewServeMux()
	mux.Handle("/socket/", sockets)
	mux.Handle("/", page())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}

	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	var failed error
	select {
	case failed = <-served:
	case <-ctx.Done():
	}
	cfg.Logger.Info().Msg("closing")
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	failed = errors.Join(failed, sockets.Shutdown(ctx))
	if err := who.Close(ctx); err != nil { // the other nodes will notice
		cfg.Logger.Warn().Err(err).Msg("left without goodbye")
	}
	return errors.Join(failed, server.Shutdown(ctx))
}

// URL is what to open in a browser on this machine.
func URL(addr net.Addr) string {
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
