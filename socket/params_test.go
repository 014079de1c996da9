package socket

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestParseQuery(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                                    `{}`,
		"vsn=2.0.0":                           `{"vsn":"2.0.0"}`,
		"vsn=9.0.0&vsn=2.0.0":                 `{"vsn":"2.0.0"}`,
		"a=1&&b=2&":                           `{"a":"1","b":"2"}`,
		"a":                                   `{"a":""}`,
		"=":                                   `{"":""}`,
		"a=b=c":                               `{"a":"b=c"}`,
		"a+b=c%20d%2Be":                       `{"a b":"c d+e"}`,
		"a[b]=1&a[c]=2":                       `{"a":{"b":"1","c":"2"}}`,
		"a%5Bb%5D%5Bc%5D=1":                   `{"a":{"b":{"c":"1"}}}`,
		"a[]=1&a[]=2":                         `{"a":["1","2"]}`,
		"a[b][]=1&a[b][]=2":                   `{"a":{"b":["1","2"]}}`,
		"a[0]=x&a[1]=y":                       `{"a":{"0":"x","1":"y"}}`,
		"a=1&a[b]=2":                          `{"a":{"b":"2"}}`,
		"a[b]=2&a=1":                          `{"a":"1"}`,
		"a[b]=1&a[]=2":                        `{"a":["2"]}`,
		"a[=1":                                `{"a[":"1"}`,
		"[a]=1":                               `{"[a]":"1"}`,
		"vsn=2.0.0&%zz=1":                     `{"%zz":"1","vsn":"2.0.0"}`,
		"a=%":                                 `{"a":"%"}`,
		"a=%4":                                `{"a":"%4"}`,
		"u=%C5%BE%20%E2%98%83":                `{"u":"ž ☃"}`,
		"a" + strings.Repeat("[x]", 33) + "=": `{"a` + strings.Repeat("[x]", 33) + `":""}`,
	} {
		got, err := parseQuery(query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if b, err := json.Marshal(got); err != nil || string(b) != want {
			t.Errorf("%s: got %s (%v), want %s", query, b, err, want)
		}
	}
	if _, err := parseQuery("a=%ff"); !errors.Is(err, errQueryUTF8) {
		t.Errorf("not UTF-8: %v", err)
	}
}

func TestPathVariablesWin(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	var got map[string]any
	mux.HandleFunc("/t/{tenant}/socket/{rest...}", func(_ http.ResponseWriter, r *http.Request) {
		got, _ = requestParams(r)
	})
	mux.ServeHTTP(httptest.NewRecorder(),
		httptest.NewRequest(http.MethodGet, "/t/acme/socket/websocket?tenant=evil&a=1", nil))
	if got["tenant"] != "acme" || got["a"] != "1" {
		t.Errorf("got %v", got)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, path, transport string
		want                     bool
	}{
		{"/socket/", "/socket/websocket", "/websocket", true},
		{"/socket/", "/socket/websocket/", "/websocket", true},
		{"/socket/", "/socket/x/websocket", "/websocket", false},
		{"/socket/", "/socket/websocket/x", "/websocket", false},
		{"/socket/", "/socket/websockets", "/websocket", false},
		{"/socket/", "/socket/", "/websocket", false},
		{"GET example.com/socket/", "/socket/websocket", "/websocket", true},
		{"/t/{id}/socket/", "/t/7/socket/websocket", "/websocket", true},
		{"/t/{id}/socket/", "/t/7/8/socket/websocket", "/websocket", false},
		{"/t/{rest...}", "/t/websocket", "/websocket", true},
		{"/t/{rest...}", "/t/x/websocket", "/websocket", false},
		{"/live/ws", "/live/ws", "/live/ws", true},
		{"/socket/websocket", "/socket/websocket", "/websocket", true},
		{"/", "/websocket", "/websocket", true},
		{"/", "/a/websocket", "/websocket", false},
		{"", "/any/where/websocket", "/websocket", true},
		{"/socket/", "/socket/live/ws", "/live/ws", true},
	} {
		r := httptest.NewRequest(http.MethodGet, test.path, nil)
		r.Pattern = test.pattern
		if got := matches(r, test.transport); got != test.want {
			t.Errorf("%q at %s for %s: %v", test.pattern, test.path, test.transport, got)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{"vsn=2.0.0", "a[b][]=1&a[b]=2", "%zz=%", "a[[]]=&&=", "a[][]=1", "a[b]c=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		params, err := parseQuery(query)
		if err != nil {
			return
		}
		if _, err := json.Marshal(params); err != nil {
			t.Fatalf("%q has no JSON: %v", query, err)
		}
	})
}
