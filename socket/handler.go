package socket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/mailbox"
	"bennu.example/internal/ratelimit"
	"bennu.example/internal/safecall"
	"bennu.example/pubsub"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// Handler serves sockets. Mount it with net/http, under a path that ends in "/". Its methods may be
// called from any goroutine. The creator must call Shutdown.
type Handler struct {
	cfg         Config
	routes      *router
	origins     originCheck
	websocket   *websocket.Server
	longpoll    *longpoll.Server
	counts      counters
	handshake   ratelimit.Shared
	admission   *admission // nil if it is off
	rates       struct{ joins, messages ratelimit.Rate }
	logGates    logGates
	workers     mailbox.Workers // runs the channels' callbacks
	noPanic     func()          // unsubscribes from the PubSub's panics
	kicks       kicks
	drops       drops
	wills       wills
	expiry      expiry
	denied      atomic.Int64 // sessions that tell their clients that they were refused finally
	revocations revocations
	tasks       mailbox.Mailbox[func()] // see later
	background  background              // goroutines that work for several channels

	mu       sync.Mutex
	sessions map[*session]struct{}
	opening  map[*handshake]struct{} // handshakes that may become sessions
	draining bool
	gone     chan struct{} // closed when the last session has ended while draining
	ended    chan struct{} // closed when nothing is left

	originsUnset sync.Once // logs that nothing names the server's own hosts
}

// NewHandler returns a Handler. Like http.ServeMux, it panics on a programmer's mistake: an invalid
// route, origin, host, proxy, serializer or policy, or an Auth without Verify.
func NewHandler(cfg Config) *Handler {
	cfg = cfg.withDefaults()
	if slices.Contains(cfg.Hooks, nil) {
		panic("socket: nil Hooks")
	}
	routes, err := newRouter(cfg.Channels)
	if err != nil {
		panic("socket: " + err.Error())
	}
	if cfg.Auth != nil && cfg.Auth.Verify == nil {
		panic("socket: Auth has no Verify")
	}
	origins, err := newOriginCheck(cfg)
	if err != nil {
		panic("socket: " + err.Error())
	}
	for _, s := range cfg.Serializers {
		if v := reflect.ValueOf(s); !v.IsValid() || !v.Comparable() { // the frames of a broadcast are stored by serializer
			panic(fmt.Sprintf("socket: serializer %T cannot be compared", s))
		}
	}
	if max(cfg.WebSocket.OnSlow, cfg.LongPoll.OnSlow) > transport.DropNewest {
		panic("socket: OnSlow must be Disconnect, DropOldest or DropNewest: KeepLatest is for channel.OnSlow")
	}
	var h *Handler
	logPanic := func(message string) func(v any, stack []byte) {
		return func(v any, stack []byte) {
			h.log(zerolog.ErrorLevel, message).Str("panic", clip(fmt.Sprint(v))).Bytes("stack", stack).Msg(message)
		}
	}
	if cfg.WebSocket.OnPanic == nil {
		cfg.WebSocket.OnPanic = logPanic("websocket crashed")
	}
	if cfg.LongPoll.OnPanic == nil {
		cfg.LongPoll.OnPanic = logPanic("long poll crashed")
	}
	if cfg.LongPoll.Peers == nil && cfg.PubSub.Node() != "" {
		cfg.LongPoll.Peers = longPollPeers{cfg.PubSub}
	}
	if len(cfg.Hooks) > 0 {
		dropped := func() { h.drops.dropped() }
		cfg.WebSocket.OnDrop, cfg.LongPoll.OnDrop = dropped, dropped
	}
	h = &Handler{
		cfg:       cfg,
		routes:    routes,
		origins:   origins,
		websocket: websocket.NewServer(cfg.WebSocket),
		longpoll:  longpoll.NewServer(cfg.LongPoll),
		sessions:  make(map[*session]struct{}),
		opening:   make(map[*handshake]struct{}),
		gone:      make(chan struct{}),
		ended:     make(chan struct{}),
	}
	h.handshake.Rate = ratelimit.PerSecond(cfg.HandshakeRate)
	h.rates.joins, h.rates.messages = ratelimit.PerSecond(cfg.JoinRate), ratelimit.PerSecond(cfg.MessageRate)
	h.admission = newAdmission(cfg.Admission, origins.proxies)
	h.noPanic = cfg.PubSub.OnPanic(logPanic("pubsub callback crashed"))
	h.instrument()
	if !cfg.NoSocketChannel {
		routes.exact[topicSocket] = socketChannel()
	}
	h.drops.begin(h)
	h.kicks.begin(h)
	h.wills.begin(h)
	h.expiry.base = time.Now()
	h.tasks.Init(0, func(f func()) { f() })
	return h
}

