package doctor

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// address checks that the host exists, that a server listens, and its certificate.
func (e *examination) address(ctx context.Context) bool {
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: e.base}); err == nil && proxy != nil {
		e.note("address", "", "requests go through the proxy %s of the environment", proxy.Host)
		return true
	}
	port := e.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[e.base.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	began := time.Now()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(e.base.Hostname(), port))
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.problem("address", "Check the name, and the DNS records of the domain.",
			"there is no host %s: %v", e.base.Hostname(), err)
		return false
	case err != nil:
		e.problem("address", "Start the server, or check its address and port, and the firewall.",
			"nothing listens there: %v", err)
		return false
	}
	defer conn.Close()
	e.ok("address", "%s answers after %s", conn.RemoteAddr(), rounded(time.Since(began)))
	if e.base.Scheme != "https" {
		return true
	}
	secured := tls.Client(conn, &tls.Config{ServerName: e.base.Hostname(), NextProtos: []string{"http/1.1"}})
	if err := secured.HandshakeContext(ctx); err != nil {
		fix := "Install a valid certificate, with all intermediate certificates."
		if plain := new(tls.RecordHeaderError); errors.As(err, plain) {
			fix = "The server speaks HTTP at this port, not HTTPS: use ws:// or the port of HTTPS."
		}
		e.problem("certificate", fix, "TLS fails: %v", err)
		return false
	}
	if expiry := secured.ConnectionState().PeerCertificates[0].NotAfter; time.Until(expiry) < 14*24*time.Hour {
		e.note("certificate", "Renew it.", "the certificate expires on %s", expiry.Format(time.DateOnly))
	} else {
		e.ok("certificate", "valid until %s", expiry.Format(time.DateOnly))
	}
	return true
}

func rounded(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// attempt describes one handshake.
type attempt struct {
	path     string // below the host; empty means that of the socket
	origin   string // empty means none
	compress bool
}

// answer is what came back. Without a connection, status is zero if no HTTP response came.
type answer struct {
	conn   *websocket.Conn
	status int
	header http.Header
	body   string
	err    error
	date   time.Duration // how far the clock of the header Date is ahead
}

func (a *answer) close() {
	if a.conn != nil {
		_ = a.conn.CloseNow()
	}
}

// handshake makes a handshake. The caller must close the answer.
func (e *examination) handshake(ctx context.Context, at attempt) answer {
	u := *e.base
	if at.path != "" {
		u.Path = strings.TrimRight(at.path, "/")
	}
	u.Path += "/websocket"
	u.RawQuery = e.query(u.RawQuery)
	options := &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader: e.header(at.origin),
		Host:       e.Header.Get("Host"),
	}
	if e.Token != "" {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(e.Token))
		options.Subprotocols = []string{"phoenix", "base64url.bearer.phx." + encoded}
	}
	if at.compress {
		options.CompressionMode, options.CompressionThreshold = websocket.CompressionNoContextTakeover, 64
	}
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	began := time.Now()
	conn, resp, err := websocket.Dial(ctx, u.String(), options) //nolint:bodyclose // the library owns the body
	a := answer{conn: conn, err: err, header: http.Header{}}
	if resp == nil {
		return a
	}
	a.status, a.header = resp.StatusCode, resp.Header
	if err != nil && resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what arrives is enough
		a.body = strings.TrimSpace(string(body))
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		middle := began.Add(time.Since(began) / 2)
		a.date = date.Add(500 * time.Millisecond).Sub(middle) // the header has whole seconds
	}
	return a
}

// query returns the query of a request.
func (e *examination) query(own string) string {
	q, err := url.ParseQuery(own)
	if err != nil {
		q = url.Values{}
	}
	for name, values := range e.Params {
		q[name] = values
	}
	q.Set("vsn", "2.0.0")
	return q.Encode()
}

func (e *examination) header(origin string) http.Header {
	h := e.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Del("Host")
	h.Del("Origin")
	if origin != "" {
		h.Set("Origin", origin)
	}
	return h
}

