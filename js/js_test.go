package js_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"bennu.example/internal/testenv/leak"
	"bennu.example/js"
)

func TestMain(m *testing.M) { leak.Main(m) }

// get requests a path from the handler.
func get(method, path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if header != nil {
		r.Header = header
	}
	w := httptest.NewRecorder()
	js.Handler().ServeHTTP(w, r)
	return w
}

func TestHandlerServesEveryModule(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("*.mjs")
	if err != nil || len(names) == 0 {
		t.Fatalf("found %v, %v", names, err)
	}
	for _, name := range names {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, mount := range []string{"/", "/js/", "/assets/vendor/"} {
			w := get(http.MethodGet, mount+name, nil)
			if w.Code != http.StatusOK || w.Body.String() != string(want) {
				t.Errorf("%s%s: status %d, %d bytes", mount, name, w.Code, w.Body.Len())
			}
			for key, value := range map[string]string{
				"Content-Type": "text/javascript; charset=utf-8", "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
			} {
				if got := w.Header().Get(key); got != value {
					t.Errorf("%s%s: %s is %q, want %q", mount, name, key, got, value)
				}
			}
		}
	}
}

func TestHandlerRevalidates(t *testing.T) {
	t.Parallel()
	etag := get(http.MethodGet, "/js/socket.mjs", nil).Header().Get("ETag")
	for match, want := range map[string]int{
		etag: http.StatusNotModified, `"other", ` + etag: http.StatusNotModified, `"other"`: http.StatusOK,
	} {
		w := get(http.MethodGet, "/js/socket.mjs", http.Header{"If-None-Match": {match}})
		if w.Code != want || w.Header().Get("ETag") != etag || (w.Body.Len() > 0) != (want == http.StatusOK) {
			t.Errorf("If-None-Match: %s: status %d, %d bytes, ETag %s", match, w.Code, w.Body.Len(), w.Header().Get("ETag"))
		}
	}
}

func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{http.MethodHead, "/js/socket.mjs", http.StatusOK},
		{http.MethodPost, "/js/socket.mjs", http.StatusMethodNotAllowed},
		{http.MethodGet, "/js/", http.StatusNotFound},
		{http.MethodGet, "/js/js.go", http.StatusNotFound},
		{http.MethodGet, "/js/..", http.StatusNotFound},
		{http.MethodGet, "/", http.StatusNotFound},
	} {
		if w := get(tt.method, tt.path, nil); w.Code != tt.want {
			t.Errorf("%s %s: status %d, want %d", tt.method, tt.path, w.Code, tt.want)
		}
	}
}
