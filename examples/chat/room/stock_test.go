//go:build !race

package room

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/testenv/npm"
)

// withStock returns the server behind a proxy that changes one line of the page: its import map
// names the stock phoenix.js. The content security policy has the hash of the import map.
func (c *chat) withStock() *chat {
	const path = "/phoenix.mjs"
	module := npm.Phoenix(c.t)
	target := &url.URL{Scheme: "http", Host: c.addr}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the server compares it with the origin
			r.Out.Header.Del("If-Modified-Since")
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.URL.Path != "/" {
				return nil
			}
			index, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			changed := bytes.Replace(index, []byte("./js/socket.mjs"), []byte("."+path), 1)
			if bytes.Equal(changed, index) {
				c.t.Error("the page has no import map with ./js/socket.mjs")
			}
			policy := resp.Header.Get("Content-Security-Policy")
			policy = strings.Replace(policy, importMapHash(index), importMapHash(changed), 1)
			resp.Header.Set("Content-Security-Policy", policy)
			resp.Header.Set("Content-Length", strconv.Itoa(len(changed)))
			resp.Body = io.NopCloser(bytes.NewReader(changed))
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { // the server is down
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, module) })
	mux.HandleFunc("/js/", func(http.ResponseWriter, *http.Request) {
		c.t.Error("the page uses a module of this project")
	})
	server := httptest.NewServer(mux)
	c.t.Cleanup(server.Close)
	return &chat{t: c.t, addr: server.Listener.Addr().String()}
}

// TestStockClient checks that the very same page works with the stock phoenix.js.
func TestStockClient(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	for _, transport := range []string{"websocket", "longpoll"} {
		t.Run(transport, func(t *testing.T) {
			c := start(t, "127.0.0.1:0")
			stock := c.withStock()
			ann := stock.visit(b, "tea", "ann", transport)
			ann.Until(`performance.getEntriesByType("resource").some(({ name }) => name.endsWith("/phoenix.mjs"))`)
			bob := c.visit(b, "tea", "bob", transport) // with js/socket.mjs
			ann.Until(here("ann (you), bob"))
			bob.Type("hello")
			ann.Until(`document.querySelector("#typing").textContent === "bob is typing …"`)
			bob.Type("\n")
			ann.Until(shows("bob", "hello"))
			ann.Type("welcome\n")
			bob.Until(shows("ann", "welcome"))
			ann.Run(`location.reload()`)
			ann.Until(connected)
			ann.Until(shows("You", "welcome"))

			// A message that is written while the server is away is sent when it is back.
			c.stop()
			ann.Until(reconnecting)
			ann.Until(`!document.querySelector("#now").hidden`)
			ann.Type("meanwhile\n")
			ann.Until(`document.querySelector("[data-pending=waiting] .body").textContent === "meanwhile"`)
			start(t, c.addr)
			ann.Run(`document.querySelector("#now").click()`)
			bob.Until(shows("ann", "meanwhile"))
			ann.Until(shows("You", "meanwhile") + " && " + connected)

			bob.Run(`document.querySelector("#leave").click()`)
			ann.Until(here("ann (you)"))
		})
	}
}
