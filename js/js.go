// Package js contains modules for browsers, and serves them. They need no bundler and no other
// package. socket.mjs is a client of channels with the API of phoenix.js.
//
// A page names the modules in an import map. Another map replaces socket.mjs by the stock package,
// and the page's own code stays as it is:
//
//	<script type="importmap">{ "imports": { "phoenix": "/js/socket.mjs" } }</script>
//	<script type="module">
//	  import { Socket, Presence } from "phoenix";
//	</script>
//
// README.md in this directory describes the modules.
package js

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"path"
	"time"
)

//go:embed *.mjs
var files embed.FS

// module is a file that is served.
type module struct {
	text []byte
	etag string
}

// Handler returns a handler that serves the modules. A module is named by the last element of the
// request's path, so the handler can be mounted under any path that ends with a slash. Browsers may
// keep the modules, but must ask whether they have changed.
func Handler() http.Handler {
	modules := load()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, ok := modules[path.Base(r.URL.Path)]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", m.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.text))
	})
}

// load reads the embedded modules.
func load() map[string]module {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err)
	}
	modules := map[string]module{}
	for _, e := range entries {
		text, err := files.ReadFile(e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(text)
		modules[e.Name()] = module{text, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
	}
	return modules
}
