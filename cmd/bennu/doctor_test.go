package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
)

// TestDoctor checks the output and the exit codes. The tests of package doctor check its findings.
func TestDoctor(t *testing.T) {
	addr := serveChat(t)
	for _, c := range []struct {
		args, out, notes string
		code             int
	}{
		{
			"doctor " + addr + "/socket --idle 10ms", `ok      address: ADDR answers after 0ms
ok      websocket: the handshake succeeds
ok      origin: pages of http://ADDR may connect
ok      long poll: it works, and a heartbeat is answered after 0ms
ok      messages: a heartbeat is answered after 0ms
ok      compression: the server does not compress: see socket.Config.WebSocket.Compress
ok      clock: this machine's clock and the server's agree
ok      idle: the connection still works after 10ms of silence
`, "bennu: waiting for 10ms of silence; --idle 0 leaves this out\n", exitOK,
		},
		{
			"doctor http://" + addr + "/sockets --idle 10ms", `ok      address: ADDR answers after 0ms
PROBLEM path: there is no socket at /sockets: /sockets/websocket is answered with 404, but
        there is one at /socket
        → Use ws://ADDR/socket.
`, "", exitRefused,
		},
		{
			"doctor " + addr + "/socket --origin example.com", "",
			"bennu: --origin \"example.com\": want a scheme and a host, such as https://example.com\n", exitUsage,
		},
		{
			"doctor ftp://" + addr, "",
			"bennu: ftp://ADDR: the scheme must be ws, wss, http or https\n", exitUsage,
		},
		{
			"doctor " + addr + "/sockets --idle 0 --json",
			`{"type":"finding","check":"address","result":"ok","text":"ADDR answers after 0ms"}
{"type":"finding","check":"path","result":"problem","text":"there is no socket at /sockets: ` +
				`/sockets/websocket is answered with 404, but there is one at /socket","fix":"Use ws://ADDR/socket."}
`, "", exitRefused,
		},
	} {
		var out, notes bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &notes, terminal: true}
		code := a.run(context.Background(), strings.Fields(c.args))
		times := regexp.MustCompile(`(answers|answered) after [0-9.]+[mµ]?s`)
		clean := func(b bytes.Buffer) string {
			return times.ReplaceAllString(strings.ReplaceAll(b.String(), addr, "ADDR"), "$1 after 0ms")
		}
		if code != c.code || clean(out) != c.out || clean(notes) != strings.ReplaceAll(c.notes, addr, "ADDR") {
			t.Errorf("%s: exit code %d, want %d\n%s%swant\n%s%s", c.args, code, c.code, clean(out), clean(notes), c.out, c.notes)
		}
	}
}
