package presence_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"bennu.example/presence"
	"bennu.example/socket"
)

func TestPresenceClientLogsToStandardErrorByDefault(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := socket.NewClient("ws://localhost/socket", nil) // it is never connected
	defer c.Close(t.Context())
	before := os.Stderr
	os.Stderr = w
	p := presence.NewClient(c.Channel("room:1", nil), nil)
	os.Stderr = before
	p.Receive("1", presence.EventState, `[1]`)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(text), " ERR presence: event ignored ") {
		t.Errorf("%v: %s", err, text)
	}
}
