package websocket

import (
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"

	"github.com/coder/websocket"

	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

// clientTokenPrefix marks the subprotocol that is an auth token. In spite of its name, the token
// behind it is encoded in standard base64.
const clientTokenPrefix = "base64url.bearer.phx."

// Dial opens a WebSocket. The context bounds the handshake only; without a deadline the handshake
// is not bounded. The error is, by errors.As, a *transport.HandshakeError if the server answered
// anything but a WebSocket handshake. The caller must close the connection.
func Dial(ctx context.Context, cfg *transport.ClientConfig) (transport.ClientConn, error) {
	config := dial.WithDefaults(*cfg)
	u, err := dial.Endpoint(&config, "websocket", "ws", "wss")
	if err != nil {
		return nil, err
	}
	hc, own := dial.HTTPClient(&config)
	if own != nil {
		own.DisableKeepAlives = true // the connection is not reused, neither after a handshake nor after a refusal
	}
	shake := &clientHandshake{next: hc.Transport}
	hc.Transport = shake
	header, host := dial.RequestHeader(config.Header)
	conn, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient:   hc,
		HTTPHeader:   header,
		Host:         host,
		Subprotocols: clientSubprotocols(header, config.AuthToken),
	})
	if err != nil {
		if resp != nil && shake.refused != nil {
			return nil, shake.refused
		}
		return nil, dial.Error(u, err)
	}
	conn.SetReadLimit(config.MaxMessage)
	return newClientConn(conn, shake.wire, &config), nil
}

// clientSubprotocols returns the subprotocols to offer: those of the user's header, which are
// removed from it, and the auth token. A server that accepts tokens answers with "phoenix". A
// server that does not, and has no subprotocols, ignores the whole offer.
func clientSubprotocols(h http.Header, token string) []string {
	var list []string
	for _, v := range h.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(p))
		}
	}
	h.Del("Sec-WebSocket-Protocol")
	if token != "" {
		list = append(list, "phoenix", clientTokenPrefix+base64.RawStdEncoding.EncodeToString([]byte(token)))
	}
	return list
}

// clientHandshake is the RoundTripper of one handshake. It puts a dial.Wire under the connection
// that the server switches to WebSocket, and keeps the response of a server that refuses.
type clientHandshake struct {
	next    http.RoundTripper
	wire    *dial.Wire
	refused *transport.HandshakeError
}

// RoundTrip is part of http.RoundTripper.
func (s *clientHandshake) RoundTrip(req *http.Request) (*http.Response, error) {
	s.refused = nil
	var conn net.Conn
	trace := httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn }}
	resp, err := s.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &trace)))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		s.refused = dial.Refusal(resp)
		resp.Body = http.NoBody
		return resp, nil
	}
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
		s.wire = dial.NewWire(rwc, conn)
		resp.Body = s.wire
	}
	return resp, nil
}
