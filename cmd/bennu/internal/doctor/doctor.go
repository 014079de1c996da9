// Package doctor examines the way from a client to a socket: the address, the handshake, the origin
// of pages, proxies in between, and clocks. It says what is wrong and how to fix it.
//
// It observes from outside only. So it makes the same request in several forms, compares the
// answers, and names the most likely cause.
package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says what is examined.
type Config struct {
	// URL is the address of the socket, with the scheme ws, wss, http or https.
	URL string
	// Params are the connect params.
	Params url.Values
	// Token is the auth token. Empty means none.
	Token string
	// Header is sent with every request.
	Header http.Header
	// Origin is the origin of the pages that will connect, such as "https://example.com". Empty means
	// that of the URL.
	Origin string
	// Idle is how long a connection is left silent. Zero means that this is not tested.
	Idle time.Duration
	// Timeout bounds the wait for each answer.
	Timeout time.Duration
}

// Result is the outcome of a check.
type Result string

// The results.
const (
	OK      Result = "ok"
	Note    Result = "note" // works, but the reader may want to know
	Problem Result = "problem"
)

// Finding is what a check has found. Its texts may contain text of the server.
type Finding struct {
	Check  string // the name of the check
	Result Result
	Text   string
	Fix    string // how to fix a problem; may have several lines
}

// examination is one run.
type examination struct {
	Config
	base   *url.URL // with the scheme http or https
	report func(Finding)
	proxy  string // the header Server of the first answer, which names the proxy, if any
}

// Run examines a socket. It calls report with every finding, in order. It stops where the rest
// cannot work. It returns an error only if the configuration is invalid.
func Run(ctx context.Context, cfg Config, report func(Finding)) error {
	base, err := parse(cfg.URL)
	if err != nil {
		return err
	}
	e := &examination{Config: cfg, base: base, report: report}
	own := (&url.URL{Scheme: base.Scheme, Host: base.Host}).String()
	if e.Origin == "" {
		e.Origin = own
	}
	if !e.address(ctx) {
		return nil
	}
	plain := e.handshake(ctx, attempt{})
	e.proxy = plain.header.Get("Server")
	if plain.conn == nil {
		e.refused(ctx, plain)
		if isUpgradeLost(plain) { // then it may work, which confirms the diagnosis
			e.longPoll(ctx, "")
		}
		return nil
	}
	plain.close()
	e.ok("websocket", "the handshake succeeds")
	accepted := e.origins(ctx, own)
	e.longPoll(ctx, accepted)
	e.live(ctx, accepted)
	return nil
}

// parse parses the URL of a socket.
func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("%s is not the URL of a socket, such as wss://example.com/socket", text)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return nil, fmt.Errorf("%s: the scheme must be ws, wss, http or https", text)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.Fragment = ""
	return u, nil
}

// ok, note and problem report a finding.
func (e *examination) ok(check, format string, args ...any) {
	e.report(Finding{check, OK, fmt.Sprintf(format, args...), ""})
}

func (e *examination) note(check, fix, format string, args ...any) {
	e.report(Finding{check, Note, fmt.Sprintf(format, args...), fix})
}

func (e *examination) problem(check, fix, format string, args ...any) {
	e.report(Finding{check, Problem, fmt.Sprintf(format, args...), fix})
}
