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

// clientDialer opens a connection: a seam for tests.
type clientDialer func(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error)

func dialClient(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error) {
	if by == TransportLongPoll {
		return longpoll.Dial(ctx, cfg)
	}
	return websocket.Dial(ctx, cfg)
}

// clientDialed is what came of an attempt.
type clientDialed struct {
	conn transport.ClientConn
	by   ClientTransport
	err  error // why there is no connection
	poor error // with Fallback: why it is not a WebSocket
}

// clientLongPoll is the name of long poll in State.Transport.
const clientLongPoll = "longpoll"

func (d clientDialed) name() string {
	if d.by == TransportLongPoll {
		return clientLongPoll
	}
	return "websocket"
}

// trialRef is the ref of the heartbeat that shows whether a WebSocket works. The loop's refs start at 1.
const trialRef serializer.Ref = `"0"`

// errAttemptExited is why an attempt failed that did not return.
var errAttemptExited = fmt.Errorf("socket: call Params, AuthTokenFunc or HTTPClient: %w", clientlink.ErrExited)

// attemptLater makes an attempt on a goroutine of its own, and brings what came of it to the loop.
func (c *Client) attemptLater(order []ClientTransport, proof clientProof, took func(clientDialed)) (cancel func()) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.ConnectTimeout+proof.hold)
	c.goUser(func() {
		defer cancel()
		got := clientDialed{err: errAttemptExited}
		defer func() { // also if a function of the configuration ends this goroutine
			if !c.post(clientTask(func() { took(got) })) && got.conn != nil {
				_ = got.conn.Close(clientCodeNormal, "")
			}
		}()
		got = c.attempt(ctx, order, proof)
	})
	return cancel
}

// attempt tries the transports of order, one after the other.
func (c *Client) attempt(ctx context.Context, order []ClientTransport, proof clientProof) clientDialed {
	cfg, err := c.dialConfig(ctx)
	if err != nil {
		return clientDialed{err: err}
	}
	var got clientDialed
	for _, by := range order {
		conn, err := c.try(ctx, by, cfg, proof)
		if err == nil {
			return clientDialed{conn: conn, by: by, poor: got.poor}
		}
		if by == TransportWebSocket {
			got.poor = err
		}
		if got.err == nil || !isRefusal(got.err) && (isRefusal(err) || adviceOf(err) > 0) {
			got.err = err
		}
		// A server that asks for patience, or that closes the WebSocket with a code, has been reached: another transport would not help.
		var closed *transport.CloseError
		if ctx.Err() != nil || errors.Is(err, transport.ErrURL) || adviceOf(err) > 0 || errors.As(err, &closed) {
			break
		}
	}
	return got
}

// isRefusal reports whether the server was reached and says no.
func isRefusal(err error) bool {
	var refused *transport.HandshakeError
	return errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden)
}

// try opens one transport. With Fallback a WebSocket must also answer, and soon. If WebSockets did not last here, it must
// then show that it does.
func (c *Client) try(
	ctx context.Context, by ClientTransport, cfg transport.ClientConfig, proof clientProof,
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
	err = c.trial(soon, conn, 0)
	if err == nil && proof != (clientProof{}) {
		err = c.prove(ctx, conn, proof)
	}
	if err != nil {
		_ = conn.Close(0, "")
		return nil, fmt.Errorf("socket: WebSocket does not answer: %w", err)
	}
	return conn, nil
}

// prove holds the connection for a while, and then has a heartbeat answered that is as large as a message that was lost.
func (c *Client) prove(ctx context.Context, conn transport.ClientConn, proof clientProof) error {
	held := time.NewTimer(proof.hold)
	defer held.Stop()
	select {
	case <-held.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.trial(ctx, conn, proof.size)
}

// trial has a connection answer a heartbeat that is padded by pad bytes, which servers ignore. Nothing was joined on it, so
// there is nothing else that it could bring.
func (c *Client) trial(ctx context.Context, conn transport.ClientConn, pad int) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(0, "") })
	defer stop()
	m := serializer.Message{Ref: trialRef, Topic: serializer.TopicPhoenix, Event: serializer.EventHeartbeat}
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
		if err == nil && m.Kind == serializer.KindReply && m.Ref == trialRef {
			if !stop() {
				return ctx.Err()
			}
			return nil
		}
	}
}

// dialConfig calls the functions of the configuration.
func (c *Client) dialConfig(ctx context.Context) (transport.ClientConfig, error) {
	cfg := transport.ClientConfig{
		URL:        c.url,
		Vsn:        serializer.Vsn(c.cfg.Serializer),
		AuthToken:  c.cfg.AuthToken,
		Header:     c.cfg.Header.Clone(),
		HTTPClient: c.cfg.HTTPClient,
		MaxMessage: c.cfg.MaxMessage,

		RequestTimeout: c.cfg.LongPollTimeout,
		PollTimeout:    max(c.cfg.LongPollTimeout, c.cfg.HeartbeatInterval+(clientHeartbeatGrace+2)*c.cfg.HeartbeatTimeout),
	}
	params, isFunc := c.cfg.Params, isParamsFunc(c.cfg.Params)
	if isFunc {
		var err error
		if params, err = params.(func(context.Context) (any, error))(ctx); err != nil {
			return cfg, fmt.Errorf("socket: params: %w", err)
		}
	}
	if c.cfg.AuthTokenFunc != nil {
		var err error
		if cfg.AuthToken, err = c.cfg.AuthTokenFunc(ctx); err != nil {
			return cfg, fmt.Errorf("socket: auth token: %w", err)
		}
	}
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
	return cfg, nil
}

func isParamsFunc(params any) bool {
	_, ok := params.(func(context.Context) (any, error))
	return ok
}