// PubSub returns the PubSub that carries the handler's broadcasts. Use it to broadcast from outside
// of channels.
func (h *Handler) PubSub() *pubsub.PubSub { return h.cfg.PubSub }

// Disconnect ends all sockets whose Request.ID is id, on all nodes. Their clients reconnect, and
// Connect may refuse them then. It also ends sockets whose Connect has returned but whose handshake
// is under way; on another node, only if the engine has its subscription already.
//
// Server code may also broadcast the event "disconnect" on the id with PubSub.Broadcast, as in
// Phoenix. Clients cannot: a handler that relays their events with the methods of channel.Channel
// closes no socket, even on a topic that equals an id.
func (h *Handler) Disconnect(ctx context.Context, id string) error {
	return h.cfg.PubSub.Control().Broadcast(ctx, disconnectPrefix+id, eventDisconnect, nil)
}

// ServeHTTP answers …/websocket and …/longpoll, and 404 to everything else.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.isDraining() {
		w.Header().Set("Connection", "close") // the client's next attempt may reach another node
	}
	switch {
	case matches(r, h.cfg.WebSocket.Path):
		h.serveWebSocket(w, r)
	case !h.cfg.LongPoll.Off && matches(r, h.cfg.LongPoll.Path):
		h.serveLongPoll(w, r)
	default:
		h.longpoll.Discard(w, r)
		http.NotFound(w, r)
	}
}

// matches reports whether the request is for a transport's path below the mount. It ignores a
// trailing slash. The mount is the pattern under which net/http found the handler. Without a
// pattern, the end of the path decides.
func matches(r *http.Request, path string) bool {
	want := segments(path)
	have := segments(r.URL.Path)
	if len(have) < len(want) {
		return false
	}
	for i, s := range want {
		if have[len(have)-len(want)+i] != s {
			return false
		}
	}
	_, pattern, ok := strings.Cut(r.Pattern, "/")
	if !ok {
		return true
	}
	mount := segments(pattern)
	if !strings.HasSuffix(pattern, "/") && pattern != "" && !strings.HasSuffix(pattern, "...}") {
		return true // mounted by the whole path
	}
	if strings.HasSuffix(pattern, "...}") {
		mount = mount[:len(mount)-1]
	}
	return len(have) == len(mount)+len(want) || len(have) == len(want) // the whole path, behind http.StripPrefix
}

// segments splits a path at its slashes and leaves out empty segments.
func segments(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// serveWebSocket answers a handshake. The checks are in this order: whether it is a handshake, the
// rates, the origin, and Connect. Connect is last because it acts for the client, with the cookies
// of a visitor.
func (h *Handler) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 { // it is not a handshake
		h.longpoll.Discard(w, r)
	}
	// A writer without deadlines keeps those of net/http.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if err := h.websocket.Check(w, r); err != nil {
		h.logHandshake(err)
		h.notifyRefused(r, refusedMalformed, err)
		return
	}
	if err := h.checkQuery(r); err != nil {
		h.refuse(w, err)
		return
	}
	if !h.allowHandshake(r) {
		h.refuse(w, errTooFast)
		return
	}
	visitor, err := h.admit(r)
	if err != nil {
		h.refuse(w, err)
		return
	}
	if !h.allows(r) {
		visitor.release()
		w.WriteHeader(http.StatusForbidden)
		return
	}
	token, protocol, err := h.subprotocols(r)
	if err != nil {
		visitor.release()
		h.refused(r, refusedSubprotocol, err)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	open, done, err := h.connect(w, r, visitor, byWebSocket, token)
	if err != nil {
		h.refuse(w, err)
		return
	}
	defer done()
	if err := h.websocket.Serve(w, r, protocol, open); err != nil {
		h.logHandshake(err)
		h.notifyRefused(r, refusedHandshake, err)
	}
}

// logHandshake logs why the transport refused a handshake. That is usually the client's fault. The
// exception is 501, with which every handshake behind a middleware without Unwrap fails.
func (h *Handler) logHandshake(err error) {
	if errors.Is(err, websocket.ErrNoHijacker) {
		const wrapped = "websocket handshakes fail: a middleware's http.ResponseWriter needs an Unwrap method, " +
			"see “Mount it behind middleware” in docs/deployment.md"
		withError(h.logRarely(zerolog.ErrorLevel, wrapped), err).Msg(wrapped)
		return
	}
	const failed = "websocket handshake failed"
	withError(h.log(zerolog.DebugLevel, failed), err).Msg(failed)
}

