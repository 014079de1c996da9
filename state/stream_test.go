package state_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/socket"
	"bennu.example/state"
)

// streams starts a server of streams at stream:*. Those at other:* are not recorded.
func streams(
	t testing.TB, o *state.Objects, cfg state.Config, keep history.Keep, log *bytes.Buffer,
) (*rig, *pubsub.PubSub) {
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"stream:*": keep})
	return serve(t, o, cfg, func(sc *socket.Config) {
		sc.PubSub = ps
		sc.Channels = channel.Routes{"stream:*": o.Streams(cfg), "other:*": o.Streams(cfg)}
		if log != nil {
			logger := zerolog.New(log)
			sc.Logger = &logger
		}
	}), ps
}

func memoryStreams(t testing.TB, keep history.Keep) *rig {
	r, _ := streams(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{Allow: allowAll}, keep, nil)
	return r
}

const streamState = `"$state":{"kind":"stream","limits":{"value":65536}`

func TestStream(t *testing.T) {
	t.Parallel()
	r := memoryStreams(t, history.Keep{})
	a, b := r.dial(), r.dial()
	play(t, a, "stream:1",
		[2]string{`phx_join {"$history":{}}`,
			`ok {"$history":{"missed":0,"pos":"@0","recovered":false,"why":"new"},` + streamState + `}}`},
		[2]string{`publish {"value":{"$inc":1}}`,
			"ok {\"pos\":\"@1\"}\nmessage {\"$pos\":\"@1\",\"value\":{\"$inc\":1}}"},
	)
	play(t, b, "stream:1", [2]string{`phx_join {"$state":{}}`, `ok {` + streamState + `}}`})
	pos := ""
	for n := 2; n <= 5; n++ {
		_, reply, _ := b.push("stream:1", "publish", fmt.Sprintf(`{"$id":"id%d","value":%d}`, n, n))
		pos = reply["pos"].(string)
		if n == 3 {
			b.ok("stream:1", "snapshot", `{"at":"`+pos+`","value":{"sum":3}}`)
		}
	}
	play(t, b, "stream:1", [2]string{`publish {"$id":"id5","value":5}`, `ok {"pos":"@5"}`}) // it repeats the last
	for n := 2; n <= 5; n++ {
		play(t, a, "stream:1", [2]string{"<", fmt.Sprintf(`message {"$pos":"@%d","value":%d}`, n, n)})
	}
	snapshot := `,"snapshot":{"at":"@3","value":{"sum":3}}}}`
	c := r.dial()
	play(t, c, "stream:1",
		[2]string{`phx_join {"$history":{}}`, `ok {"$history":{"missed":2,"pos":"@3","recovered":false,"why":"new"},` +
			streamState + snapshot},
		[2]string{"<", `message {"$pos":"@4","value":4}`},
		[2]string{"<", `message {"$pos":"@5","value":5}`},
	)
	d := r.dial()
	play(t, d, "stream:1", [2]string{`phx_join {"$history":{"since":"` + pos + `"}}`,
		`ok {"$history":{"missed":0,"pos":"@5","recovered":true},` + streamState + `}}`})
	// A stream that is removed begins anew.
	a.ok("stream:1", "remove", `{}`)
	for {
		if m := a.next(); m.Event == "phx_error" {
			break
		}
	}
	play(t, a, "stream:1", [2]string{`phx_join {"$history":{"since":"` + pos + `"}}`,
		`ok {"$history":{"missed":0,"pos":"@0","recovered":false,"why":"epoch"},` + streamState + `}}`})
	a.ok("stream:1", "remove", `{}`) // also without a snapshot
}

// TestStreamSnapshots has snapshots that are older than the one before, or whose position the log
// has not.
func TestStreamSnapshots(t *testing.T) {
	t.Parallel()
	r, ps := streams(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{Allow: allowAll},
		history.Keep{Count: 10}, nil)
	c := r.dial()
	c.ok("stream:1", "phx_join", `{}`)
	var all []string
	publish := func(n int) {
		for range n {
			all = append(all, c.ok("stream:1", "publish", `{"value":1}`)["pos"].(string))
		}
	}
	stored := func() any {
		d := r.dial()
		return d.ok("stream:1", "phx_join", `{"$history":{}}`)["$state"].(map[string]any)["snapshot"]
	}
	want := func(at string, value any) {
		t.Helper()
		if at == "" {
			if s := stored(); s != nil {
				t.Errorf("there is a snapshot %v", s)
			}
			return
		}
		s, _ := stored().(map[string]any)
		if s["at"] != at || s["value"] != value {
			t.Errorf("the snapshot is %v, want %v at %s", s, value, at)
		}
	}
	put := func(at string, value string) (string, map[string]any) {
		t.Helper()
		status, reply, _ := c.push("stream:1", "snapshot", `{"at":"`+at+`","value":`+value+`}`)
		return status, reply
	}
	publish(8)
	want("", nil)
	for _, s := range []struct{ put, has int }{{3, 3}, {2, 3}, {3, 3}, {5, 5}, {4, 5}} {
		if status, reply := put(all[s.put], fmt.Sprintf(`"%d"`, s.put)); status != "ok" {
			t.Errorf("%v", reply)
		}
		want(all[s.has], fmt.Sprint(s.has))
	}
	publish(100) // the position of the snapshot is not kept any more, not even by the node
	want("", nil)
	if status, reply := put(all[4], `1`); status != "error" || text(reply) != `{"reason":"invalid","what":"at"}` {
		t.Errorf("a snapshot at a position that is not kept: %v", reply)
	}
	put(all[107], `"new"`)
	want(all[107], "new")
	if err := ps.Forget(t.Context(), "stream:1"); err != nil {
		t.Fatal(err)
	}
	want("", nil)
	all = nil
	publish(2)
	put(all[0], `"another log"`) // its offset is less than that of the stored one
	want(all[0], "another log")
}

