package app_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/conformance/app"
	"bennu.example/internal/wstest"
)

// TestRecordedTopic plays the contract of rec:*: a snapshot in the reply, records with positions,
// and what was missed after a return.
func TestRecordedTopic(t *testing.T) {
	t.Parallel()
	a := app.New(app.Config{RecordKeep: 3})
	server := httptest.NewServer(a)
	defer server.Close()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := a.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	reply := func(ref, history string, n int) string {
		const text = `["%[1]s","%[1]s","rec:a","phx_reply",` +
			`{"status":"ok","response":{"$history":{"pos":"POS",%[2]s},"n":%[3]d}}]`
		return fmt.Sprintf(text, ref, history, n)
	}
	positions := regexp.MustCompile(`[0-9a-z]+-[0-9]+-[0-9a-z]{4}`)
	var conn *wstest.Conn
	last := ""
	dial := func() {
		t.Helper()
		var err error
		if conn, err = wstest.Dial(strings.TrimPrefix(server.URL, "http://"), "/socket/websocket?vsn=2.0.0"); err != nil {
			t.Fatal(err)
		}
	}
	play := func(send string, want ...string) {
		t.Helper()
		if err := conn.Send([]byte(send)); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			frame, err := conn.Text()
			if err != nil {
				t.Fatal(err)
			}
			if p := positions.FindString(string(frame)); p != "" {
				last = p
			}
			if got := positions.ReplaceAllString(string(frame), "POS"); got != w {
				t.Errorf("%s:\n got %s\nwant %s", send, got, w)
			}
		}
	}
	dial()
	play(`["1","1","rec:a","phx_join",{"$history":{}}]`,
		reply("1", `"recovered":false,"missed":0,"why":"new"`, 0))
	play(`["1","2","rec:a","say",{"n":7}]`,
		`[null,null,"rec:a","msg",{"$pos":"POS","n":7}]`, `["1","2","rec:a","phx_reply",{"status":"ok","response":{}}]`)
	at := last
	conn.Close()

	dial()
	play(`["1","1","rec:a","phx_join",{}]`, `["1","1","rec:a","phx_reply",{"status":"ok","response":{"n":7}}]`)
	say := func(ref, n int) {
		t.Helper()
		play(fmt.Sprintf(`["1","%d","rec:a","say",{"n":%d}]`, ref, n), fmt.Sprintf(`[null,null,"rec:a","msg",{"n":%d}]`, n),
			fmt.Sprintf(`["1","%d","rec:a","phx_reply",{"status":"ok","response":{}}]`, ref))
	}
	say(2, 8)
	conn.Close()

	dial()
	play(fmt.Sprintf(`["5","5","rec:a","phx_join",{"$history":{"since":%q}}]`, at),
		reply("5", `"recovered":true,"missed":1`, 8),
		`[null,null,"rec:a","msg",{"$pos":"POS","n":8}]`)
	play(`["5","6","rec:a","phx_leave",{}]`, `["5","6","rec:a","phx_reply",{"status":"ok","response":{}}]`,
		`["5","5","rec:a","phx_close",{}]`)
	play(`["1","1","rec:a","phx_join",{}]`, `["1","1","rec:a","phx_reply",{"status":"ok","response":{"n":8}}]`)
	for n := range 5 {
		say(10+n, n)
	}
	conn.Close()

	dial()
	defer func() { conn.Close() }()
	play(fmt.Sprintf(`["7","7","rec:a","phx_join",{"$history":{"since":%q}}]`, at),
		reply("7", `"recovered":false,"missed":0,"why":"trimmed"`, 8))
}
