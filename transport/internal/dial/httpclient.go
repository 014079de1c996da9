package dial

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bennu.example/transport"
)

const (
	maxRedirects = 5

	// idleTimeout is shorter than the time after which servers close idle connections (Bandit and
	// Cowboy: 60 s). A POST must not be written to a connection that the server is just closing,
	// because the client could not know whether it arrived.
	idleTimeout = 30 * time.Second
)

// HTTPClient returns the client that makes the requests of one connection, and its transport.
//
// The transport is a clone that belongs to this connection. Otherwise an attempt could use what
// died with an earlier one, such as a pooled HTTP/2 connection over a path that is gone. The
// transport is nil if the user's RoundTripper cannot be cloned.
func HTTPClient(c *transport.ClientConfig) (*http.Client, *http.Transport) {
	var hc http.Client
	if c.HTTPClient != nil {
		hc = *c.HTTPClient
	}
	hc.CheckRedirect = checkRedirect(hc.CheckRedirect)
	if hc.Transport == nil {
		hc.Transport = http.DefaultTransport
	}
	shared, ok := hc.Transport.(*http.Transport)
	if !ok {
		return &hc, nil
	}
	own := cloneTransport(shared)
	if own.IdleConnTimeout <= 0 || own.IdleConnTimeout > idleTimeout {
		own.IdleConnTimeout = idleTimeout
	}
	hc.Transport = own
	return &hc, own
}

// cloneTransport returns a transport with the same settings and without connections.
//
// Clone alone is not enough for HTTP/2. It copies the function through which golang.org/x/net/http2
// passes connections to its pool, and it loses the HTTP/2 support that net/http enabled by itself.
func cloneTransport(t *http.Transport) *http.Transport {
	own := t.Clone() // this also makes t decide whether it supports HTTP/2
	if _, ok := t.TLSNextProto["h2"]; ok {
		own.ForceAttemptHTTP2 = true
		if delete(own.TLSNextProto, "h2"); len(own.TLSNextProto) == 0 {
			own.TLSNextProto = nil // an empty map would disable HTTP/2
		}
	}
	return own
}

// checkRedirect returns the function that decides which redirects are followed. A redirect that is
// not followed becomes the response.
//
// The token and the parameters are for one server, so the scheme, the host and the port must not
// change. The method must not change, because a redirected POST could be answered like a poll.
// Without vsn the server would use another version. The user's function, if any, decides about the
// rest.
func checkRedirect(user func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		first := via[0]
		if len(via) > maxRedirects ||
			req.Method != first.Method ||
			!isSameServer(req.URL, first.URL) ||
			req.URL.Query().Get("vsn") != first.URL.Query().Get("vsn") {
			return http.ErrUseLastResponse
		}
		// net/http sends the redirecting URL as the Referer, with the secrets in its query.
		if own := first.Header.Values("Referer"); len(own) > 0 {
			req.Header["Referer"] = own
		} else {
			req.Header.Del("Referer")
		}
		if user != nil {
			return user(req, via)
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
