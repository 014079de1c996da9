package socket

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/rs/zerolog"
)

// SameOrigin, in Config.Origins, allows pages of the request's own scheme, host and port. Behind a
// proxy that terminates TLS, set Config.TrustedProxies: it determines the scheme.
const SameOrigin = ":same"

// originCheck decides which pages may connect: Phoenix's check_origin, and a check of the Host
// header against DNS rebinding.
type originCheck struct {
	any      bool
	call     func(*http.Request, *url.URL) bool
	sameHost bool // Origins is nil
	entries  []originEntry
	hosts    []hostPattern  // nil if Config.Hosts is not set
	proxies  []netip.Prefix // Config.TrustedProxies
}

type originEntry struct {
	same   bool
	scheme string // http or https if empty
	host   hostPattern
	port   string // any port if empty
}

// originVerdict is the decision whether a page may connect, with the reason of a refusal.
type originVerdict uint8

const (
	originAllowed originVerdict = iota
	originRefused
	schemeRefused // by SameOrigin: the host is right, but the page has https and the request has http
	hostRefused
)

// refusalLogs are the log messages of the verdicts.
var refusalLogs = [...]string{
	originRefused: "origin refused: see socket.Config.Origins",
	schemeRefused: "origin refused because of its scheme: see socket.Config.TrustedProxies",
	hostRefused:   "host refused: see socket.Config.Hosts",
}

func newOriginCheck(cfg Config) (originCheck, error) {
	c := originCheck{any: cfg.InsecureAnyOrigin, call: cfg.CheckOrigin, sameHost: cfg.Origins == nil}
	for _, o := range cfg.Origins {
		e, err := parseOriginEntry(o)
		if err != nil {
			return c, err
		}
		c.entries = append(c.entries, e)
	}
	for _, name := range cfg.Hosts {
		host, err := parseHostPattern(name)
		if err != nil {
			return c, fmt.Errorf("host %q: %w", name, err)
		}
		c.hosts = append(c.hosts, host)
	}
	var err error
	c.proxies, err = parsePrefixes(cfg.TrustedProxies)
	return c, err
}

// parseOriginEntry parses an entry of Config.Origins.
func parseOriginEntry(o string) (e originEntry, err error) {
	if o == SameOrigin {
		return originEntry{same: true}, nil
	}
	scheme, rest, ok := strings.Cut(o, "//")
	name, wildcard := strings.CutPrefix(rest, "*.")
	u, err := url.Parse(scheme + "//" + name)
	if !ok || err != nil || u.Hostname() == "" || u.Host != name {
		return e, fmt.Errorf("invalid origin %q: want https://host, //host, //host:port or //*.host", o)
	}
	pattern := u.Hostname()
	if wildcard {
		pattern = "*." + pattern
	}
	e.scheme, e.port = u.Scheme, u.Port()
	if e.scheme != "" {
		e.port = portOf(u)
	}
	if e.host, err = parseHostPattern(pattern); err != nil {
		return e, fmt.Errorf("origin %q: %w", o, err)
	}
	return e, nil
}

// allows reports whether the page that the request comes from may connect, and logs it if not.
func (h *Handler) allows(r *http.Request) bool {
	verdict := h.origins.check(r)
	if verdict != originAllowed {
		h.counts.refused.Add(1)
		h.log(zerolog.WarnLevel, refusalLogs[verdict]).Str("origin", clip(r.Header.Get("Origin"))).Str("host", clip(r.Host)).
			Msg(refusalLogs[verdict])
		h.notifyRefused(r, refusedOrigin, nil)
		return false
	}
	if h.origins.open(r) {
		h.originsUnset.Do(func() {
			h.cfg.Logger.Warn().Str("host", clip(r.Host)).
				Msg("pages of any host name that leads here may connect: set socket.Config.Origins, or Hosts")
		})
	}
	return true
}

// open reports whether the Host header is the only evidence of the server's name. Then a page of
// any name that resolves to this server is allowed.
func (c *originCheck) open(r *http.Request) bool {
	return c.sameHost && !c.any && c.call == nil && len(c.hosts) == 0 && len(r.Header["Origin"]) > 0 && !isLoopback(r)
}

func (c *originCheck) check(r *http.Request) originVerdict {
	if !c.servesHost(r) {
		return hostRefused
	}
	if c.any || len(r.Header["Origin"]) == 0 {
		return originAllowed
	}
	origin := parseOrigin(r.Header["Origin"])
	if c.call != nil {
		return verdictOf(c.call(r, origin))
	}
	if origin.Host == "" {
		return originRefused
	}
	host := hostOf(origin.Host)
	if c.sameHost {
		return verdictOf(isWeb(origin.Scheme) && host == hostOf(r.Host))
	}
	verdict := originRefused
	for _, e := range c.entries {
		switch {
		case !e.same:
			if e.allows(origin, host) {
				return originAllowed
			}
		case host == hostOf(r.Host):
			own := &url.URL{Scheme: schemeOf(r, c.proxies), Host: r.Host}
			if origin.Scheme == own.Scheme && portOf(origin) == portOf(own) {
				return originAllowed
			}
			if origin.Scheme == "https" && own.Scheme == "http" {
				verdict = schemeRefused
			}
		}
	}
	return verdict
}

func verdictOf(allowed bool) originVerdict {
	if allowed {
		return originAllowed
	}
	return originRefused
}

// servesHost reports whether the Host header names this server. The name in it proves nothing by
// itself: by DNS rebinding, the owner of any name can make it resolve to this server. Without
// Config.Hosts only requests of pages are checked, so that programs can come through a proxy on the
// same machine. A page can send a GET without an Origin to its own host, but nothing else.
func (c *originCheck) servesHost(r *http.Request) bool {
	host := hostOf(r.Host)
	local := isLoopback(r)
	if local && isLoopbackName(host) {
		return true
	}
	if len(c.hosts) > 0 {
		for _, p := range c.hosts {
			if p.matches(host) {
				return true
			}
		}
		return false
	}
	return !local || len(r.Header["Origin"]) == 0 || !c.sameHost || c.any || c.call != nil
}

func (e originEntry) allows(origin *url.URL, host string) bool {
	if !e.host.matches(host) || e.port != "" && portOf(origin) != e.port {
		return false
	}
	return origin.Scheme == e.scheme || e.scheme == "" && isWeb(origin.Scheme)
}

// parseOrigin parses an Origin header: a scheme, a host and an optional port, as browsers send it.
// Anything else is an empty URL.
func parseOrigin(header []string) *url.URL {
	if len(header) != 1 || !isASCII(header[0]) {
		return &url.URL{}
	}
	u, err := url.Parse(header[0])
	if err != nil || u.Hostname() == "" || !strings.EqualFold(header[0], u.Scheme+"://"+u.Host) {
		return &url.URL{}
	}
	return u
}

func isWeb(scheme string) bool { return scheme == "http" || scheme == "https" }

// portOf returns the port of a URL, or the default port of its scheme.
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
