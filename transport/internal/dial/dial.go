// Package dial has what the client ends of the transports share: the URL, the http.Client of one connection, errors of
// refused handshakes, and the wire under a WebSocket.
package dial

import (
	"cmp"
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

const (
	clientMaxRedirects = 5
	MaxRefusal         = 4 << 10 // bytes kept of a refusal's body
	clientRefusalTime  = 3 * time.Second

	// idleConns is shorter than servers keep idle connections (Bandit and Cowboy: 60 s), so that a POST is never written to one
	// that the server is just closing: nobody could tell whether it arrived.
	clientIdleConns = 30 * time.Second
)

// clientDefaults returns c with every zero value replaced.
func WithDefaults(c transport.ClientConfig) transport.ClientConfig {
	if c.Vsn == "" {
		c.Vsn = "2.0.0"
	}
	if c.MaxMessage <= 0 {
		c.MaxMessage = 16 << 20
	}
	c.MaxMessage = min(c.MaxMessage, math.MaxInt64/8) // so that sizes can be calculated with
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

// clientEndpointURL is the URL to dial: last is the path's last segment, plain and secure are the schemes.
func Endpoint(c *transport.ClientConfig, last, plain, secure string) (*url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("transport: %w: %w", transport.ErrURL, WithoutURL(err))
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = plain
	case "https", "wss":
		u.Scheme = secure
	default:
		return nil, fmt.Errorf("transport: %w: scheme %q is none of ws, wss, http and https", transport.ErrURL, u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("transport: %w: no host in the URL", transport.ErrURL)
	}
	// net/url takes more for a host than it does with the scheme that requests are made with.
	if _, err := url.Parse((&url.URL{Scheme: u.Scheme, Host: u.Host}).String()); err != nil {
		return nil, fmt.Errorf("transport: %w: %w", transport.ErrURL, WithoutURL(err))
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" + last
	if u.RawPath != "" {
		u.RawPath = strings.TrimRight(u.RawPath, "/") + "/" + last
	}
	u.Fragment, u.RawFragment, u.ForceQuery = "", "", false

	var query []string
	for _, q := range []string{u.RawQuery, strings.TrimLeft(c.Params, "?"), "vsn=" + string(urlparams.AppendComponent(nil, c.Vsn))} {
		if q = strings.Trim(q, "&"); q != "" {
			query = append(query, q)
		}
	}
	u.RawQuery = strings.Join(query, "&")
	for _, b := range []byte(u.RawQuery) {
		if b <= ' ' || b >= 0x7f || b == '#' {
			return nil, fmt.Errorf("transport: %w: the query is not encoded, it has a byte %#02x", transport.ErrURL, b)
		}
	}
	for _, b := range []byte(c.AuthToken) {
		if b < ' ' || b == 0x7f {
			return nil, fmt.Errorf("transport: %w: the auth token has a byte %#02x", transport.ErrURL, b)
		}
	}
	return u, nil
}

// clientHTTP returns the client that makes the requests of one connection, and its transport. The transport is a clone that
// belongs to this connection: an attempt must not use what died with an earlier one, such as a pooled connection of
// HTTP/2 over a path that is gone. The transport is nil if the user's RoundTripper cannot be cloned.
func HTTPClient(c *transport.ClientConfig) (*http.Client, *http.Transport) {
	var hc http.Client
	if c.HTTPClient != nil {
		hc = *c.HTTPClient
	}
	hc.CheckRedirect = clientRedirects(hc.CheckRedirect)
	if hc.Transport == nil {
		hc.Transport = http.DefaultTransport
	}
	shared, ok := hc.Transport.(*http.Transport)
	if !ok {
		return &hc, nil
	}
	own := cloneTransport(shared)
	if own.IdleConnTimeout <= 0 || own.IdleConnTimeout > clientIdleConns {
		own.IdleConnTimeout = clientIdleConns
	}
	hc.Transport = own
	return &hc, own
}

// cloneTransport returns a transport with the same settings and no connections. Clone alone is not enough for HTTP/2: it
// copies the function by which golang.org/x/net/http2 hands connections to its pool, and it loses HTTP/2 that net/http
// switched on by itself.
func cloneTransport(t *http.Transport) *http.Transport {
	own := t.Clone() // makes t settle whether it speaks HTTP/2
	if _, ok := t.TLSNextProto["h2"]; ok {
		own.ForceAttemptHTTP2 = true
		if delete(own.TLSNextProto, "h2"); len(own.TLSNextProto) == 0 {
			own.TLSNextProto = nil // an empty map would switch HTTP/2 off
		}
	}
	return own
}

// clientRedirects decides which redirects are followed. The token and the parameters are meant for one server, so the
// scheme, the host and the port must stay. A poll's answer must not come from a request that was turned into a GET, and
// without vsn the server would speak another version. A redirect that is not followed becomes the answer. The user's
// function, if any, decides about the rest.
func clientRedirects(also func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		first := via[0]
		if len(via) > clientMaxRedirects ||
			req.Method != first.Method ||
			!isSameServer(req.URL, first.URL) ||
			req.URL.Query().Get("vsn") != first.URL.Query().Get("vsn") {
			return http.ErrUseLastResponse
		}
		// net/http sends the URL that redirects as the Referer, with the secrets in its query.
		if own := first.Header.Values("Referer"); len(own) > 0 {
			req.Header["Referer"] = own
		} else {
			req.Header.Del("Referer")
		}
		if also != nil {
			return also(req, via)
		}
		return nil
	}
}

// isSameServer reports whether two URLs have the same scheme, host and port.
func isSameServer(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}[u.Scheme])
	}
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// clientRequestHeader is the user's header for one request, a copy, and the host that it names, if any.
func RequestHeader(h http.Header) (http.Header, string) {
	h = h.Clone()
	if h == nil {
		h = http.Header{}
	}
	host := h.Get("Host")
	h.Del("Host")
	return h, host
}

// clientRefusal makes the error of an answer, whose body it reads and closes.
func Refusal(resp *http.Response) *transport.HandshakeError {
	late := time.AfterFunc(clientRefusalTime, func() { resp.Body.Close() })
	defer late.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, MaxRefusal)) // what there is of it will do
	resp.Body.Close()
	return &transport.HandshakeError{StatusCode: resp.StatusCode, Header: resp.Header, Body: body}
}

// clientDialError is err as the error of dialing u.
func Error(u *url.URL, err error) error {
	return fmt.Errorf("transport: dial %s://%s%s: %w", u.Scheme, u.Host, u.EscapedPath(), WithoutURL(err))
}

// clientErrorWithoutURL takes the URL out of an error of net/http: its query may hold secrets, and errors are logged.
func WithoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// clientCloseError is an error that is, by errors.As, a *CloseError, and by errors.Is its cause.
func CloseError(code int, reason string, cause error) error {
	return fmt.Errorf("%w: %w", &transport.CloseError{Code: code, Reason: reason}, cause)
}
