package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/mailbox"
	"bennu.example/js"
	"bennu.example/key"
	"bennu.example/logging"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// Level is what a visitor of the page may do.
type Level uint8

const (
	None    Level = iota // nothing: the answer is 403
	View                 // see the page
	Operate              // see the page, end connections, remove members of topics, and broadcast
)

// Config configures a Handler. Authorize and PubSub must be set.
type Config struct {
	// Authorize decides what the sender of a request may do. It is called for every request: those of
	// the page, its files and its connection, and the connection is made anew every 10 minutes. It
	// may be called from several goroutines at once. The page must not be shown to the public: it
	// shows topics, ids of users and the presences of topics.
	Authorize func(r *http.Request) Level
	// PubSub is that of the handlers that the page watches. The nodes exchange their summaries over
	// it.
	PubSub *pubsub.PubSub

	// Presences are shown for each topic.
	Presences []*presence.Presence
	// Events shows the events of a topic with the beginnings of their payloads, from the moment at
	// which somebody looks at the topic.
	Events bool
	// Name is this node's on the page. Empty means that of the PubSub.
	Name string

	// Hosts and TrustedProxies are those of [socket.Config], for the page's own connection. Only a
	// page of the same scheme, host and port may connect. Behind a proxy that terminates TLS, set
	// TrustedProxies: it determines the scheme.
	Hosts, TrustedProxies []string

	// Logger receives crashes, and at level info what operators do. Nil means warnings and errors on
	// standard error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

// Handler serves the page. Mount it with net/http, under a path that ends in "/". Its methods may
// be called from any goroutine. The creator must call Shutdown.
type Handler struct {
	cfg     Config
	log     zerolog.Logger
	id      string // distinguishes the handlers of a cluster
	begun   time.Time
	own     *socket.Handler // of the page's connections
	files   map[string]file
	modules http.Handler // of package js
	record  recorder
	events  watches
	in      mailbox.Mailbox[*pubsub.Broadcast] // messages of this node and of others
	asked   *pubsub.Subscription               // to the questions of all nodes
	unhook  func()                             // removes the hooks of the PubSub
	every   time.Duration                      // between two summaries, while somebody looks
	recheck time.Duration                      // the age at which the connection of a page is ended

	lastAsk atomic.Int64 // when this node last asked for summaries, in nanoseconds

	mu        sync.Mutex
	sockets   []*socket.Handler
	observers int                  // pages that are open on this node
	answers   *pubsub.Subscription // nil if there are none

	nodes nodes // owned by the goroutine of in
}

const (
	interval   = 2 * time.Second
	maxInbox   = 4 << 20 // bytes of messages that wait for the goroutine of Handler.in
	maxPages   = 100     // connections of pages to one node
	reconnects = 10 * time.Minute
)

// NewHandler returns a Handler. It returns an error if the config has no Authorize or no PubSub.
func NewHandler(cfg Config) (*Handler, error) { return newHandler(cfg, interval, reconnects) }

func newHandler(cfg Config, every, recheck time.Duration) (*Handler, error) {
	switch {
	case cfg.Authorize == nil:
		return nil, errors.New("live: Config has no Authorize")
	case cfg.PubSub == nil:
		return nil, errors.New("live: Config has no PubSub")
	case slices.Contains(cfg.Presences, nil):
		return nil, errors.New("live: Config has a nil Presence")
	}
	cfg.Logger = cmp.Or(cfg.Logger, logging.Default())
	h := &Handler{cfg: cfg, log: *cfg.Logger, id: key.New(), begun: time.Now(), every: every, recheck: recheck}
	h.files, h.modules = pageFiles(), js.Handler()
	h.record.init()
	h.events.ps = cfg.PubSub
	h.own = h.newSockets()
	h.in.Init(maxInbox, h.handle)
	h.unhook = cfg.PubSub.AddHooks(h.record.pubsub())
	h.asked = cfg.PubSub.Control().Subscribe(topicAsk, inbox{h})
	return h, nil
}

// Hooks returns the hooks for socket.Config.Hooks, which count what happens. Without them the page
// has no rates, times and crashes.
func (h *Handler) Hooks() *socket.Hooks { return h.record.socket() }

// Watch adds a handler to the page, which lists its connections. The handler must use the PubSub of
// the Config.
func (h *Handler) Watch(s *socket.Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sockets = append(h.sockets, s)
}

// watched returns the handlers that the page watches.
func (h *Handler) watched() []*socket.Handler {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sockets)
}

// Shutdown ends the page's connections and everything else that NewHandler began. It does not end
// the handlers that the page watches. It returns an error if ctx ends first.
func (h *Handler) Shutdown(ctx context.Context) error {
	err := h.own.Shutdown(ctx)
	h.unhook()
	h.asked.Cancel()
	h.in.Close(false)
	h.in.Wait()
	if err != nil {
		return fmt.Errorf("live: %w", err)
	}
	return nil
}

// name returns the name of this node on the page.
func (h *Handler) name() string { return cmp.Or(h.cfg.Name, h.cfg.PubSub.Node(), "this node") }
