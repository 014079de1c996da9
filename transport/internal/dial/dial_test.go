package dial

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"bennu.example/transport"
)

// FuzzEndpoint checks that an endpoint is a URL for which a request can be made, with one path and
// the version last in the query, or that the error wraps ErrURL.
func FuzzEndpoint(f *testing.F) {
	f.Add("wss://host:1/a%2Fb/?x=y#z", "?a=1&", "2.0.0+b", "token")
	f.Add("http://[::1]", "a b", "", "")
	f.Add("ws://user:pw@host//", "a=%", "\r\n", "\n")
	f.Add("ws://host/?", "&&", "#", "ü")
	f.Add("ws://::", "0", "0", "0")
	f.Add("ws://0", "0", "{{{ ", "0")
	f.Fuzz(func(t *testing.T, base, params, vsn, token string) {
		cfg := WithDefaults(transport.ClientConfig{URL: base, Params: params, Vsn: vsn, AuthToken: token})
		u, err := Endpoint(&cfg, "websocket", "http", "https")
		if err != nil {
			if !errors.Is(err, transport.ErrURL) {
				t.Fatalf("%q %q: %v", base, params, err)
			}
			return
		}
		req, err := http.NewRequest(http.MethodGet, u.String(), nil)
		if err != nil {
			t.Fatalf("%q %q: %v", base, params, err)
		}
		uri := req.URL.RequestURI()
		for _, b := range []byte(uri) {
			if b <= ' ' || b == 0x7f {
				t.Fatalf("%q %q: request for %q", base, params, uri)
			}
		}
		// A space is encoded as + or as %20. Both are decoded to the same version.
		path, query, _ := strings.Cut(uri, "?")
		last := strings.LastIndex("&"+query, "&vsn=")
		if last < 0 || !strings.HasSuffix(path, "/websocket") {
			t.Fatalf("%q %q %q: request for %q", base, params, vsn, uri)
		}
		if read, err := url.QueryUnescape(("&" + query)[last+len("&vsn="):]); err != nil || read != cfg.Vsn {
			t.Fatalf("%q %q: request for %q with version %q (%v), want %q", base, params, uri, read, err, cfg.Vsn)
		}
	})
}

// TestConnsCloseAll checks that CloseAll closes a connection of HTTP/2 that is not idle yet,
// because its last request has just been cancelled.
func TestConnsCloseAll(t *testing.T) {
	t.Parallel()
	requested := make(chan struct{}, 1)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	allClosed := make(chan struct{}, 10) // notified when the last connection is closed
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requested <- struct{}{}
		<-r.Context().Done()
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			open[c] = true
		case http.StateClosed:
			if delete(open, c); len(open) == 0 {
				allClosed <- struct{}{}
			}
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conns := Track(tr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := (&http.Client{Transport: tr}).Get(s.URL); err == nil {
			resp.Body.Close()
			t.Error("Get: no error")
		}
	}()
	<-requested
	conns.CloseAll()
	<-allClosed
	<-done
	if _, err := (&http.Client{Transport: tr}).Get(s.URL); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Get after CloseAll: %v, want ErrClosed", err)
	}
}
