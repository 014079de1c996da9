package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/urlparams"
	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
)

// clientDialer opens a connection. Tests replace it.
type clientDialer func(
	ctx context.Context, by ClientTransport, cfg transport.ClientConfig,
) (transport.ClientConn, error)

func dialClient(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error) {
	if by == TransportLongPoll {
		return longpoll.Dial(ctx, &cfg)
	}
	return websocket.Dial(ctx, &cfg)
}

// dialResult is the result of an attempt to connect.
type dialResult struct {
	conn         transport.ClientConn
	by           ClientTransport
	err          error // why there is no connection
	webSocketErr error // with TransportFallback: why conn is not a WebSocket
	auth         authSource
}

// Names of the transports in State.Transport.
const (
	clientWebSocket = "websocket"
	clientLongPoll  = "longpoll"
)

func (d dialResult) name() string {
	if d.by == TransportLongPoll {
		return clientLongPoll
	}
	return clientWebSocket
}

// checkRef is the ref of the heartbeat that shows whether a WebSocket works. The loop's refs start
// at 1.
const checkRef serializer.Ref = `"0"`

// errAttemptExited is the error of an attempt in which a user's function ended the goroutine.
var errAttemptExited = fmt.Errorf("socket: call Params, AuthTokenFunc or HTTPClient: %w", clientlink.ErrExited)

// startAttempt makes an attempt on a new goroutine and calls done with the result on the loop.
func (c *Client) startAttempt(order []ClientTransport, check clientCheck, done func(dialResult)) (cancel func()) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.ConnectTimeout+check.hold)
	auth := c.authSource()
	c.goUser(func() {
		defer cancel()
		got := dialResult{err: errAttemptExited}
		defer func() { // it also runs if a function of the configuration ends this goroutine
			got.auth = auth
			if !c.post(clientTask(func() { done(c.checkIdentity(got)) })) && got.conn != nil {
				_ = got.conn.Close(clientCodeNormal, "")
			}
		}()
		got = c.attempt(ctx, order, check, &auth)
	})
	return cancel
}

// checkIdentity turns an attempt that was made with another identity into one that failed.
func (c *Client) checkIdentity(got dialResult) dialResult {
	if got.conn == nil || got.auth.epoch == c.auth.epoch {
		return got
	}
	c.newConn(got.conn, "").closeSoon(clientCodeNormal, "")
	return dialResult{err: errOtherToken, auth: got.auth}
}

// attempt tries the transports one after the other.
func (c *Client) attempt(
	ctx context.Context, order []ClientTransport, check clientCheck, auth *authSource,
) dialResult {
	cfg, err := c.dialConfig(ctx, auth)
	if err != nil {
		return dialResult{err: err}
	}
	var got dialResult
	for _, by := range order {
		conn, err := c.try(ctx, by, cfg, check)
		if err == nil {
			return dialResult{conn: conn, by: by, webSocketErr: got.webSocketErr}
		}
		if by == TransportWebSocket {
			got.webSocketErr = err
		}
		if got.err == nil || !isRefusal(got.err) && (isRefusal(err) || adviceOf(err) > 0) {
			got.err = err
		}
		// If the server asks the client to wait, or closes the WebSocket with a code, it was reached. The
		// other transport would not help.
		var closed *transport.CloseError
		if ctx.Err() != nil || errors.Is(err, transport.ErrURL) || adviceOf(err) > 0 || errors.As(err, &closed) {
			break
		}
	}
	return got
}

// isRefusal reports whether the server refused the client.
func isRefusal(err error) bool {
	var refused *transport.HandshakeError
	return errors.As(err, &refused) &&
		(refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden)
}

// try opens one transport. With TransportFallback, a WebSocket must also reply to a heartbeat
// within FallbackAfter, and then pass the check, if there is one.
func (c *Client) try(
	ctx context.Context, by ClientTransport, cfg transport.ClientConfig, check clientCheck,
) (transport.ClientConn, error) {
	if by == TransportLongPoll || c.cfg.Transport != TransportFallback {
		return c.dial(ctx, by, cfg)
	}
	soon, cancel := context.WithTimeout(ctx, c.cfg.FallbackAfter)
	defer cancel()
	conn, err := c.dial(soon, by, cfg)
	if err != nil {
		return nil, err
	}
	err = c.checkHeartbeat(soon, conn, 0)
	if err == nil && check != (clientCheck{}) {
		err = c.checkLasting(ctx, conn, check)
	}
	if err != nil {
		_ = conn.Close(0, "")
		return nil, fmt.Errorf("socket: WebSocket does not work: %w", err)
	}
	return conn, nil
}