// refused explains a handshake that failed although it had no Origin.
func (e *examination) refused(ctx context.Context, a answer) {
	switch {
	case a.status == 0:
		e.problem("websocket", "Check that this port speaks HTTP, and the log of the server.",
			"there is no answer: %v", a.err)
	case a.status == http.StatusSwitchingProtocols:
		e.problem("websocket", "A proxy changes the headers of the handshake. Use wss://, which it cannot read.",
			"the answer to the handshake is malformed: %v", a.err)
	case isUpgradeLost(a):
		e.problem("websocket", e.upgradeFix(), "the handshake arrives without its Upgrade or Connection header: "+
			"the answer is %d %s", a.status, quoted(a.body))
	case a.status >= 300 && a.status < 400:
		e.redirected(a)
	case a.status == http.StatusNotFound, a.status == http.StatusOK, a.status == http.StatusMethodNotAllowed:
		e.wrongPath(ctx, a)
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		e.problem("websocket", "Pass what the server wants with --token and --connect-params. If it needs neither, the "+
			"Host of the request is refused: name it in socket.Config.Hosts, and let proxies keep it. The server's log "+
			"names the setting.", "the server refuses the client with %d, whatever page it comes from", a.status)
	case a.status == http.StatusNotImplemented:
		e.problem("websocket", "Give the http.ResponseWriter of every middleware a method Unwrap: see “Mount it behind "+
			"middleware” in docs/deployment.md.", "the server cannot give up the connection: a middleware wraps the response")
	case a.status == http.StatusBadGateway, a.status == http.StatusGatewayTimeout:
		e.problem("websocket", "Start the server, and check the address that the proxy forwards to.",
			"the proxy does not reach the server: %d", a.status)
	case a.status == http.StatusTooManyRequests, a.status == http.StatusServiceUnavailable:
		e.problem("websocket", "Wait and try again. See Config.HandshakeRate and Config.Admission, or whether the "+
			"server shuts down.", "the server takes no more clients now: %d", a.status)
	default:
		e.problem("websocket", "See the log of the server and of the proxy.", "the answer is %d %s", a.status, quoted(a.body))
	}
}

// isUpgradeLost reports whether the server saw a plain request instead of a handshake. Bennu and
// Phoenix on Bandit say so in the body; other servers answer 426.
func isUpgradeLost(a answer) bool {
	said := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(strings.ToLower(a.body), s) })
	}
	return a.status == http.StatusUpgradeRequired ||
		a.status == http.StatusBadRequest && (a.body == "" || said("upgrade", "'connection'", "http version", "websocket"))
}

func (e *examination) redirected(a answer) {
	to := a.header.Get("Location")
	fix := "Browsers do not follow redirects of a WebSocket. Use the address that the redirect leads to, or remove it."
	if u, err := e.base.Parse(to); err == nil {
		if path, ok := strings.CutSuffix(strings.TrimRight(u.Path, "/"), "/websocket"); ok {
			at := url.URL{Scheme: webSocketSchemes[u.Scheme], Host: u.Host, Path: path}
			fix = "Browsers do not follow redirects of a WebSocket. Use " + at.String() + "."
		}
	}
	e.problem("path", fix, "the handshake is redirected to %s (%d)", to, a.status)
}

// wrongPath looks for the socket at other paths.
func (e *examination) wrongPath(ctx context.Context, a answer) {
	what := "there is no socket at " + e.base.Path
	if e.base.Path == "" {
		what = "there is no socket at the root"
	}
	what += fmt.Sprintf(": %s/websocket is answered with %d", e.base.Path, a.status)
	found := ""
	for _, path := range e.otherPaths() {
		other := e.handshake(ctx, attempt{path: path})
		other.close()
		if other.conn != nil || isUpgradeLost(other) || other.status == http.StatusForbidden {
			found = path
			break
		}
	}
	if found == "" {
		e.problem("path", "Use the path under which the server mounts its socket.Handler (Phoenix: the socket of the "+
			"endpoint), without /websocket. If there is a proxy, check that its location has this path and forwards all "+
			"of it.", "%s", what)
		return
	}
	u := *e.base
	u.Scheme, u.Path = webSocketSchemes[u.Scheme], strings.TrimRight(found, "/")
	e.problem("path", fmt.Sprintf("Use %s.", u.String()), "%s, but there is one at %s", what, found)
}

// otherPaths returns the paths at which sockets usually are.
func (e *examination) otherPaths() []string {
	var paths []string
	add := func(p string) {
		if p != e.base.Path && p != "" && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	for p := e.base.Path; p != ""; p = p[:strings.LastIndex(p, "/")] {
		add(p)
		add(p + "/socket")
	}
	for _, p := range []string{"/socket", "/live", "/ws", "/api/socket", "/"} {
		add(p)
	}
	return paths
}

var webSocketSchemes = map[string]string{"http": "ws", "https": "wss"}

// quoted returns a short body in quotes.
func quoted(s string) string {
	if s == "" {
		return "without a text"
	}
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
