package socket

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

func TestOrigins(t *testing.T) {
	t.Parallel()
	list := func(o ...string) Config { return Config{Origins: o} }
	for _, test := range []struct {
		name   string
		cfg    Config
		host   string
		tls    bool
		origin string
		want   bool
	}{
		{"same host", Config{}, "example.com", false, "http://example.com", true},
		{"same host, other scheme and port", Config{}, "example.com:4000", false, "https://example.com:8443", true},
		{"same host in other case", Config{}, "Example.com", false, "http://EXAMPLE.com", true},
		{"another host", Config{}, "example.com", false, "http://evil.test", false},
		{"a host that ends alike", Config{}, "example.com", false, "http://notexample.com", false},
		{"IPv6", Config{}, "[::1]:4000", false, "http://[::1]:8080", true},
		{"null", Config{}, "example.com", false, "null", false},
		{"file", Config{}, "example.com", false, "file://", false},
		{"garbage", Config{}, "example.com", false, "http://%zz", false},

		{"any", Config{InsecureAnyOrigin: true}, "example.com", false, "http://evil.test", true},
		{"any, null", Config{InsecureAnyOrigin: true}, "example.com", false, "null", true},

		{"list", list("https://a.com"), "example.com", false, "https://a.com", true},
		{"list, its port", list("https://a.com"), "example.com", false, "https://a.com:443", true},
		{"list, another port", list("https://a.com"), "example.com", false, "https://a.com:8443", false},
		{"list, another scheme", list("http://a.com"), "example.com", false, "https://a.com", false},
		{"list, not the own host", list("https://a.com"), "example.com", false, "https://example.com", false},
		{"list, null", list("https://a.com"), "example.com", false, "null", false},
		{"empty list", Config{Origins: []string{}}, "example.com", false, "https://example.com", false},
		{"any scheme and port", list("//a.com"), "example.com", false, "https://a.com:8443", true},
		{"any scheme, a port", list("//a.com:81"), "example.com", false, "http://a.com:81", true},
		{"any scheme, not the port", list("//a.com:81"), "example.com", false, "http://a.com", false},
		{"no subdomain", list("//a.com"), "example.com", false, "http://b.a.com", false},
		{"wildcard, itself", list("//*.a.com"), "example.com", false, "http://a.com", true},
		{"wildcard", list("//*.a.com"), "example.com", false, "http://b.a.com", true},
		{"wildcard, deep", list("//*.a.com"), "example.com", false, "http://c.b.a.com", true},
		{"wildcard, not a suffix", list("//*.a.com"), "example.com", false, "http://xa.com", false},
		{"nested wildcard", list("https://*.foo.a.com"), "example.com", false, "https://x.foo.a.com", true},
		{"second entry", list("https://x.com", "https://a.com"), "example.com", false, "https://a.com", true},

		{"conn", list(SameOrigin), "example.com", false, "http://example.com", true},
		{"conn, port", list(SameOrigin), "example.com:4000", false, "http://example.com:4000", true},
		{"conn, another port", list(SameOrigin), "example.com:4000", false, "http://example.com", false},
		{"conn, another scheme", list(SameOrigin), "example.com", false, "https://example.com", false},
		{"conn, TLS", list(SameOrigin), "example.com", true, "https://example.com", true},
		{"conn, ws", list(SameOrigin), "example.com", false, "ws://example.com", false},

		{"callback", Config{CheckOrigin: func(_ *http.Request, o *url.URL) bool { return o.Host == "ok.com" }}, "x", false, "http://ok.com", true},
		{"callback, no", Config{CheckOrigin: func(_ *http.Request, o *url.URL) bool { return o.Host == "ok.com" }}, "x", false, "http://x", false},
		{"callback, null", Config{CheckOrigin: func(_ *http.Request, o *url.URL) bool { return o.Host == "" }}, "x", false,
			"null", true},
	} {
		check, err := newOriginCheck(test.cfg)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		r := httptest.NewRequest(http.MethodGet, "/socket/websocket", nil)
		r.Host = test.host
		if test.tls {
			r.TLS = &tls.ConnectionState{}
		}
		r.Header.Set("Origin", test.origin)
		if got := check.check(r) == originAllowed; got != test.want {
			t.Errorf("%s: %s at %s: %v", test.name, test.origin, test.host, got)
		}
		r.Header.Del("Origin")
		if check.check(r) != originAllowed {
			t.Errorf("%s: a request without an origin was refused", test.name)
		}
	}
	for _, o := range []string{"", "example.com", "https://", "//a*.com", "https://a.com/path", "//"} {
		if _, err := newOriginCheck(list(o)); err == nil {
			t.Errorf("%q was taken", o)
		}
	}
}