// checkLasting waits for check.hold. Then it sends a heartbeat that is as large as a message that
// was lost, and waits for the reply.
func (c *Client) checkLasting(ctx context.Context, conn transport.ClientConn, check clientCheck) error {
	held := time.NewTimer(check.hold)
	defer held.Stop()
	select {
	case <-held.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.checkHeartbeat(ctx, conn, check.size)
}

// checkHeartbeat sends a heartbeat with pad bytes of padding, which servers ignore, and waits for
// the reply. The connection has no channels, so other messages can be ignored.
func (c *Client) checkHeartbeat(ctx context.Context, conn transport.ClientConn, pad int) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(0, "") })
	defer stop()
	m := serializer.Message{Ref: checkRef, Topic: serializer.TopicPhoenix, Event: serializer.EventHeartbeat}
	if pad > 0 {
		m.Payload = serializer.Value(map[string]string{"pad": strings.Repeat("x", pad)})
	}
	op, data, err := c.cfg.Serializer.Append(nil, &m)
	if err != nil {
		return err
	}
	if err := conn.Write(&serializer.Frame{Op: op, Data: data}); err != nil {
		return err
	}
	for {
		op, data, err := conn.Read()
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return err
		}
		m, err := c.cfg.Serializer.ParseClient(op, data)
		if err == nil && m.Kind == serializer.KindReply && m.Ref == checkRef {
			if !stop() {
				return ctx.Err()
			}
			return nil
		}
	}
}

// dialConfig returns the configuration of an attempt. It calls Params and AuthTokenFunc.
func (c *Client) dialConfig(ctx context.Context, auth *authSource) (transport.ClientConfig, error) {
	heartbeats := time.Duration(0)
	if c.cfg.HeartbeatInterval > 0 {
		heartbeats = c.cfg.HeartbeatInterval + (clientHeartbeatGrace+2)*c.cfg.HeartbeatTimeout
	}
	cfg := transport.ClientConfig{
		URL:        c.url,
		Vsn:        serializer.Vsn(c.cfg.Serializer),
		Header:     c.cfg.Header.Clone(),
		HTTPClient: c.cfg.HTTPClient,
		MaxMessage: c.cfg.MaxMessage,

		RequestTimeout: c.cfg.LongPollTimeout,
		PollTimeout:    max(c.cfg.LongPollTimeout, heartbeats),
	}
	if err := c.checkPrefix(); err != nil {
		return cfg, err
	}
	params, isFunc := c.cfg.Params, isParamsFunc(c.cfg.Params)
	if isFunc {
		var err error
		if params, err = params.(func(context.Context) (any, error))(ctx); err != nil {
			return cfg, fmt.Errorf("socket: params: %w", err)
		}
	}
	if auth.fetches {
		var err error
		if auth.token, err = c.fetchToken(ctx); err != nil {
			return cfg, fmt.Errorf("socket: auth token: %w", err)
		}
	}
	cfg.AuthToken = auth.token
	if params != nil {
		query, err := urlparams.Encode(params)
		if err != nil && !isFunc {
			err = fmt.Errorf("%w: %w", transport.ErrURL, err)
		}
		if err != nil {
			return cfg, fmt.Errorf("socket: params: %w", err)
		}
		cfg.Params = query
	}
	if c.clientID == "" {
		return cfg, nil
	}
	if !isClientID(c.clientID) {
		return cfg, fmt.Errorf("socket: %w: invalid ClientID", transport.ErrURL)
	}
	addParam(&cfg.Params, "%24client=", c.clientID)
	if !c.cfg.NoSocketChannel {
		addParam(&cfg.Params, "%24order=", c.nextOrder())
	}
	return cfg, nil
}

// addParam adds a parameter to a query, unless the query has it. The name is escaped and ends in
// "=".
func addParam(query *string, name, value string) {
	if strings.HasPrefix(*query, name) || strings.Contains(*query, "&"+name) {
		return
	}
	if *query != "" {
		*query += "&"
	}
	*query += name + value
}

func isParamsFunc(params any) bool {
	_, ok := params.(func(context.Context) (any, error))
	return ok
}
