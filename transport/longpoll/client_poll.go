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

// maxKeptBuffer is the size up to which a buffer is kept for the next answer.
const maxKeptBuffer = 64 << 10

// A server that answers polls within quickAnswer and without messages is polled again immediately
// quickPolls times, and then after pauses that grow up to maxPause.
const (
	quickAnswer = 100 * time.Millisecond
	quickPolls  = 3
	maxPause    = time.Second
)

// open makes the first request, which begins the session.
func (c *clientConn) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "", nil, clientToken{})
	if err != nil {
		return dial.Error(c.url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return dial.Refusal(resp)
	}
	var buf bytes.Buffer
	if err := c.readBody(resp, &buf); err != nil {
		return dial.Error(c.url, err)
	}
	a, err := parseAnswer(buf.Bytes(), c.maxMessage)
	if err == nil && a.Status == statusGone && isToken(a.Token) {
		c.url = resp.Request.URL // the request may have been redirected
		c.beginSession(a.Token, !slices.Equal(resp.Header.Values("Cache-Control"), []string{"no-store"}))
		return nil
	}
	refused := &transport.HandshakeError{
		StatusCode: resp.StatusCode,
		Header:     resp.Header,
		Body:       bytes.Clone(buf.Bytes()[:min(buf.Len(), dial.MaxRefusal)]),
	}
	if err == nil && a.Status >= 400 && a.Status != statusGone {
		refused.StatusCode = a.Status
	}
	return refused
}

// poll polls until the session ends.
func (c *clientConn) poll() {
	defer close(c.stopped)
	var buf bytes.Buffer
	for quick := 0; ; {
		began := time.Now()
		a, err := c.pollOnce(&buf)
		if err != nil {
			c.fail(err)
			return
		}
		switch a.Status {
		case statusOK, statusEmpty:
			c.confirmToken()
		case statusGone:
			if !isToken(a.Token) || !c.replaceToken(a.Token) {
				c.fail(errSessionGone())
				return
			}
		case statusForbidden:
			c.fail(&transport.CloseError{Code: codeForbidden, Reason: "forbidden"})
			return
		default:
			err := fmt.Errorf("longpoll: poll answered with status %d", a.Status)
			c.fail(dial.CloseError(transport.CodeInternal, reasonInternal, err))
			return
		}
		if len(a.Messages) > 0 {
			quick = 0
			select {
			case c.in <- a.Messages:
			case <-c.done:
				return
			}
			continue
		}
		// A server normally holds a poll until its window ends. One that does not must not be polled
		// as fast as it answers.
		if quick++; time.Since(began) > quickAnswer {
			quick = 0
		}
		if !c.pause(min(time.Duration(quick/quickPolls)*quickAnswer, maxPause)) {
			return
		}
	}
}

// pause waits for d. It reports whether the session still lives.
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

// pollOnce makes one poll. An error ends the session.
func (c *clientConn) pollOnce(buf *bytes.Buffer) (clientAnswer, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.pollTimeout)
	defer cancel()

	// net/http repeats a GET if the connection breaks before the answer begins. The server may have
	// sent messages with the answer to the first one, so the loss must be noticed.
	var written, lost atomic.Bool
	trace := httptrace.ClientTrace{
		WroteRequest:         func(i httptrace.WroteRequestInfo) { written.Store(i.Err == nil) },
		GotFirstResponseByte: func() { written.Store(false) },
		GotConn: func(httptrace.GotConnInfo) {
			if written.Load() {
				lost.Store(true)
				cancel()
			}
		},
	}
	resp, err := c.do(httptrace.WithClientTrace(ctx, &trace), http.MethodGet, "", nil, c.currentToken())
	if err == nil {
		err = c.readBody(resp, buf)
	}
	if err != nil {
		if lost.Load() {
			err = errAnswerLost
		}
		return clientAnswer{}, c.requestError(ctx, "poll", err)
	}
	a, err := parseAnswer(buf.Bytes(), c.maxMessage)
	if buf.Cap() > maxKeptBuffer {
		*buf = bytes.Buffer{}
	}
	if err != nil {
		return clientAnswer{}, c.requestError(ctx, "poll", err)
	}
	return a, nil
}
