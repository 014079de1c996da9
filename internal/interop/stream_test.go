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

// streamCode returns the block of the guide that contains a text.
func streamCode(t *testing.T, text string) string {
	t.Helper()
	for _, b := range guide.Blocks(t, "../../docs/streams.md", "js") {
		if strings.Contains(b, text) {
			return b
		}
	}
	t.Fatalf("the guide has no code with %s", text)
	return ""
}

// runStreams runs a script of the directory client against a server of streams. It is called with
// the directory of the packages, the server's URL and args. The lines of its output are decoded
// into values of type T.
func runStreams[T any](t *testing.T, script string, args ...string) (lines []T) {
	t.Helper()
	node, dir := require.Program(t, "node"), npm.Modules(t)
	rules := history.Rules{"text:*": {Events: []string{"message"}}}
	objects := state.New(state.NewMemory(state.MemoryConfig{}))
	everything := state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error { return nil }}
	nop := zerolog.Nop()
	h := socket.NewHandler(socket.Config{
		PubSub:   pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules),
		Channels: channel.Routes{"text:*": objects.Streams(everything)},
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
	cmd := exec.CommandContext(ctx, node, append([]string{script, dir, url}, args...)...)
	cmd.Dir = "client"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range bytes.Lines(out) {
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines = append(lines, v)
	}
	return lines
}

// TestStream runs the code of the guide with the stock phoenix.js: a writer, a reader whose
// connection is lost, and a late one that begins with the snapshot.
func TestStream(t *testing.T) {
	t.Parallel()
	got := runStreams[map[string]any](t, "stream_node.mjs", streamCode(t, "function openStream"))
	var all []any
	for n := 1; n <= 30; n++ {
		all = append(all, float64(n))
	}
	want := []map[string]any{
		{"sum": 465.0, "resets": []any{nil}, "values": all},
		{"sum": 465.0, "resets": []any{nil}, "values": all},
		{"sum": 465.0, "resets": []any{210.0}, "values": all[20:]},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("clients have\n%v, want\n%v", got, want)
	}
}

// TestYjs runs the Yjs document of the guide: two editors, one of which loses its connection and
// writes while it is away, and a late one that begins with a snapshot.
func TestYjs(t *testing.T) {
	t.Parallel()
	got := runStreams[struct {
		Text                string
		Messages, Snapshots int
	}](t, "yjs_node.mjs", streamCode(t, "function openStream"), streamCode(t, "new Y.Doc"))
	if len(got) != 3 {
		t.Fatalf("clients have %v", got)
	}
	for i, c := range got {
		if c.Text != got[0].Text {
			t.Errorf("client %d has %q, and the first %q", i, c.Text, got[0].Text)
		}
	}
	text := got[0].Text
	if strings.Count(text, "a") != 110 || strings.Count(text, "b") != 110 || !strings.Contains(text, "offline") {
		t.Errorf("the text is %q", text)
	}
	// Some updates are there twice, because an editor publishes again if it has no reply.
	if first, late := got[0], got[2]; late.Snapshots != 1 || late.Messages > first.Messages-100 {
		t.Errorf("the late client has read %d snapshots and %d messages of %d",
			late.Snapshots, late.Messages, first.Messages)
	}
}
