package socket

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/ratelimit"
)

// TestAdmissionMemory checks that the state of a client is removed when nothing depends on it, and
// that the states are bounded.
func TestAdmissionMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var key string
		a := newAdmission(Admission{HandshakeRate: 1, MaxKeys: 5000, Key: func(*http.Request) string { return key }}, nil)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		staying := make([]*visitor, 100)
		for i := range staying {
			key = fmt.Sprint("staying ", i)
			var err error
			if staying[i], err = a.admit(r); err != nil {
				t.Fatal(err)
			}
		}
		refused := 0
		for i := range 20_000 { // each key once
			key = fmt.Sprint("passing ", i, strings.Repeat("x", 10_000))
			switch c, err := a.admit(r); {
			case err == nil:
				c.release()
			case errors.Is(err, errManyKeys):
				refused++
			default:
				t.Fatal(err)
			}
			if len(a.visitors) > 5000 {
				t.Fatalf("%d clients are tracked", len(a.visitors))
			}
		}
		if refused != 20_000-4900 {
			t.Errorf("%d handshakes were refused", refused)
		}
		for kept := range a.visitors {
			if len(kept) > maxKey {
				t.Fatalf("a key of %d bytes is tracked", len(kept))
			}
		}
		time.Sleep(ratelimit.BurstSeconds * time.Second)
		key = "one more"
		c, err := a.admit(r)
		if err != nil || len(a.visitors) != len(staying)+1 {
			t.Fatalf("%d clients are tracked, %v", len(a.visitors), err)
		}
		c.release()
		for _, c := range staying {
			c.release()
		}
		if len(a.visitors) != 1 { // the handshake of the last client still counts
			t.Errorf("%d clients are left", len(a.visitors))
		}
	})
}

func TestAdmissionAddresses(t *testing.T) {
	t.Parallel()
	proxies, err := parsePrefixes([]string{"10.0.0.0/8", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		remote string
		hops   []string
		want   string
	}{
		{"192.0.2.1:5000", nil, "192.0.2.1"},
		{"192.0.2.1:5000", []string{"198.51.100.1"}, "192.0.2.1"}, // not a trusted proxy
		{"10.0.0.1:5000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:5000", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"}, // the client forged the first
		{"10.0.0.1:5000", []string{"203.0.113.9", "198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:5000", []string{"10.0.0.3"}, "10.0.0.3"},
		{"10.0.0.1:5000", []string{"198.51.100.1, garbage"}, "10.0.0.1"},
		{"10.0.0.1:5000", nil, "10.0.0.1"},
		{"[::1]:5000", []string{"2001:db8:1:2:3:4:5:6"}, "2001:db8:1:2::/64"},
		{"[2001:db8::7]:5000", nil, "2001:db8::/64"},
		{"[fe80::1%eth0]:5000", nil, "fe80::/64"},
		{"[::ffff:192.0.2.1]:5000", nil, "192.0.2.1"},
		{"@", nil, ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = test.remote
		r.Header["X-Forwarded-For"] = test.hops
		if got := addressKey(clientAddr(r, proxies)); got != test.want {
			t.Errorf("%s through %v: %q, want %q", test.remote, test.hops, got, test.want)
		}
	}
	if key := addressKey(netip.Addr{}); key != "" {
		t.Errorf("no address: %q", key)
	}
}
