package longpoll_test

import (
	"bytes"
	"cmp"
	"io"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"bennu.example/transport/longpoll"
)

// inRow is a body that is always ready. It determines how many bytes of it were read without a turn
// of another goroutine.
type inRow struct {
	io.Reader
	turns     *atomic.Int64 // of the other goroutine
	seen      int64
	row, most int
}

func (b *inRow) Read(p []byte) (int, error) {
	if turns := b.turns.Load(); turns != b.seen {
		b.seen, b.row = turns, 0
	}
	n, err := b.Reader.Read(p)
	b.row += n
	b.most = max(b.most, b.row)
	return n, err
}

// Other goroutines get turns while a body is read whose client never pauses, whether its messages
// are handled or it is dropped.
func TestReadingBodyYields(t *testing.T) { // not parallel: with one processor, a turn needs a yield
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	all := bytes.Repeat([]byte("["+strings.Repeat(" ", 730_000)+"]\n"), 4)
	for _, test := range []struct {
		name, method, token, contentType string
		http, status                     int
	}{
		{"a batch", "POST", "", "application/x-ndjson", 200, 200},
		{"one text", "POST", "", "", 200, 200},
		{"no session", "POST", "gone", "", 200, 410},
		{"another method", "PUT", "", "", 400, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := longpoll.Config{MaxMessage: 8_000_000}
			withSession(t, cfg, func(t *testing.T, s *testServer, token string, _ *testSession) {
				var turns atomic.Int64
				var end atomic.Bool
				go func() {
					for !end.Load() {
						turns.Add(1)
						runtime.Gosched()
					}
				}()
				body := &inRow{Reader: bytes.NewReader(all), turns: &turns}
				r := httptest.NewRequest(test.method, "/?token="+cmp.Or(test.token, token), io.NopCloser(body))
				r.ContentLength = int64(len(all))
				r.Header.Set("Content-Type", test.contentType)
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				end.Store(true)
				if a := s.answer(w); a.http != test.http || a.Status != test.status {
					t.Errorf("got %d %s", a.http, a.body)
				}
				// It is 64 kB and one read if the other goroutine uses each of its turns.
				if body.most == 0 || body.most > 1_000_000 {
					t.Errorf("%d of %d bytes were read in a row", body.most, len(all))
				}
			})
		})
	}
}
