package socket

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/zerolog"
)

// SameOrigin, in Config.Origins, allows pages of the request's own scheme, host and port.
const SameOrigin = ":same"

// originCheck decides which pages may connect: Phoenix's check_origin.
type originCheck struct {
	any      bool
	call     func(*http.Request, *url.URL) bool
	sameHost bool
	entries  []originEntry
}

type originEntry struct {
	same   bool
	scheme string // "" any
	host   string
	below  bool   // and all its subdomains
	port   string // "" any
}

func newOriginCheck(cfg Config) (originCheck, error) {
	c := originCheck{any: cfg.InsecureAnyOrigin, call: cfg.CheckOrigin, sameHost: cfg.Origins == nil}
	for _, o := range cfg.Origins {
		if o == SameOrigin {
			c.entries = append(c.entries, originEntry{same: true})
			continue
		}
		u, err := url.Parse(strings.Replace(o, "//*.", "//", 1))
		if err != nil || u.Hostname() == "" || strings.Contains(u.Host, "*") || u.Path != "" {
			return c, fmt.Errorf("origin %q is none: want https://host, //host, //host:port or //*.host", o)
		}
		e := originEntry{scheme: u.Scheme, host: strings.ToLower(u.Hostname()), port: u.Port(), below: strings.Contains(o, "//*.")}
		if e.scheme != "" {
			e.port = portOf(u)
		}
		c.entries = append(c.entries, e)
	}
	return c, nil
}

// allows reports whether the page that the request comes from may connect, and logs it if not.
func (h *Handler) allows(r *http.Request) bool {
	if h.origins.allows(r) {
		return true
	}
	h.counts.refused.Add(1)
	const refused = "origin refused: see socket.Config.Origins"
	h.log(zerolog.WarnLevel, refused).Str("origin", clip(r.Header.Get("Origin"))).Str("host", clip(r.Host)).Msg(refused)
	return false
}

func (c originCheck) allows(r *http.Request) bool {
	header := r.Header.Get("Origin")
	if c.any || len(r.Header["Origin"]) == 0 {
		return true
	}
	origin, err := url.Parse(header)
	if err != nil {
		origin = &url.URL{}
	}
	if c.call != nil {
		return c.call(r, origin)
	}
	host := strings.ToLower(origin.Hostname())
	if host == "" {
		return false
	}
	if c.sameHost {
		return host == hostOf(r.Host)
	}
	for _, e := range c.entries {
		if e.allows(r, origin, host) {
			return true
		}
	}
	return false
}

func (e originEntry) allows(r *http.Request, origin *url.URL, host string) bool {
	if e.same {
		own := &url.URL{Scheme: "http", Host: r.Host}
		if r.TLS != nil {
			own.Scheme = "https"
		}
		return origin.Scheme == own.Scheme && host == hostOf(r.Host) && portOf(origin) == portOf(own)
	}
	if host != e.host && !(e.below && strings.HasSuffix(host, "."+e.host)) {
		return false
	}
	return (e.scheme == "" || origin.Scheme == e.scheme) && (e.port == "" || portOf(origin) == e.port)
}

// hostOf is the host of "host:port", in lower case.
func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return strings.ToLower(host)
}

// portOf is a URL's port, given or by its scheme.
func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http" || u.Scheme == "ws":
		return "80"
	case u.Scheme == "https" || u.Scheme == "wss":
		return "443"
	}
	return ""
}
