package longpoll

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

// lpKeptAnswer is how large a buffer is kept from poll to poll.
const lpKeptAnswer = 64 << 10

// A server that answers polls sooner than lpQuick and with nothing is asked again at once lpQuickPass times, then after pauses.
const (
	lpQuick     = 100 * time.Millisecond
	lpQuickPass = 3
	lpMaxPause  = time.Second
)

// open makes the first request, which begins the session.
func (c *clientConn) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "", nil, lpToken{})
	if err != nil {
		return dial.Error(c.url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return dial.Refusal(resp)
	}
	var buf bytes.Buffer
	if err := c.receive(resp, &buf); err != nil {
		return dial.Error(c.url, err)
	}
	a, err := parseLPAnswer(buf.Bytes(), c.maxMessage)
	if err == nil && a.Status == lpGone && lpSendable(a.Token) {
		c.url = resp.Request.URL // to which it may have been redirected
		c.adopt(a.Token, !slices.Equal(resp.Header.Values("Cache-Control"), []string{"no-store"}))
		return nil
	}
	refused := &transport.HandshakeError{StatusCode: resp.StatusCode, Header: resp.Header, Body: bytes.Clone(buf.Bytes()[:min(buf.Len(), dial.MaxRefusal)])}
	if err == nil && a.Status >= 400 && a.Status != lpGone {
		refused.StatusCode = a.Status
	}
	return refused
}

// poll asks for messages until the session is over.
func (c *clientConn) poll() {
	defer close(c.stopped)
	var buf bytes.Buffer
	for idle := 0; ; {
		began := time.Now()
		a, err := c.get(&buf)
		if err != nil {
			c.fail(err)
			return
		}
		switch a.Status {
		case lpOK, lpNothing:
			c.prove()
		case lpGone:
			if !lpSendable(a.Token) || !c.replace(a.Token) {
				c.fail(&transport.CloseError{Code: transport.CodeSessionGone, Reason: "session_gone"})
				return
			}
		case lpForbidden:
			c.fail(&transport.CloseError{Code: lpCodeForbidden, Reason: "forbidden"})
			return
		default:
			c.fail(dial.CloseError(transport.CodeInternal, lpInternal, fmt.Errorf("transport: poll answered with status %d", a.Status)))
			return
		}
		if len(a.Messages) > 0 {
			idle = 0
			select {
			case c.in <- a.Messages:
			case <-c.done:
				return
			}
			continue
		}
		// A server holds a poll until its window is over. One that does not must not be asked as fast as it answers.
		if idle++; time.Since(began) > lpQuick {
			idle = 0
		}
		if !c.pause(min(time.Duration(idle/lpQuickPass)*lpQuick, lpMaxPause)) {
			return
		}
	}
}

// pause waits, and reports whether the session still lives.
func (c *clientConn) pause(d time.Duration) bool {
	if d <= 0 {
		return c.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.done:
		return false
	}
}

// get makes one poll. The error is what ends the session.
func (c *clientConn) get(buf *bytes.Buffer) (lpAnswer, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.pollTimeout)
	defer cancel()

	// net/http repeats a GET by itself when the connection breaks before the answer begins. The first one may have taken messages
	// with it, though, and the loss must be seen.
	var asked, lost atomic.Bool
	trace := httptrace.ClientTrace{
		WroteRequest:         func(i httptrace.WroteRequestInfo) { asked.Store(i.Err == nil) },
		GotFirstResponseByte: func() { asked.Store(false) },
		GotConn: func(httptrace.GotConnInfo) {
			if asked.Load() {
				lost.Store(true)
				cancel()
			}
		},
	}
	resp, err := c.send(httptrace.WithClientTrace(ctx, &trace), http.MethodGet, "", nil, c.session())
	if err == nil {
		err = c.receive(resp, buf)
	}
	if err != nil {
		if lost.Load() {
			err = errLPLost
		}
		return lpAnswer{}, c.requestError(ctx, "poll", err)
	}
	a, err := parseLPAnswer(buf.Bytes(), c.maxMessage)
	if buf.Cap() > lpKeptAnswer {
		*buf = bytes.Buffer{}
	}
	if err != nil {
		return lpAnswer{}, c.requestError(ctx, "poll", err)
	}
	return a, nil
}
