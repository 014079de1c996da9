package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	clientMaxRedirects = 5
	clientMaxRefusal   = 4 << 10 // bytes kept of a refusal's body
	clientRefusalTime  = 3 * time.Second

	// idleConns is shorter than servers keep idle connections (Bandit and Cowboy: 60 s), so that a POST is never written to one
	// that the server is just closing: nobody could tell whether it arrived.
	clientIdleConns = 30 * time.Second
)

// endpoint is the URL to dial: last is the path's last segment, plain and secure are the schemes.
func (c *ClientConfig) endpoint(last, plain, secure string) (*url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("transport: %w: %w", ErrURL, clientErrorWithoutURL(err))
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = plain
	case "https", "wss":
		u.Scheme = secure
	default:
		return nil, fmt.Errorf("transport: %w: scheme %q is none of ws, wss, http and https", ErrURL, u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("transport: %w: no host in the URL", ErrURL)
	}
	// net/url takes more for a host than it does with the scheme that requests are made with.
	if _, err := url.Parse((&url.URL{Scheme: u.Scheme, Host: u.Host}).String()); err != nil {
		return nil, fmt.Errorf("transport: %w: %w", ErrURL, clientErrorWithoutURL(err))
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" + last
	if u.RawPath != "" {
		u.RawPath = strings.TrimRight(u.RawPath, "/") + "/" + last
	}
	u.Fragment, u.RawFragment, u.ForceQuery = "", "", false

	var query []string
	for _, q := range []string{u.RawQuery, strings.TrimLeft(c.Params, "?"), "vsn=" + string(appendComponent(nil, c.Vsn))} {
		if q = strings.Trim(q, "&"); q != "" {
			query = append(query, q)
		}
	}
	u.RawQuery = strings.Join(query, "&")
	for _, b := range []byte(u.RawQuery) {
		if b <= ' ' || b >= 0x7f || b == '#' {
			return nil, fmt.Errorf("transport: %w: the query is not encoded, it has a byte %#02x", ErrURL, b)
		}
	}
	for _, b := range []byte(c.AuthToken) {
		if b < ' ' || b == 0x7f {
			return nil, fmt.Errorf("transport: %w: the auth token has a byte %#02x", ErrURL, b)
		}
	}
	return u, nil
}

// client is what makes the requests of one connection. The transport is that of this connection alone, or nil.
func (c *ClientConfig) client() (*http.Client, *http.Transport) {
	var hc http.Client
	if c.HTTPClient != nil {
		hc = *c.HTTPClient
	}
	hc.CheckRedirect = clientRedirects(hc.CheckRedirect)
	if hc.Transport != nil {
		return &hc, nil
	}
	shared, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		hc.Transport = http.DefaultTransport
		return &hc, nil
	}
	own := shared.Clone()
	own.IdleConnTimeout = clientIdleConns
	hc.Transport = own
	return &hc, own
}

// clientRedirects decides which redirects are followed. What is sent along, tokens above all, is meant for one host; a poll's
// answer must not come from a request that was turned into a GET; without vsn the server would speak another version. What is not
// followed comes back as the answer. The user's own function, if any, decides about the rest.
func clientRedirects(also func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		first, last := via[0], via[len(via)-1]
		if len(via) > clientMaxRedirects ||
			req.Method != first.Method ||
			!strings.EqualFold(req.URL.Hostname(), first.URL.Hostname()) ||
			last.URL.Scheme == "https" && req.URL.Scheme != "https" ||
			req.URL.Query().Get("vsn") != first.URL.Query().Get("vsn") {
			return http.ErrUseLastResponse
		}
		if also != nil {
			return also(req, via)
		}
		return nil
	}
}

// clientRequestHeader is the user's header for one request, a copy, and the host that it names, if any.
func clientRequestHeader(h http.Header) (http.Header, string) {
	h = h.Clone()
	if h == nil {
		h = http.Header{}
	}
	host := h.Get("Host")
	h.Del("Host")
	return h, host
}

// clientRefusal makes the error of an answer, whose body it reads and closes.
func clientRefusal(resp *http.Response) *HandshakeError {
	late := time.AfterFunc(clientRefusalTime, func() { resp.Body.Close() })
	defer late.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, clientMaxRefusal)) // what there is of it will do
	resp.Body.Close()
	return &HandshakeError{StatusCode: resp.StatusCode, Header: resp.Header, Body: body}
}

// clientDialError is err as the error of dialing u.
func clientDialError(u *url.URL, err error) error {
	return fmt.Errorf("transport: dial %s://%s%s: %w", u.Scheme, u.Host, u.EscapedPath(), clientErrorWithoutURL(err))
}

// clientErrorWithoutURL takes the URL out of an error of net/http: its query may hold secrets, and errors are logged.
func clientErrorWithoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// clientConns are the connections of a transport that is one long-poll session's own. CloseIdleConnections alone may leave some: one
// of HTTP/2 is not idle yet when its last request has just been given up.
type clientConns struct {
	transport *http.Transport

	mu     sync.Mutex
	live   map[*clientTracked]struct{}
	closed bool
}

// clientTracked is one of them.
type clientTracked struct {
	net.Conn
	in *clientConns
}

func trackClientConns(t *http.Transport) *clientConns {
	c := &clientConns{transport: t, live: make(map[*clientTracked]struct{})}
	if dial := t.DialContext; dial != nil {
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return c.add(conn)
		}
	}
	return c
}

func (c *clientConns) add(conn net.Conn) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, ErrClosed
	}
	t := &clientTracked{conn, c}
	c.live[t] = struct{}{}
	return t, nil
}

func (t *clientTracked) Close() error {
	t.in.mu.Lock()
	delete(t.in.live, t)
	t.in.mu.Unlock()
	return t.Conn.Close()
}

// closeAll closes what there is and lets nothing more come.
func (c *clientConns) closeAll() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for t := range c.live {
		t.Conn.Close()
	}
}
