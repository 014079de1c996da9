package transport

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"bennu.example/serializer"
)

// A body is read as encoding/json would, and whatever is in it, the frames keep to the bound.
func FuzzClientAnswer(f *testing.F) {
	for _, s := range []string{
		`{"status":200,"token":"T","messages":["[1,2,3,4,{}]","AAE=","\u0001\u0000raw","","not base64!","{\"a\":\"\ud83d\ude00\"}"]}`,
		`{"status":410,"token":"T","messages":[]}`, `{"status":204,"messages":null}`, `{"status":200,"messages":[null,"x"]}`,
		`{"status":200,"messages":{"a":1}}`, `{"status":200,"messages":[["a"]]}`, `{"STATUS":200,"status":"x"}`, `null`, `[]`, ``, `{"messages":["` + strings.Repeat("A", 200) + `"]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		const max = 100
		a, err := parseLPAnswer(body, max)
		var model struct {
			Status   int
			Token    string
			Messages []string
		}
		wrong := json.Unmarshal(body, &model)
		var closed *CloseError
		if err != nil {
			if !errors.As(err, &closed) && wrong == nil {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if wrong != nil {
			t.Fatalf("%q: no error, but %v", body, wrong)
		}
		if a.Status != model.Status || a.Token != model.Token {
			t.Fatalf("%q: %d %q, want %d %q", body, a.Status, a.Token, model.Status, model.Token)
		}
		var texts []string
		for _, m := range model.Messages {
			if m != "" {
				texts = append(texts, m)
			}
		}
		if len(texts) != len(a.Messages) {
			t.Fatalf("%q: %d frames, want %d", body, len(a.Messages), len(texts))
		}
		for i, f := range a.Messages {
			if len(f.data) > max {
				t.Fatalf("%q: a frame of %d bytes", body, len(f.data))
			}
			switch {
			case string(f.data) == texts[i]:
			case f.op != serializer.OpBinary:
				t.Fatalf("%q: text %q, want %q", body, f.data, texts[i])
			default:
				if raw, err := base64.StdEncoding.DecodeString(texts[i]); err != nil || !bytes.Equal(raw, f.data) {
					t.Fatalf("%q: binary %q, want %q", body, f.data, texts[i])
				}
			}
		}
	})
}

// An answer of many tiny messages must not take many times its size.
func TestClientAnswerManyMessages(t *testing.T) {
	t.Parallel()
	body := []byte(`{"status":200,"messages":["x"` + strings.Repeat(`,"x"`, lpMaxFrames) + `]}`)
	_, err := parseLPAnswer(body, 1<<20)
	var closed *CloseError
	if !errors.As(err, &closed) || closed.Code != CodeTooBig {
		t.Errorf("%d messages: %v", lpMaxFrames+1, err)
	}
}

// Whatever the parts, the URL makes a request for one path with the version at its end, or there is an error that no retry can mend.
func FuzzClientEndpoint(f *testing.F) {
	f.Add("wss://host:1/a%2Fb/?x=y#z", "?a=1&", "2.0.0+b", "token")
	f.Add("http://[::1]", "a b", "", "")
	f.Add("ws://user:pw@host//", "a=%", "\r\n", "\n")
	f.Add("ws://host/?", "&&", "#", "ü")
	f.Add("ws://::", "0", "0", "0")
	f.Fuzz(func(t *testing.T, base, params, vsn, token string) {
		cfg := clientDefaults(ClientConfig{URL: base, Params: params, Vsn: vsn, AuthToken: token})
		u, err := clientEndpointURL(&cfg, "websocket", "http", "https")
		if err != nil {
			if !errors.Is(err, ErrURL) {
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
		path, query, _ := strings.Cut(uri, "?")
		if !strings.HasSuffix(path, "/websocket") || !strings.HasSuffix("&"+query, "&vsn="+string(appendComponent(nil, cfg.Vsn))) {
			t.Fatalf("%q %q %q: request for %q", base, params, vsn, uri)
		}
	})
}

// A request that was just given up leaves a connection of HTTP/2 that is not idle yet. It must end all the same.
func TestClientConnsCloseAll(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	none := make(chan struct{}, 10) // told when there are none any more
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
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
				none <- struct{}{}
			}
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conns := trackClientConns(tr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := (&http.Client{Transport: tr}).Get(s.URL); err == nil {
			resp.Body.Close()
			t.Error("Get: no error")
		}
	}()
	<-asked
	conns.closeAll()
	<-none
	<-done
	if _, err := (&http.Client{Transport: tr}).Get(s.URL); !errors.Is(err, ErrClosed) {
		t.Errorf("a connection after closeAll: %v", err)
	}
}