func TestSubprotocols(t *testing.T) {
	t.Parallel()
	const tok = "base64url.bearer.phx."
	for _, test := range []struct {
		name            string
		cfg             Config
		header          string
		token, protocol string
		err             error
	}{
		{"unset", Config{}, "x, y", "", "", nil},
		{"unset, token", Config{}, "phoenix, " + tok + "c2VjcmV0", "", "", nil},
		{"none offered", Config{Subprotocols: []string{"a"}}, "", "", "", nil},
		{"server's order", Config{Subprotocols: []string{"a", "b"}}, "b, a", "", "a", nil},
		{"none in common", Config{Subprotocols: []string{"a"}}, "b", "", "", errProtocol},
		{"token", Config{AuthToken: true}, "phoenix, " + tok + "c2VjcmV0", "secret", "phoenix", nil},
		{"token first", Config{AuthToken: true}, tok + "c2VjcmV0,phoenix", "secret", "phoenix", nil},
		{"padded", Config{AuthToken: true}, "phoenix, " + tok + "YQ==", "a", "phoenix", nil},
		{"unpadded", Config{AuthToken: true}, "phoenix, " + tok + "YQ", "a", "phoenix", nil},
		{"standard alphabet", Config{AuthToken: true}, "phoenix, " + tok + "+/+/", "\xfb\xff\xbf", "phoenix", nil},
		{"url alphabet", Config{AuthToken: true}, "phoenix, " + tok + "-_-_", "", "", errToken},
		{"garbage", Config{AuthToken: true}, "phoenix, " + tok + "!", "", "", errToken},
		{"two tokens", Config{AuthToken: true}, "phoenix, " + tok + "YQ, " + tok + "Yg", "", "phoenix", nil},
		{"token only", Config{AuthToken: true}, tok + "YQ", "a", "", nil},
		{"unknown and token", Config{AuthToken: true}, "x, " + tok + "YQ", "", "", errProtocol},
		{"empty token", Config{AuthToken: true}, "phoenix, " + tok, "", "phoenix", nil},
		{"token and own protocol", Config{AuthToken: true, Subprotocols: []string{"b"}}, "b, " + tok + "YQ", "a", "b", nil},
	} {
		h := &Handler{cfg: test.cfg}
		r := httptest.NewRequest(http.MethodGet, "/socket/websocket", nil)
		if test.header != "" {
			r.Header.Set("Sec-WebSocket-Protocol", test.header)
		}
		token, protocol, err := h.subprotocols(r)
		if err != test.err || token != test.token || protocol != test.protocol {
			t.Errorf("%s: token %q, protocol %q, %v", test.name, token, protocol, err)
		}
	}
}

func FuzzSubprotocols(f *testing.F) {
	f.Add("phoenix, base64url.bearer.phx.c2VjcmV0")
	f.Add("base64url.bearer.phx.,,")
	h := &Handler{cfg: Config{AuthToken: true, Subprotocols: []string{"a"}}}
	f.Fuzz(func(t *testing.T, header string) {
		r := &http.Request{Header: http.Header{"Sec-Websocket-Protocol": {header}}}
		if _, protocol, err := h.subprotocols(r); err == nil && protocol != "" && protocol != "phoenix" && protocol != "a" {
			t.Fatalf("answered %q", protocol)
		}
	})
}