// refuse answers a WebSocket request that is not accepted.
func (h *Handler) refuse(w http.ResponseWriter, err error) {
	var refusal *Refusal
	var status longpoll.StatusError
	switch {
	case errors.As(err, &refusal) && refusal != nil:
		for k, v := range refusal.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(cmp.Or(refusal.Status, http.StatusForbidden))
		_, _ = io.WriteString(w, refusal.Body) // a client that has disconnected needs no answer
	case errors.As(err, &status):
		h.adviseRetry(w, err)
		w.WriteHeader(int(status))
	default:
		w.WriteHeader(http.StatusForbidden)
	}
}

// adviseRetry sets Retry-After if err means that this client, or all of them, must slow down, or
// that the handler shuts down. The value is random, so that clients do not return together.
func (h *Handler) adviseRetry(w http.ResponseWriter, err error) {
	var status longpoll.StatusError
	if !errors.As(err, &status) {
		return
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(5)))
	}
}

// serveLongPoll answers a long-poll request. It checks the origin of every request, but the
// rate of handshakes only for those that begin a session.
func (h *Handler) serveLongPoll(w http.ResponseWriter, r *http.Request) {
	if err := h.checkQuery(r); err != nil {
		h.longpoll.Refuse(w, r, err)
		return
	}
	if !h.allows(r) || !h.allowsSite(r) {
		h.longpoll.Refuse(w, r, nil)
		return
	}
	var done func()
	defer func() {
		if done != nil {
			done()
		}
	}()
	h.longpoll.Serve(w, r, func() (open func(transport.Conn) transport.Session, err error) {
		defer func() { h.adviseRetry(w, err) }()
		if !h.allowHandshake(r) {
			return nil, errTooFast
		}
		var token string
		if h.cfg.AuthToken {
			token = r.Header.Get("X-Phoenix-AuthToken")
		}
		visitor, err := h.admit(r)
		if err != nil {
			return nil, err
		}
		open, done, err = h.connect(w, r, visitor, byLongPoll, token)
		return open, err
	})
}

// allowsSite reports whether the site that a request without an Origin header comes from is
// allowed. A browser sends no Origin for requests that need no permission, such as those of an
// image or a link on another site, which would act with the visitor's cookies. Clients of this
// protocol read the response, so for a page of another site the browser always sends an Origin.
func (h *Handler) allowsSite(r *http.Request) bool {
	if h.origins.any || len(r.Header["Origin"]) > 0 {
		return true
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return true
	}
	h.counts.refused.Add(1)
	const refused = "request from another site refused"
	h.log(zerolog.WarnLevel, refused).Str("site", clip(r.Header.Get("Sec-Fetch-Site"))).Msg(refused)
	h.notifyRefused(r, refusedOrigin, nil)
	return false
}

// Refusals that do not come from Connect. Each has an HTTP status of its own, also over long poll.
var (
	errBadRequest = fmt.Errorf("bad request: %w", longpoll.StatusError(http.StatusBadRequest))
	errPanic      = fmt.Errorf("connect panicked: %w", longpoll.StatusError(http.StatusInternalServerError))
	errTooFast    = fmt.Errorf("too many handshakes: %w", longpoll.StatusError(http.StatusServiceUnavailable))
	errDraining   = fmt.Errorf("shutting down: %w", longpoll.StatusError(http.StatusServiceUnavailable))
)

// The values of Request.Transport.
const (
	byWebSocket = "websocket"
	byLongPoll  = "longpoll"
)

