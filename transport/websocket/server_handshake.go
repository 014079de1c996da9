package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"bennu.example/transport"
)

// ErrNoHijacker is returned by Check and Serve if the http.ResponseWriter does not give up the
// connection. The request was answered with 501.
var ErrNoHijacker = errors.New("websocket: the http.ResponseWriter does not implement http.Hijacker: " +
	"a middleware that wraps it must add a method Unwrap() http.ResponseWriter")

// handshakeTimeout bounds how long a client may take to read the answer to its handshake.
const handshakeTimeout = 15 * time.Second

// Check answers a request with 400 if it is not a WebSocket handshake, or announces a body, and
// returns the reason. If it returns nil, it has answered nothing. Call it before anything that
// costs more, or that acts for the client.
func (s *Server) Check(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength != 0 { // otherwise net/http would read the body before it answers
		w.Header().Set("Connection", "close")
	}
	if reason := handshakeFault(r); reason != "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, reason)
		return errors.New("websocket: handshake: " + reason)
	}
	if !canHijack(w) {
		http.Error(w, "this server cannot give up its connection", http.StatusNotImplemented)
		return ErrNoHijacker
	}
	return nil
}

// Serve answers a handshake and returns. The caller must have checked everything that authorizes
// the client. A request that is not a WebSocket handshake is answered with 400. Protocol is the
// subprotocol to answer, which the client must have offered, or empty.
//
// When the client is connected, Serve calls open. A goroutine of the connection serves the session
// that open returns; nothing of the request stays in memory. An error means that open was not
// called. The request has been answered then.
func (s *Server) Serve(
	w http.ResponseWriter, r *http.Request, protocol string, open func(transport.Conn) transport.Session,
) error {
	if err := s.Check(w, r); err != nil {
		return err
	}
	// net/http removes the deadline when the connection is hijacked.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(handshakeTimeout))
	c := newServerConn(s)
	c.deflate = s.cfg.Compress && offersDeflate(r.Header[headerExtensions])
	answer(w, r, protocol, c.deflate)
	nc, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return fmt.Errorf("websocket: handshake: hijack: %w", err)
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	c.attach(nc, early)
	c.start(open)
	return nil
}

// Names of headers in the form that http.Header stores.
const (
	headerKey        = "Sec-Websocket-Key"
	headerVersion    = "Sec-Websocket-Version"
	headerAccept     = "Sec-Websocket-Accept"
	headerProtocol   = "Sec-Websocket-Protocol"
	headerExtensions = "Sec-Websocket-Extensions"
)

// answer writes the header of the answer to a valid handshake.
func answer(w http.ResponseWriter, r *http.Request, protocol string, deflate bool) {
	h := w.Header()
	values := []string{"websocket", "Upgrade", acceptFor(r.Header.Get(headerKey))}
	h["Upgrade"], h["Connection"], h[headerAccept] = values[0:1:1], values[1:2:2], values[2:3:3]
	if p := offeredProtocol(r.Header[headerProtocol], protocol); p != "" {
		h[headerProtocol] = []string{p}
	}
	if deflate {
		h[headerExtensions] = []string{deflateAnswer}
	}
	w.WriteHeader(http.StatusSwitchingProtocols)
	// Gin's ResponseWriter delays the header otherwise.
	if w, ok := w.(interface{ WriteHeaderNow() }); ok {
		w.WriteHeaderNow()
	}
}

// acceptFor returns the proof that the server understood the handshake with key.
func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// offeredProtocol returns protocol as the client spelled it, or "" if the client did not offer it.
func offeredProtocol(offers []string, protocol string) string {
	for _, v := range offers {
		for offer := range strings.SplitSeq(v, ",") {
			if offer = strings.TrimSpace(offer); strings.EqualFold(offer, protocol) {
				return offer
			}
		}
	}
	return ""
}

// handshakeFault returns why r is not a WebSocket handshake, or "" if it is one. The text is that
// of Phoenix on Bandit (websock_adapter). The WebSocket library makes the same checks and more, but
// answers differently.
func handshakeFault(r *http.Request) string {
	absent := func(name string) string { return "'" + name + "' header is absent" }
	other := func(name, must string) string {
		return fmt.Sprintf("'%s' header must %s, got %s", name, must, inspect(r.Header.Values(name)))
	}
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "HTTP version " + r.Proto + " unsupported"
	case r.Method != http.MethodGet:
		return "HTTP method " + r.Method + " unsupported"
	case r.Host == "":
		return absent("host")
	case !hasToken(r.Header.Values("Connection"), "upgrade"):
		return other("connection", "contain 'upgrade'")
	case !hasToken(r.Header.Values("Upgrade"), "websocket"):
		return other("upgrade", "contain 'websocket'")
	case r.Header.Get(headerKey) == "":
		return absent("sec-websocket-key")
	case r.Header.Get(headerVersion) != "13":
		return other("sec-websocket-version", "equal '13'")
	case !validKey(r.Header.Values(headerKey)):
		return "'sec-websocket-key' header is invalid"
	case r.ContentLength != 0: // net/http would read the body before it gives up the connection
		return "a handshake has no body"
	}
	return ""
}

// deflateAnswer accepts compression without state between messages.
const deflateAnswer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"

// offersDeflate reports whether one of the client's offers can be answered with deflateAnswer.
func offersDeflate(offers []string) bool {
	for _, v := range offers {
		for offer := range strings.SplitSeq(v, ",") {
			if acceptable(offer) {
				return true
			}
		}
	}
	return false
}

// acceptable reports whether an offer can be answered with deflateAnswer. Other sizes of the
// server's window cannot be chosen, and any size of the client's can be read.
func acceptable(offer string) bool {
	name := true
	for part := range strings.SplitSeq(offer, ";") {
		part = strings.TrimSpace(part)
		switch {
		case name:
			if part != "permessage-deflate" {
				return false
			}
			name = false
		case part == "client_no_context_takeover", part == "server_no_context_takeover",
			part == "client_max_window_bits", strings.HasPrefix(part, "client_max_window_bits="),
			part == "server_max_window_bits=15":
		default:
			return false
		}
	}
	return true
}

// validKey reports whether there is exactly one key, of 16 bytes.
func validKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(key) == 16
}

// inspect formats the values of a header as Elixir does.
func inspect(values []string) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 4 || len(v) > 100 {
			b.WriteString("...")
			break
		}
		fmt.Fprintf(&b, "%q", v)
	}
	b.WriteByte(']')
	return b.String()
}

// hasToken reports whether a token is in comma-separated lists, ignoring case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// canHijack reports whether http.ResponseController will find a Hijacker.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}
