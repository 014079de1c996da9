package live

import (
	"bytes"
	"context"
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed page
var pages embed.FS

// A file is a file of the page.
type file struct {
	text []byte
	kind string // its media type
}

// kinds are the media types of the page's files. The table does not depend on the machine's, as
// that of package mime does.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".mjs": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// pageFiles reads the embedded files.
func pageFiles() map[string]file {
	entries, err := fs.ReadDir(pages, "page")
	if err != nil {
		panic(err)
	}
	files := make(map[string]file)
	for _, e := range entries {
		text, err := pages.ReadFile("page/" + e.Name())
		if err != nil {
			panic(err)
		}
		files[e.Name()] = file{text, kinds[path.Ext(e.Name())]}
	}
	return files
}

// policy forbids everything that the page does not need: inline scripts and styles, other sites,
// frames, and text that becomes HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// ServeHTTP answers with the page, its files and its connection, if Authorize allows it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store") // the next visitor may not see it
	level := h.cfg.Authorize(r)
	if level < View {
		http.Error(w, "forbidden", http.StatusForbidden)
		return
	}
	dir, name := path.Split(r.URL.Path)
	if strings.HasSuffix(dir, "/socket/") {
		h.own.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), levelKey{}, level)))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if strings.HasSuffix(dir, "/js/") {
		h.modules.ServeHTTP(w, r)
		return
	}
	if name == "" {
		name = "index.html"
	}
	f, ok := h.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	header.Set("Content-Type", f.kind)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.text))
}
