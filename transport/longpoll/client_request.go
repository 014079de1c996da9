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
	lpTokenHeader = "X-Phoenix-Longpoll-Token"
	lpAuthHeader  = "X-Phoenix-Authtoken"

	// Codes and texts by which phoenix.js knows the end of a session. None is ever sent.
	lpCodeTimeout   = 1005
	lpCodeForbidden = 1008
	lpInternal      = "internal server error"
)

var errLPLost = errors.New("connection lost while the server may have been answering")

// send makes a request of the session and returns its answer, whatever its status.
func (c *clientConn) send(ctx context.Context, method, contentType string, body []byte, t lpToken) (*http.Response, error) {
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
		req.Header.Set(lpTokenHeader, t.text)
	}
	if method == http.MethodGet {
		req.Header.Set("Accept", "application/json")
		if c.auth != "" {
			req.Header.Set(lpAuthHeader, c.auth)
		}
	} else {
		req.Header.Set("Content-Type", contentType)
	}
	return c.http.Do(req)
}

// receive reads the body of an answer into buf and closes it.
func (c *clientConn) receive(resp *http.Response, buf *bytes.Buffer) error {
	defer resp.Body.Close()
	switch refused := (&transport.HandshakeError{StatusCode: resp.StatusCode, Header: resp.Header}); {
	case refused.RetryAfter() > 0:
		return fmt.Errorf("transport: %w: %w", errLPNoAnswer, refused)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("transport: %w: HTTP status %d", errLPNoAnswer, resp.StatusCode)
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

// requestError makes what ends the session of a request that failed, as phoenix.js has it.
func (c *clientConn) requestError(ctx context.Context, what string, err error) error {
	var closed *transport.CloseError
	switch {
	case errors.As(err, &closed):
		return err
	case !errors.Is(err, errLPLost) && ctx.Err() != nil && c.ctx.Err() == nil:
		return dial.CloseError(lpCodeTimeout, "timeout", fmt.Errorf("transport: %s: %w", what, ctx.Err()))
	}
	return dial.CloseError(transport.CodeInternal, lpInternal, fmt.Errorf("transport: %s: %w", what, dial.WithoutURL(err)))
}
