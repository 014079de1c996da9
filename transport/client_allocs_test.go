//go:build !race

package transport_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	"bennu.example/transport/websocket"
)

// TestClientWSAllocs checks that sending a frame allocates nothing, and that receiving one
// allocates only the memory that the caller keeps.
func TestClientWSAllocs(t *testing.T) {
	dial := func(h http.Handler) transport.ClientConn {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return transporttest.Dial(t, websocket.Dial, transport.ClientConfig{URL: s.URL})
	}
	writes := dial(clientDiscard)
	one := []*serializer.Frame{transporttest.Text(strings.Repeat("x", 125))}
	many := []*serializer.Frame{one[0], one[0], transporttest.Binary(strings.Repeat("y", 10_000)), one[0]}
	reads := dial(clientFlood("\x81\x7d" + strings.Repeat("x", 125)))
	for _, tt := range []struct {
		name string
		most float64
		f    func() error
	}{
		{"Write of one", 0, func() error { return writes.Write(one...) }},
		{"Write of four", 0, func() error { return writes.Write(many...) }},
		{"Read", 1, func() error { _, _, err := reads.Read(); return err }},
	} {
		var err error
		if got := testing.AllocsPerRun(1000, func() { err = tt.f() }); got > tt.most || err != nil {
			t.Errorf("%s: %v allocations, want at most %v (%v)", tt.name, got, tt.most, err)
		}
	}
}
