package socket

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// hostPattern matches the name of a host in lower case, and its subdomains if below is true.
type hostPattern struct {
	name  string
	below bool
}

var (
	errHost = errors.New(`want a host name without scheme and port, or "*." and a host name`)
	errIDN  = errors.New(`write the host name in ASCII ("xn--…", Punycode), as browsers send it`)
)

// parseHostPattern parses a host name, an IP address, or "*." and a host name.
func parseHostPattern(s string) (hostPattern, error) {
	name, below := strings.CutPrefix(s, "*.")
	if !isASCII(name) {
		return hostPattern{}, errIDN
	}
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && !below {
		return hostPattern{name: a.String()}, nil
	}
	for _, c := range []byte(name) {
		if c <= ' ' || strings.IndexByte(`/\:*?#@%[]`, c) >= 0 || c == 0x7f {
			return hostPattern{}, errHost
		}
	}
	if name == "" {
		return hostPattern{}, errHost
	}
	return hostPattern{lower(name), below}, nil
}

func (p hostPattern) matches(host string) bool {
	return host == p.name || p.below && strings.HasSuffix(host, "."+p.name)
}

// hostOf returns the host of "host:port" or "host", in lower case and without brackets.
func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return lower(host)
}

// lower is strings.ToLower for ASCII only: some other letters have a lower case that is ASCII, and
// would make another name equal to this one.
func lower(s string) string {
	if !isASCII(s) {
		return s
	}
	return strings.ToLower(s)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// isLoopback reports whether the request came in on a loopback address of this machine.
func isLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.IsLoopback()
}

// isLoopbackName reports whether a host name or address can only mean the machine itself. Names
// such as 127.example.com are not addresses.
func isLoopbackName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// parsePrefixes parses IP addresses, and ranges of them in CIDR notation.
func parsePrefixes(list []string) (all []netip.Prefix, err error) {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			a = a.Unmap()
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("trusted proxy %q: want an IP address, or a range such as 10.0.0.0/8", s)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// remoteAddr returns the address of the peer of the connection. It is invalid for a Unix socket.
func remoteAddr(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// schemeOf returns the scheme that the client used, http or https. A trusted proxy may forward it.
func schemeOf(r *http.Request, proxies []netip.Prefix) string {
	if r.TLS != nil {
		return "https"
	}
	if len(proxies) > 0 && contains(proxies, remoteAddr(r)) {
		first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
		if strings.EqualFold(strings.TrimSpace(first), "https") {
			return "https"
		}
	}
	return "http"
}

// clientAddr returns the address of the client. Each trusted proxy appends an address to
// X-Forwarded-For. The client may have forged everything before the last address that is not of a
// trusted proxy.
func clientAddr(r *http.Request, proxies []netip.Prefix) netip.Addr {
	addr := remoteAddr(r)
	if len(proxies) == 0 {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && contains(proxies, addr); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = next.Unmap().WithZone("")
	}
	return addr
}