// connect decides about a new socket. On success, the caller calls open with the connection when
// the handshake has succeeded, and done in any case afterwards. connect releases the visitor if it
// fails. Otherwise the session or done releases it.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request, visitor *visitor, by, token string) (
	open func(transport.Conn) transport.Session, done func(), err error,
) {
	defer func() {
		if open == nil {
			visitor.release()
		}
	}()
	hs := h.enter(w)
	if hs == nil {
		h.notifyRefused(r, refusedShutdown, errDraining)
		return nil, nil, errDraining
	}
	defer func() {
		if open == nil {
			h.leave(hs)
		}
	}()
	params, err := requestParams(r)
	if err != nil {
		h.refused(r, refusedParams, err)
		return nil, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	ser, err := h.version(params)
	if err != nil {
		h.refused(r, refusedVersion, err)
		return nil, nil, err
	}
	who := identity{connection: newConnectionID(), longPoll: by == byLongPoll}
	if who.client, err = clientIDParam(params); err == nil {
		_, who.ownClient = params[paramClient]
		who.order, err = orderParam(params)
	}
	if err != nil {
		h.refused(r, refusedParams, err)
		return nil, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	req := &Request{
		Params: serializer.Value(params), Token: token, HTTP: r, Transport: by, Version: ser.Version(),
		ClientID: who.client, ConnectionID: who.connection,
	}
	ctx := h.connectStart(hs.ctx, req)
	err = h.identify(ctx, req, params, &who)
	h.connectDone(ctx, req, err)
	if err != nil {
		h.refused(r, refusedConnect, err)
	}
	if h.isDraining() { // Connect may have failed because its context was canceled
		err = errDraining
	}
	if err != nil && !h.hold(&who, err) {
		if who.id != nil {
			who.id.on.Cancel()
		}
		return nil, nil, err
	}
	opened := false
	open = func(conn transport.Conn) transport.Session {
		s := h.open(conn, ser, who)
		s.visitor = visitor
		opened = true
		h.leave(hs)
		return s
	}
	done = func() {
		if opened {
			return
		}
		if who.id != nil {
			who.id.on.Cancel()
		}
		if who.refused {
			h.denied.Add(-1)
		}
		visitor.release()
		h.leave(hs)
	}
	return open, done, nil
}

// identify determines who the client is: it verifies the token, calls Connect and subscribes to the
// ID. If it fails, the subscription may exist all the same.
func (h *Handler) identify(ctx context.Context, req *Request, params map[string]any, who *identity) (err error) {
	mark := h.revocations.mark()
	if who.grant, err = h.authenticate(ctx, req, params); err != nil {
		return err
	}
	if who.parent, err = h.callConnect(ctx, req, who.grant); err != nil {
		return err
	}
	if who.grant != nil {
		if req.ID != "" && req.ID != who.grant.grant.ID {
			return errIDOfConnect
		}
		req.ID = who.grant.grant.ID
	}
	if who.id = h.watch(req.ID); who.id != nil {
		var reason *string
		if reason, err = h.revocations.since(mark, req.ID); reason != nil {
			who.id.revoke(*reason)
		}
	}
	return err
}

// version returns the serializer for the parameter vsn.
func (h *Handler) version(params map[string]any) (serializer.Serializer, error) {
	vsn := "1.0.0"
	if v, ok := params["vsn"]; ok {
		if vsn, ok = v.(string); !ok {
			return nil, errors.New("socket: vsn is not a string")
		}
	}
	ser, ok := serializer.Select(h.cfg.Serializers, vsn)
	if !ok {
		return nil, fmt.Errorf("socket: no serializer for version %.40q", vsn)
	}
	return ser, nil
}

// callConnect calls the user's Connect and returns the parent of the socket's contexts.
func (h *Handler) callConnect(
	ctx context.Context, req *Request, grant *verified,
) (parent context.Context, err error) {
	if h.cfg.Connect == nil {
		return h.parent(ctx), nil
	}
	if grant != nil {
		during := &connectGrant{Context: ctx}
		during.grant.Store(grant)
		defer during.grant.Store(nil)
		ctx = during
	}
	var got context.Context
	err = callUser(func() (err error) {
		got, err = h.cfg.Connect(ctx, req) //nolint:fatcontext // Connect is called once
		return err
	})
	if err != nil {
		return nil, err
	}
	if got == nil {
		return h.parent(ctx), nil
	}
	// Connect usually returns a context derived from its own, which ends with the handshake.
	return context.WithoutCancel(got), nil
}

// callUser calls a user function of the handshake. A panic becomes an error that wraps errPanic.
func callUser(f func() error) error {
	err := safecall.Do(f, nil)
	if p, ok := errors.AsType[*channel.PanicError](err); ok {
		return fmt.Errorf("%w: %w", errPanic, p)
	}
	return err
}

// refused counts and logs a handshake that was refused, and notifies the hooks.
func (h *Handler) refused(r *http.Request, reason string, err error) {
	h.counts.refused.Add(1)
	var p *channel.PanicError
	if errors.As(err, &p) {
		defer h.notifyRefused(r, refusedPanic, err)
		const crashed = "connect crashed"
		withError(h.log(zerolog.ErrorLevel, crashed), err).Bytes("stack", p.Stack).Str("path", clip(r.URL.Path)).Msg(crashed)
		return
	}
	defer h.notifyRefused(r, reason, err)
	const refused = "socket refused"
	withError(h.log(zerolog.InfoLevel, refused), err).Str("path", clip(r.URL.Path)).Msg(refused)
}
