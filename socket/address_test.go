package socket

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// request returns a request that arrived on a local address.
func request(local, host string, origin ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/socket/websocket", nil)
	if a, err := net.ResolveTCPAddr("tcp", local); err == nil {
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, a))
	}
	r.Host = host
	r.Header["Origin"] = origin
	return r
}

const (
	loopback4 = "127.0.0.1:4000"
	loopback6 = "[::1]:4000"
	network   = "192.0.2.7:4000"
)

// TestDNSRebinding sends requests as a page of a name that was rebound to this server does: with
// that name as Host and in Origin.
func TestDNSRebinding(t *testing.T) {
	t.Parallel()
	named := Config{Hosts: []string{"chat.example.com", "*.corp.example", "192.0.2.7", "::1"}}
	for _, test := range []struct {
		name                string
		cfg                 Config
		local, host, origin string
		want                originVerdict
	}{
		{"rebound to loopback", Config{}, loopback4, "evil.test:4000", "http://evil.test:4000", hostRefused},
		{"rebound to ::1", Config{}, loopback6, "evil.test", "http://evil.test", hostRefused},
		{"localhost", Config{}, loopback4, "localhost:4000", "http://localhost:3000", originAllowed},
		{"localhost with a dot", Config{}, loopback4, "localhost.:4000", "http://localhost.:4000", originAllowed},
		{"below localhost", Config{}, loopback4, "app.localhost:4000", "http://app.localhost:4000", originAllowed},
		{"127.0.0.1", Config{}, loopback4, "127.0.0.1:4000", "http://127.0.0.1:4000", originAllowed},
		{"elsewhere in 127/8", Config{}, loopback4, "127.9.9.9", "https://127.9.9.9", originAllowed},
		{"::1", Config{}, loopback6, "[::1]:4000", "http://[::1]:4000", originAllowed},
		{"mapped", Config{}, loopback6, "[::ffff:127.0.0.1]:4000", "http://[::ffff:127.0.0.1]:4000", originAllowed},
		{"a name that begins as an address", Config{}, loopback4, "127.evil.test", "http://127.evil.test", hostRefused},
		{"a name that begins as a whole address", Config{}, loopback4, "127.0.0.1.evil.test", "http://127.0.0.1.evil.test", hostRefused},
		{"a name that ends alike", Config{}, loopback4, "notlocalhost", "http://notlocalhost", hostRefused},
		{"a short address", Config{}, loopback4, "127.1", "http://127.1", hostRefused},
		{"another address", Config{}, loopback4, "192.0.2.1", "http://192.0.2.1", hostRefused},
		{"no host", Config{}, loopback4, "", "http://evil.test", hostRefused},
		{"another page at localhost", Config{}, loopback4, "localhost:4000", "http://evil.test", originRefused},
		{"a program, through a proxy here", Config{}, loopback4, "chat.example.com", "", originAllowed},
		{"Origins is set", Config{Origins: []string{"https://chat.example.com"}}, loopback4, "chat.example.com", "https://chat.example.com", originAllowed},
		{"any origin", Config{InsecureAnyOrigin: true}, loopback4, "evil.test", "http://evil.test", originAllowed},

		{"not on loopback", Config{}, network, "evil.test", "http://evil.test", originAllowed}, // see Hosts
		{"Hosts", named, network, "chat.example.com", "https://chat.example.com", originAllowed},
		{"Hosts, other case and a port", named, network, "Chat.Example.com:443", "https://chat.example.com", originAllowed},
		{"Hosts, below", named, network, "a.b.corp.example", "https://a.b.corp.example", originAllowed},
		{"Hosts, itself", named, network, "corp.example", "https://corp.example", originAllowed},
		{"Hosts, an address", named, network, "192.0.2.7:4000", "http://192.0.2.7:4000", originAllowed},
		{"Hosts, rebound", named, network, "evil.test", "http://evil.test", hostRefused},
		{"Hosts, rebound, on loopback", named, loopback4, "evil.test", "http://evil.test", hostRefused},
		{"Hosts, a program with another name", named, network, "evil.test", "", hostRefused},
		{"Hosts, through a proxy here", named, loopback4, "chat.example.com", "https://chat.example.com", originAllowed},
		{"Hosts, loopback name on loopback", named, loopback4, "localhost:4000", "http://localhost:4000", originAllowed},
		{"Hosts, loopback name from elsewhere", named, network, "localhost", "http://localhost", hostRefused},
		{"Hosts, a suffix", named, network, "xcorp.example", "http://xcorp.example", hostRefused},
		{"Hosts and SameOrigin", Config{Hosts: named.Hosts, Origins: []string{SameOrigin}}, network, "evil.test", "http://evil.test", hostRefused},
	} {
		check, err := newOriginCheck(test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		var origin []string
		if test.origin != "" {
			origin = []string{test.origin}
		}
		if got := check.check(request(test.local, test.host, origin...)); got != test.want {
			t.Errorf("%s: verdict %d, want %d", test.name, got, test.want)
		}
	}
	for _, bad := range []string{"", "*.", "https://a.com", "a.com:80", "a.com/", "*", "a*.com", "a b", "bücher.example", "a@b"} {
		if _, err := newOriginCheck(Config{Hosts: []string{bad}}); err == nil {
			t.Errorf("host %q was accepted", bad)
		}
	}
}

// TestMalformedOrigins sends Origin headers that are not a scheme, a host and an optional port.
func TestMalformedOrigins(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{{}, {Origins: []string{SameOrigin}}, {Origins: []string{"//a.com"}},
		{Origins: []string{"//*.a.com"}}} {
		check, err := newOriginCheck(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if check.check(request(network, "a.com", "http://a.com")) != originAllowed {
			t.Error("the valid origin was refused")
		}
		for _, origins := range [][]string{
			{"ftp://a.com"}, {"chrome-extension://a.com"}, {"//a.com"}, {"a.com"}, {"http:a.com"}, {"http://user@a.com"}, {"http://a.com/x"},
			{"http://a.com?x"}, {"http://a.com#"}, {"http://a.com "}, {"http://a.com", "http://evil.test"}, {"http://evil.test", "http://a.com"},
			{"http://a.com, http://evil.test"}, {""}, {"http://a.com\\.evil.test"}, {"http://evil.test\\@a.com"},
		} {
			if check.check(request(network, "a.com", origins...)) == originAllowed {
				t.Errorf("%q was allowed by %v", origins, cfg.Origins)
			}
		}
	}
	check, err := newOriginCheck(Config{Origins: []string{"https://kiosk.example", "capacitor://localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	if check.check(request(network, "x", "https://\u212Aiosk.example")) == originAllowed { // its lower case is an ASCII k
		t.Error("the Kelvin sign was accepted as a k")
	}
	if check.check(request(network, "x", "capacitor://localhost")) != originAllowed {
		t.Error("the scheme of the entry was refused")
	}
}

func TestInternationalNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{Origins: []string{"https://bücher.example"}}, {Origins: []string{"//*.bücher.example:8080"}}, {Hosts: []string{"*.bücher.example"}},
	} {
		func() {
			defer func() {
				if v, _ := recover().(string); !strings.Contains(v, "bücher.example") || !strings.Contains(v, "xn--") {
					t.Errorf("NewHandler panicked with %q", v)
				}
			}()
			NewHandler(cfg)
		}()
	}
	check, err := newOriginCheck(Config{Origins: []string{"https://xn--bcher-kva.example"}})
	if err != nil || check.check(request(network, "x", "https://xn--bcher-kva.example")) != originAllowed {
		t.Errorf("Punycode: %v", err)
	}
}

func TestSameOriginBehindTLSProxy(t *testing.T) {
	t.Parallel()
	trust := Config{Origins: []string{SameOrigin}, TrustedProxies: []string{"10.0.0.0/8", "2001:db8::1"}}
	for _, test := range []struct {
		name, remote, proto, origin string
		cfg                         Config
		want                        originVerdict
	}{
		{"trusted", "10.1.2.3:5000", "https", "https://a.com", trust, originAllowed},
		{"trusted, IPv6", "[2001:db8::1]:5000", "HTTPS", "https://a.com", trust, originAllowed},
		{"trusted, several", "10.1.2.3:5000", "https, http", "https://a.com", trust, originAllowed},
		{"trusted, plain", "10.1.2.3:5000", "http", "https://a.com", trust, schemeRefused},
		{"trusted, plain page", "10.1.2.3:5000", "https", "http://a.com", trust, originRefused},
		{"trusted, another port", "10.1.2.3:5000", "https", "https://a.com:8443", trust, originRefused},
		{"not trusted", "192.0.2.9:5000", "https", "https://a.com", trust, schemeRefused},
		{"no proxies", "10.1.2.3:5000", "https", "https://a.com", Config{Origins: []string{SameOrigin}}, schemeRefused},
		{"another host", "10.1.2.3:5000", "https", "https://b.com", trust, originRefused},
		{"Unix socket", "@", "https", "https://a.com", trust, schemeRefused},
	} {
		check, err := newOriginCheck(test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := request(network, "a.com", test.origin)
		r.RemoteAddr = test.remote
		r.Header.Set("X-Forwarded-Proto", test.proto)
		if got := check.check(r); got != test.want {
			t.Errorf("%s: verdict %d, want %d", test.name, got, test.want)
		}
	}
	if _, err := newOriginCheck(Config{TrustedProxies: []string{"proxy.example"}}); err == nil {
		t.Error("a proxy's name was accepted as an address")
	}
}

// TestOriginLogs checks that unset hosts are logged once, and that a proxy that hides TLS is logged
// for each refused handshake.
func TestOriginLogs(t *testing.T) {
	t.Parallel()
	logOf := func(cfg Config, requests ...*http.Request) string {
		var log strings.Builder
		logger := zerolog.New(&log)
		cfg.Logger = &logger
		h := NewHandler(cfg)
		for _, r := range requests {
			h.allows(r)
		}
		return log.String()
	}
	page := request(network, "a.com", "https://a.com")
	if log := logOf(Config{}, page, page, page); strings.Count(log, "set socket.Config.Origins, or Hosts") != 1 {
		t.Errorf("three pages: %s", log)
	}
	for name, cfg := range map[string]Config{"Hosts": {Hosts: []string{"a.com"}},
		"Origins": {Origins: []string{"//a.com"}}} {
		if log := logOf(cfg, page); log != "" {
			t.Errorf("%s is set: %s", name, log)
		}
	}
	if log := logOf(Config{}, request(network, "a.com"), request(loopback4, "localhost", "http://localhost")); log != "" {
		t.Errorf("a program, and a page on loopback: %s", log)
	}
	if log := logOf(Config{Origins: []string{SameOrigin}}, page); !strings.Contains(log, "TrustedProxies") {
		t.Errorf("behind TLS: %s", log)
	}
}

func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{"https://a.com", "http://b.com:81", "https://x.y.c.com:8443", "null", "http://a.com@evil.test", "https://[::1]:4000", "https://a.com:"} {
		f.Add(seed, "a.com", true)
	}
	list, err := newOriginCheck(Config{Origins: []string{"https://a.com", "//b.com:81", "//*.c.com", "https://[::1]"}})
	if err != nil {
		f.Fatal(err)
	}
	// Another implementation of the list.
	means := regexp.MustCompile(`(?i)^(https://a\.com(:|:443)?|https?://b\.com:81|https?://([^/@:?#\\]*\.)?c\.com(:[0-9]*)?|https://\[::1\](:|:443)?)$`)
	same, err := newOriginCheck(Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, origin, host string, local bool) {
		if list.check(request(network, host, origin)) == originAllowed && !means.MatchString(origin) {
			t.Errorf("the list allows %q", origin)
		}
		at := network
		if local {
			at = loopback4
		}
		if same.check(request(at, host, origin)) != originAllowed {
			return
		}
		scheme, rest, _ := strings.Cut(lower(origin), "://")
		if scheme != "http" && scheme != "https" || hostOf(rest) != hostOf(host) || hostOf(host) == "" {
			t.Errorf("%q is allowed at %q", origin, host)
		}
		if local && !isLoopbackName(hostOf(host)) {
			t.Errorf("%q is allowed on loopback", origin)
		}
	})
}
