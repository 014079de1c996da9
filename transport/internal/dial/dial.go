// Package dial has what the client ends of the transports share: the defaults, the URL, the
// http.Client of one connection, its errors, and the network connection under a WebSocket.
package dial

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bennu.example/internal/urlparams"
	"bennu.example/transport"
)

// MaxRefusal is how many bytes of the body of a HandshakeError are kept.
const MaxRefusal = 4 << 10

// refusalTimeout bounds the time to read the body of a refusal.
const refusalTimeout = 3 * time.Second

// WithDefaults returns c with every zero value replaced.
func WithDefaults(c transport.ClientConfig) transport.ClientConfig {
	if c.Vsn == "" {
		c.Vsn = "2.0.0"
	}
	if c.MaxMessage <= 0 {
		c.MaxMessage = 16 << 20
	}
	c.MaxMessage = min(c.MaxMessage, math.MaxInt64/8) // sums and small multiples must not overflow
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 10 * time.Second
	}
	if c.CloseTimeout <= 0 {
		c.CloseTimeout = 1500 * time.Millisecond
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 30 * time.Second
	}
	if c.PollTimeout <= 0 {
		c.PollTimeout = c.RequestTimeout
	}
	return c
}

// Endpoint returns the URL to dial. Last is the last segment of its path. Its scheme is plain or
// secure, by the scheme of c.URL. Every error wraps transport.ErrURL.
func Endpoint(c *transport.ClientConfig, last, plain, secure string) (*url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrURL, WithoutURL(err))
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = plain
	case "https", "wss":
		u.Scheme = secure
	default:
		return nil, fmt.Errorf("%w: unknown scheme %q, want ws, wss, http or https", transport.ErrURL, u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("%w: the URL has no host", transport.ErrURL)
	}
	// With the scheme of c.URL, url.Parse accepts hosts that it rejects with that of the requests.
	if _, err := url.Parse((&url.URL{Scheme: u.Scheme, Host: u.Host}).String()); err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrURL, WithoutURL(err))
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" + last
	if u.RawPath != "" {
		u.RawPath = strings.TrimRight(u.RawPath, "/") + "/" + last
	}
	u.Fragment, u.RawFragment, u.ForceQuery = "", "", false

	var query []string
	vsn := "vsn=" + string(urlparams.AppendComponent(nil, c.Vsn))
	for _, q := range []string{u.RawQuery, strings.TrimLeft(c.Params, "?"), vsn} {
		if q = strings.Trim(q, "&"); q != "" {
			query = append(query, q)
		}
	}
	u.RawQuery = strings.Join(query, "&")
	for _, b := range []byte(u.RawQuery) {
		if b <= ' ' || b >= 0x7f || b == '#' {
			return nil, fmt.Errorf("%w: byte %#02x in the query is not encoded", transport.ErrURL, b)
		}
	}
	for _, b := range []byte(c.AuthToken) {
		if b < ' ' || b == 0x7f {
			return nil, fmt.Errorf("%w: invalid byte %#02x in the auth token", transport.ErrURL, b)
		}
	}
	return u, nil
}

// RequestHeader returns a copy of the user's header for one request, without Host, and the value of
// Host, if any.
func RequestHeader(h http.Header) (header http.Header, host string) {
	header = h.Clone()
	if header == nil {
		header = http.Header{}
	}
	host = header.Get("Host")
	header.Del("Host")
	return header, host
}

// Refusal returns the error for a response that refuses the connection. It reads and closes the
// body.
func Refusal(resp *http.Response) *transport.HandshakeError {
	timer := time.AfterFunc(refusalTimeout, func() { resp.Body.Close() })
	defer timer.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, MaxRefusal)) // a part of it is useful, too
	resp.Body.Close()
	return &transport.HandshakeError{StatusCode: resp.StatusCode, Header: resp.Header, Body: body}
}

// Error returns the error of dialing u that wraps err.
func Error(u *url.URL, err error) error {
	return fmt.Errorf("transport: dial %s://%s%s: %w", u.Scheme, u.Host, u.EscapedPath(), WithoutURL(err))
}

// WithoutURL returns an error of net/http without its URL. The query may contain secrets, and
// errors are logged.
func WithoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// CloseError returns an error that wraps a *transport.CloseError and its cause.
func CloseError(code int, reason string, cause error) error {
	return fmt.Errorf("%w: %w", &transport.CloseError{Code: code, Reason: reason}, cause)
}
