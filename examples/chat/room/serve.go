// Package room is the chat server of examples/chat and examples/cluster.
package room

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/js"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
	"bennu.example/transport/longpoll"
)

// shutdownTimeout bounds a graceful shutdown.
const shutdownTimeout = 10 * time.Second

//go:embed page
var files embed.FS

// Config configures the server. The zero value is a server with one node.
type Config struct {
	// PubSub must record by Rules. The caller must run it. Nil means a single node, which keeps the
	// messages in memory.
	PubSub *pubsub.PubSub
	// Node is the node's name on the page. Empty means that the page shows no name.
	Node string
	// Secret signs the tokens of long-poll sessions. If all nodes have the same secret, each of
	// them can serve the requests of every session.
	Secret []byte
	// Live serves the live page at /live/, to browsers of this machine only.
	Live bool

	Logger zerolog.Logger
}

// Serve serves the chat until ctx ends. It then shuts down gracefully and closes each connection
// with a code that tells the client to reconnect.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	if cfg.PubSub == nil {
		cfg.PubSub = pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), Rules())
	}
	who := presence.New(cfg.PubSub, presence.Config{Logger: &cfg.Logger})
	mux := http.NewServeMux()
	sockets, endLive, err := cfg.newSockets(who, mux)
	if err != nil {
		return err
	}
	mux.Handle("/socket/", sockets)
	mux.Handle("/js/", js.Handler())
	mux.Handle("/", page())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}

	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	var failed error
	select {
	case failed = <-served:
	case <-ctx.Done():
	}
	cfg.Logger.Info().Msg("shutting down")
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	failed = errors.Join(failed, endLive(ctx), sockets.Shutdown(ctx))
	if err := who.Close(ctx); err != nil { // the other nodes detect it by themselves
		cfg.Logger.Warn().Err(err).Msg("presence not closed")
	}
	return errors.Join(failed, server.Shutdown(ctx))
}

// sockets returns the configuration of the sockets. The PubSub must not be nil.
func (cfg *Config) sockets(who *presence.Presence) socket.Config {
	return socket.Config{
		Channels: channel.Routes{"room:*": newRoom(cfg.PubSub, who, cfg.Node)},
		PubSub:   cfg.PubSub,
		LongPoll: longpoll.Config{Secret: cfg.Secret},
		// A message has at most maxBody characters, and nobody types faster than this.
		MaxMessage:  64 << 10,
		MessageRate: 100,
		// Whoever presses Ctrl-C should not wait for long.
		Drain:  socket.Drain{Notice: time.Second, Spread: time.Second},
		Logger: &cfg.Logger,
	}
}

// URL returns the address of the page for a browser on this machine.
func URL(addr net.Addr) string {
	a := addr.(*net.TCPAddr)
	host := a.IP.String()
	if a.IP.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(a.Port)) + "/"
}

// page returns a handler for the page and its files. Its content security policy forbids inline
// scripts and everything from other sites, so that a message cannot inject code. The import map,
// which must be inline, is allowed by its hash.
func page() http.Handler {
	root, err := fs.Sub(files, "page")
	if err != nil {
		panic(err)
	}
	index, err := fs.ReadFile(root, "index.html")
	if err != nil {
		panic(err)
	}
	policy := fmt.Sprintf("default-src 'self'; script-src 'self' '%s'; base-uri 'none'; form-action 'none'; "+
		"frame-ancestors 'none'; object-src 'none'", importMapHash(index))
	static := http.FileServerFS(root)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		static.ServeHTTP(w, r)
	})
}

// importMapHash returns the hash of a page's import map, as a content security policy states it.
func importMapHash(page []byte) string {
	_, text, _ := bytes.Cut(page, []byte(`<script type="importmap">`))
	text, _, _ = bytes.Cut(text, []byte("</script>"))
	sum := sha256.Sum256(text)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
