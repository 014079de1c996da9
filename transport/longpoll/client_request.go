package longpoll

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"bennu.example/internal/urlparams"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

const (
	headerAuth = "X-Phoenix-Authtoken"

	// Codes and reasons that phoenix.js uses for the end of a session. They are never sent.
	codeTimeout    = 1005
	codeForbidden  = 1008
	reasonInternal = "internal server error"
)

// errAnswerLost means that a connection broke after a poll was written. The lost answer may have
// had messages.
var errAnswerLost = errors.New("connection lost while the server may have been answering")

// errSessionGone returns the reason for the end of a session that the server does not know.
func errSessionGone() error {
	return &transport.CloseError{Code: transport.CodeSessionGone, Reason: "session_gone"}
}

// do makes a request of the session and returns its answer, whatever the status is.
func (c *clientConn) do(
	ctx context.Context, method, contentType string, body []byte, t clientToken,
) (*http.Response, error) {
	u := *c.url
	if t.text != "" && t.inQuery {
		u.RawQuery += "&token=" + string(urlparams.AppendComponent(nil, t.text))
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return nil, err
	}
	req.Header = c.header.Clone()
	if c.host != "" {
		req.Host = c.host
	}
	if t.text != "" {
		req.Header.Set(headerToken, t.text)
	}
	if method == http.MethodGet {
		req.Header.Set("Accept", "application/json")
		if c.auth != "" {
			req.Header.Set(headerAuth, c.auth)
		}
	} else {
		req.Header.Set("Content-Type", contentType)
	}
	return c.http.Do(req)
}

// readBody reads the body of an answer into buf and closes it. It returns an error if the HTTP
// status is not 200.
func (c *clientConn) readBody(resp *http.Response, buf *bytes.Buffer) error {
	defer resp.Body.Close()
	switch refused := (&transport.HandshakeError{StatusCode: resp.StatusCode, Header: resp.Header}); {
	case refused.RetryAfter() > 0:
		return fmt.Errorf("longpoll: %w: %w", errNotLongPoll, refused)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("longpoll: %w: HTTP status %d", errNotLongPoll, resp.StatusCode)
	}
	buf.Reset()
	most := 4 * c.maxMessage
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, most+1))
	c.bytesIn.Add(uint64(n))
	if err == nil && n > most {
		return &transport.CloseError{Code: transport.CodeTooBig, Reason: "answer too big"}
	}
	return err
}

// requestError returns the reason to end the session after a request failed, with the code that
// phoenix.js uses.
func (c *clientConn) requestError(ctx context.Context, request string, err error) error {
	var closed *transport.CloseError
	switch {
	case errors.As(err, &closed):
		return err
	case !errors.Is(err, errAnswerLost) && ctx.Err() != nil && c.ctx.Err() == nil:
		return dial.CloseError(codeTimeout, "timeout", fmt.Errorf("longpoll: %s: %w", request, ctx.Err()))
	}
	return dial.CloseError(transport.CodeInternal, reasonInternal,
		fmt.Errorf("longpoll: %s: %w", request, dial.WithoutURL(err)))
}
