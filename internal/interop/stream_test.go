package interop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/testenv/guide"
	"bennu.example/internal/testenv/npm"
	"bennu.example/internal/testenv/require"
	"bennu.example/pubsub"
	"bennu.example/socket"
	"bennu.example/state"
)

// TestStream runs the code of the guide with the stock phoenix.js: a writer, a reader whose
// connection is lost, and a late one that begins with the snapshot.
func TestStream(t *testing.T) {
	t.Parallel()
	node, dir := require.Program(t, "node"), npm.Modules(t)
	var code string
	for _, b := range guide.Blocks(t, "../../docs/streams.md", "js") {
		if strings.Contains(b, "function openStream") {
			code = b
		}
	}
	rules := history.Rules{"stream:*": {Events: []string{"message"}}}
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	everything := state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error { return nil }}
	nop := zerolog.Nop()
	h := socket.NewHandler(socket.Config{
		PubSub:   pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules),
		Channels: channel.Routes{"stream:*": objects.Streams(everything)},
		Logger:   &nop,
	})
	server := httptest.NewServer(h)
	defer server.Close()
	defer func() {
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	url := "ws" + strings.TrimPrefix(server.URL, "http") + "/socket"
	out, err := exec.CommandContext(ctx, node, "client/stream_node.mjs", dir, "phoenix", url, code).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all []any
	for n := 1; n <= 30; n++ {
		all = append(all, float64(n))
	}
	want := []map[string]any{
		{"sum": 465.0, "resets": []any{nil}, "values": all},
		{"sum": 465.0, "resets": []any{nil}, "values": all},
		{"sum": 465.0, "resets": []any{210.0}, "values": all[20:]},
	}
	for i, line := range bytes.Split(bytes.TrimSpace(out), []byte("\n")) {
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil || i >= len(want) || !reflect.DeepEqual(got, want[i]) {
			t.Errorf("client %d has %s (%v)", i, line, err)
		}
	}
}