// binaryPush is a push of bytes in version 2.0.0.
func binaryPush(joinRef, ref, topic, event string, body []byte) []byte {
	b := []byte{0, byte(len(joinRef)), byte(len(ref)), byte(len(topic)), byte(len(event))}
	return append(append(b, joinRef+ref+topic+event...), body...)
}

func TestStreamBinary(t *testing.T) {
	t.Parallel()
	r := memoryStreams(t, history.Keep{})
	c := r.dial()
	ref := c.send("stream:1", "phx_join", `{"$history":{}}`)
	c.next()
	body := []byte{0, 1, 2, 255}
	if err := c.ws.Frame(wstest.Fin|wstest.Binary, binaryPush(ref, "77", "stream:1", "publish", body)); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for len(seen) < 3 {
		first, payload, err := c.ws.Next()
		if err != nil {
			t.Fatal(err)
		}
		if first&0xf == wstest.Binary {
			seen["binary"] = bytes.HasSuffix(payload, append([]byte("message"), body...))
			continue
		}
		m := parse(t, payload)
		seen[plain(m.Event+" "+text(m.Payload))] = true
	}
	for _, want := range []string{
		"binary", `$history {"$pos":"@1"}`, `phx_reply {"response":{"pos":"@1"},"status":"ok"}`,
	} {
		if !seen[want] {
			t.Errorf("no %s in %v", want, seen)
		}
	}
}

