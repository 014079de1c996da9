package doctor

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/socket"
	"bennu.example/transport"
)

// longPoll checks the other transport, to which clients fall back.
func (e *examination) longPoll(ctx context.Context, origin string) {
	u := *e.base
	u.RawQuery = ""
	params := e.Params
	if q := e.base.Query(); len(q) > 0 {
		for name, values := range e.Params {
			q[name] = values
		}
		params = q
	}
	logger := zerolog.Nop()
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	header := e.header(origin)
	if host := e.Header.Get("Host"); host != "" {
		header.Set("Host", host)
	}
	c, err := socket.Dial(ctx, u.String(), &socket.ClientConfig{
		Transport: socket.TransportLongPoll, Header: header, Params: params, AuthToken: e.Token,
		NoSocketChannel: true, Logger: &logger, ConnectTimeout: e.Timeout,
	})
	if err != nil {
		var refusal *transport.HandshakeError
		if errors.As(err, &refusal) {
			e.note("long poll", "", "long poll does not work here (%d %s); clients cannot fall back to it",
				refusal.StatusCode, http.StatusText(refusal.StatusCode))
			return
		}
		e.note("long poll", "", "long poll does not work here (%v); clients cannot fall back to it", err)
		return
	}
	defer func() { _ = c.Close(ctx) }()
	d, err := c.Ping(ctx)
	switch {
	case err != nil:
		e.problem("long poll", e.bufferingFix(), "a heartbeat over long poll is not answered: %v", err)
	case d > 2*time.Second:
		e.problem("long poll", e.bufferingFix(), "a heartbeat over long poll is answered only after %s: a proxy holds back "+
			"what the server sends", rounded(d))
	default:
		e.ok("long poll", "it works, and a heartbeat is answered after %s", rounded(d))
	}
}
