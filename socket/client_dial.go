package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"bennu.example/internal/link"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// clientDialer opens a connection: a seam for tests.
type clientDialer func(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error)

func dialClient(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error) {
	if by == LongPoll {
		return transport.DialLongPoll(ctx, cfg)
	}
	return transport.DialWebSocket(ctx, cfg)
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
	if d.by == LongPoll {
		return clientLongPoll
	}
	return "websocket"
}

// trialRef is the ref of the heartbeat that shows whether a WebSocket works. The loop's refs start at 1.
const trialRef serializer.Ref = `"0"`

// attemptLater makes an attempt on a goroutine of its own, and brings what came of it to the loop.
func (c *Client) attemptLater(order []ClientTransport, took func(clientDialed)) (cancel func()) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.ConnectTimeout)
	c.goUser(func() {
		defer cancel()
		got := c.attempt(ctx, order)
		if !c.post(clientTask(func() { took(got) })) && got.conn != nil {
			_ = got.conn.Close(clientCodeNormal, "")
		}
	})
	return cancel
}

// attempt tries the transports of order, one after the other.
func (c *Client) attempt(ctx context.Context, order []ClientTransport) clientDialed {
	cfg, err := c.dialConfig(ctx)
	if err != nil {
		return clientDialed{err: err}
	}
	var got clientDialed
	for _, by := range order {
		conn, err := c.try(ctx, by, cfg)
		if err == nil {
			return clientDialed{conn: conn, by: by, poor: got.poor}
		}
		if by == WebSocket {
			got.poor = err
		}
		if got.err == nil || !isRefusal(got.err) && (isRefusal(err) || adviceOf(err) > 0) {
			got.err = err
		}
		if ctx.Err() != nil || errors.Is(err, transport.ErrURL) || adviceOf(err) > 0 { // the server asks to be left alone
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

// try opens one transport. With Fallback a WebSocket must also answer, and soon.
func (c *Client) try(ctx context.Context, by ClientTransport, cfg transport.ClientConfig) (transport.ClientConn, error) {
	if by == LongPoll || c.cfg.Transport != Fallback {
		return c.dial(ctx, by, cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.FallbackAfter)
	defer cancel()
	conn, err := c.dial(ctx, by, cfg)
	if err != nil {
		return nil, err
	}
	if err := c.trial(ctx, conn); err != nil {
		_ = conn.Close(0, "")
		return nil, fmt.Errorf("socket: WebSocket does not answer: %w", err)
	}
	return conn, nil
}

// trial has a connection answer a heartbeat. Nothing was joined on it, so there is nothing else that it could bring.
func (c *Client) trial(ctx context.Context, conn transport.ClientConn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(0, "") })
	defer stop()
	op, data, err := c.cfg.Serializer.Append(nil, &serializer.Message{
		Ref: trialRef, Topic: serializer.TopicPhoenix, Event: serializer.EventHeartbeat,
	})
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
		query, err := transport.EncodeParams(params)
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

// What follows runs on the loop: with Fallback, long poll is only for as long as it must be.

// noteFallback remembers that a WebSocket did not work where long poll does, and when to try it again.
func (c *Client) noteFallback(got clientDialed) {
	if c.cfg.Transport != Fallback {
		return
	}
	if got.by == WebSocket {
		c.poorUntil, c.probeAfter = time.Time{}, 0
		return
	}
	if got.poor != nil {
		c.cfg.Logger.Warn().Err(got.poor).Msg("socket: WebSocket does not work, but long poll does")
	}
	c.probeLater()
}

func (c *Client) probeLater() {
	if c.probeAfter == 0 {
		c.probeAfter = clientProbeFirst
	} else {
		c.probeAfter = min(2*c.probeAfter, clientProbeMost)
	}
	c.poorUntil = time.Now().Add(c.probeAfter)
	c.loop.Arm(&c.probe, c.probeAfter)
}

// probeDue tries a WebSocket beside the long poll, or moves to one that has waited long enough.
func (c *Client) probeDue() {
	if c.better.conn != nil {
		c.move()
		return
	}
	if c.conn == nil || c.conn.name != clientLongPoll || c.cancelProbe != nil {
		return
	}
	c.probes++
	id := c.probes
	c.cancelProbe = c.attemptLater([]ClientTransport{WebSocket}, func(got clientDialed) { c.probed(id, got) })
}

func (c *Client) probed(id uint64, got clientDialed) {
	stale := id != c.probes || c.cancelProbe == nil
	if !stale {
		c.cancelProbe = nil
	}
	onLongPoll := c.conn != nil && c.conn.name == clientLongPoll
	switch {
	case got.conn != nil && (stale || !onLongPoll):
		c.newConn(got.conn, "").shut(clientCodeNormal, "")
	case got.conn != nil:
		c.better = got
		c.loop.Arm(&c.probe, clientMoveWait)
	case onLongPoll:
		c.probeLater()
	}
}

// moveIfQuiet moves to the WebSocket that works again once no push would be lost by that.
func (c *Client) moveIfQuiet() {
	if c.better.conn != nil && c.unanswered == 0 {
		c.move()
	}
}

func (c *Client) move() {
	better := c.takeBetter()
	c.drop(clientCodeNormal, "", c.farewells(), func(d link.Down) { d.Closed(errMoved) })
	c.noteFallback(better)
	c.opened(better)
}

func (c *Client) takeBetter() clientDialed {
	better := c.better
	c.better = clientDialed{}
	c.loop.Disarm(&c.probe)
	return better
}

func (c *Client) stopProbe() {
	c.loop.Disarm(&c.probe)
	if c.cancelProbe != nil {
		c.cancelProbe()
		c.cancelProbe = nil
	}
	if better := c.takeBetter(); better.conn != nil {
		c.newConn(better.conn, "").shut(clientCodeNormal, "")
	}
}