// TestStreamErrors has each reason of an error reply.
func TestStreamErrors(t *testing.T) {
	t.Parallel()
	allow := func(_ context.Context, _ *channel.Channel, a state.Access) error {
		switch {
		case a.Topic == "stream:secret", a.Action == state.Remove, a.Op.Key == "$snapshot" && string(a.Op.Value) == "13",
			a.Op.Key == "" && string(a.Op.Value) == "14":
			return state.ErrForbidden
		}
		return nil
	}
	r, _ := streams(t, state.New(state.NewMemory(state.MemoryConfig{})),
		state.Config{Allow: allow, Limits: state.Limits{Value: 100}}, history.Keep{Bytes: 80}, nil)
	at := ""
	{
		c := r.dial()
		c.ok("stream:1", "phx_join", `{}`)
		at = c.ok("stream:1", "publish", `{"value":1}`)["pos"].(string)
	}
	big, tooBig := `"`+strings.Repeat("x", 85)+`"`, `"`+strings.Repeat("x", 100)+`"`
	for _, test := range []struct{ topic, event, payload, want string }{
		{"stream:1", "phx_join", `{"$state":{"since":"x"}}`, `{"reason":"invalid","what":"since"}`},
		{"stream:1", "phx_join", `{"$state":{"mode":"new"}}`, `{"reason":"invalid","what":"mode"}`},
		{"stream:1", "phx_join", `{"$state":{"keys":{"first":1}}}`, `{"reason":"invalid","what":"keys"}`},
		{"stream:1", "phx_join", `{"$state":1}`, `{"reason":"invalid","what":"$state"}`},
		{"stream:1", "phx_join", `{"$history":{"since":"x"}}`, `{"reason":"invalid position"}`},
		{"stream:secret", "phx_join", `{}`, `{"reason":"forbidden"}`},
		{"other:1", "phx_join", `{}`, `{"reason":"join crashed"}`},
		{"stream:1", "publish", `{}`, `{"reason":"invalid","what":"value"}`},
		{"stream:1", "publish", `[]`, `{"reason":"invalid","what":"payload"}`},
		{"stream:1", "publish", `{"value":1,"key":"a"}`, `{"reason":"invalid","what":"key"}`},
		{"stream:1", "publish", `{"value":1,"$id":1}`, `{"reason":"invalid","what":"$id"}`},
		{"stream:1", "publish", `{"value":14}`, `{"reason":"forbidden"}`},
		{"stream:1", "publish", `{"value":` + tooBig + `}`, `{"max":100,"reason":"too large"}`},
		{"stream:1", "publish", `{"value":` + big + `}`, `{"reason":"too large"}`}, // the log's bound
		{"stream:1", "snapshot", `{"value":1}`, `{"reason":"invalid","what":"at"}`},
		{"stream:1", "snapshot", `{"at":"x","value":1}`, `{"reason":"invalid","what":"at"}`},
		{"stream:1", "snapshot", `{"at":"","value":1}`, `{"reason":"invalid","what":"at"}`},
		{"stream:1", "snapshot", `{"at":"zzzzzzzz-1-0z0z","value":1}`, `{"reason":"invalid","what":"at"}`},
		{"stream:1", "snapshot", `{"at":"AT"}`, `{"reason":"invalid","what":"value"}`},
		{"stream:1", "snapshot", `{"at":"AT","value":13}`, `{"reason":"forbidden"}`},
		{"stream:1", "snapshot", `{"at":"AT","value":1,"if":1}`, `{"reason":"invalid","what":"if"}`},
		{"stream:1", "snapshot", `{"at":"AT","value":` + tooBig + `}`, `{"max":100,"reason":"too large"}`},
		{"stream:1", "remove", `{}`, `{"reason":"forbidden"}`},
		{"stream:1", "remove", `{"key":"a"}`, `{"reason":"invalid","what":"key"}`},
		{"stream:1", "put", `{"value":1}`, `{"reason":"invalid","what":"put"}`},
		{"stream:1", "read", `{}`, `{"reason":"invalid","what":"read"}`},
		{"stream:1", "batch", `{"ops":[]}`, `{"reason":"invalid","what":"batch"}`},
	} {
		t.Run(fmt.Sprintf("%s %s %.60s", test.topic, test.event, test.payload), func(t *testing.T) {
			t.Parallel()
			c := r.dial()
			c.t = t
			if test.event != "phx_join" {
				c.ok(test.topic, "phx_join", `{}`)
			}
			status, reply, _ := c.push(test.topic, test.event, strings.ReplaceAll(test.payload, "AT", at))
			if status != "error" || text(reply) != test.want {
				t.Errorf("%s %s, want %s", status, text(reply), test.want)
			}
		})
	}
}

// TestStreamUnrecorded has topics that no rule records, or not this event. The log says why.
func TestStreamUnrecorded(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r, _ := streams(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{Allow: allowAll},
		history.Keep{Events: []string{"other"}}, &log)
	for _, topic := range []string{"stream:1", "other:1"} {
		log.Reset()
		if status, reply, _ := r.dial().push(topic, "phx_join", `{}`); status != "error" {
			t.Errorf("%s %v", status, reply)
		}
		if text := log.String(); !strings.Contains(text, `no rule`) || !strings.Contains(text, topic) {
			t.Errorf("%s: the log has %s", topic, text)
		}
	}
}

// TestStreamRates has the limits of rates.
func TestStreamRates(t *testing.T) {
	t.Parallel()
	r, _ := streams(t, state.New(state.NewMemory(state.MemoryConfig{})),
		state.Config{Allow: allowAll, Limits: state.Limits{Rate: 0.5, ObjectRate: 1.1}}, history.Keep{}, nil)
	clients := []*conn{r.dial(), r.dial(), r.dial()}
	for i, c := range clients {
		c.ok("stream:1", "phx_join", `{}`)
		if status, reply, _ := c.push("stream:1", "publish", `{"value":1}`); (status == "ok") != (i < 2) {
			t.Errorf("client %d: %s %v", i, status, reply) // the rate of the stream
		}
	}
	status, reply, _ := clients[0].push("stream:1", "publish", `{"value":1}`)
	if after, _ := reply["after_ms"].(float64); status != "error" || reply["reason"] != "quota" || after < 1000 {
		t.Errorf("%s %v", status, reply)
	}
}

// TestStreamStoreErrors has a store and a log that fail.
func TestStreamStoreErrors(t *testing.T) {
	t.Parallel()
	store := broken{state.NewMemory(state.MemoryConfig{}), errors.Join(history.ErrUnavailable)}
	r, _ := streams(t, run(t, state.New(store)), state.Config{Allow: allowAll}, history.Keep{}, nil)
	c := r.dial()
	c.ok("stream:1", "phx_join", `{"$history":{}}`)
	at := c.ok("stream:1", "publish", `{"value":1}`)["pos"].(string)
	status, reply, _ := c.push("stream:1", "snapshot", `{"at":"`+at+`","value":1}`)
	if status != "error" || text(reply) != `{"reason":"unavailable"}` {
		t.Errorf("%s %v", status, reply)
	}
}
