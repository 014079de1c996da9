package room

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// wire is a client that speaks in frames, as JSON: [join_ref, ref, topic, event, payload].
type wire struct {
	t     *testing.T
	conn  *websocket.Conn
	topic string
	ref   int
}

type frame struct {
	Ref     string
	Event   string
	Payload json.RawMessage
}

func (c *chat) dial(room string) *wire {
	c.t.Helper()
	return dial(c.t, "http://"+c.addr, room)
}

func dial(t *testing.T, url, room string) *wire {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url+"/socket/websocket?vsn=2.0.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return &wire{t: t, conn: conn, topic: "room:" + room}
}

// join enters a room, and returns when the client knows who is there.
func (c *chat) join(room, user string) *wire {
	c.t.Helper()
	w := c.dial(room)
	w.ok("phx_join", map[string]any{"user": user}, nil)
	w.await("presence_state", nil)
	return w
}

// push sends an event and returns its ref.
func (w *wire) push(event string, payload any) string {
	w.t.Helper()
	w.ref++
	ref := fmt.Sprint(w.ref)
	data, err := json.Marshal([]any{"1", ref, w.topic, event, payload})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.conn.Write(ctx, websocket.MessageText, data); err != nil {
		w.t.Fatal(err)
	}
	return ref
}

func (w *wire) read() (frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, data, err := w.conn.Read(ctx)
	if err != nil {
		return frame{}, err
	}
	var f frame
	var joinRef, topic any
	return f, json.Unmarshal(data, &[]any{&joinRef, &f.Ref, &topic, &f.Event, &f.Payload})
}

// await reads until an event comes, and stores its payload in v unless that is nil. Others, passed over, are returned.
func (w *wire) await(event string, v any) (others []frame) {
	w.t.Helper()
	return w.until(v, func(f frame) bool { return f.Event == event })
}

func (w *wire) until(v any, want func(frame) bool) (others []frame) {
	w.t.Helper()
	for {
		f, err := w.read()
		if err != nil {
			w.t.Fatalf("%v, after %v", err, others)
		}
		if !want(f) {
			others = append(others, f)
			continue
		}
		if v != nil {
			if err := json.Unmarshal(f.Payload, v); err != nil {
				w.t.Fatal(err)
			}
		}
		return others
	}
}

// request sends an event and reads until its reply.
func (w *wire) request(event string, payload any) (status string, response json.RawMessage, others []frame) {
	w.t.Helper()
	ref := w.push(event, payload)
	var r struct {
		Status   string
		Response json.RawMessage
	}
	others = w.until(&r, func(f frame) bool { return f.Event == "phx_reply" && f.Ref == ref })
	return r.Status, r.Response, others
}

// ok is a request that must succeed.
func (w *wire) ok(event string, payload, v any) (others []frame) {
	w.t.Helper()
	status, response, others := w.request(event, payload)
	if status != "ok" {
		w.t.Fatalf("%s: %s %s", event, status, response)
	}
	if v != nil {
		if err := json.Unmarshal(response, v); err != nil {
			w.t.Fatal(err)
		}
	}
	return others
}

func metas(s presence.State, key string) []presence.Meta {
	e, _ := s.Get(key)
	return e.Metas
}

func TestTalk(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.dial("tea")
	var in welcome
	ann.ok("phx_join", map[string]any{"user": " ann "}, &in)
	if in.User != "ann" || in.Messages == nil || len(in.Messages) > 0 {
		t.Errorf("welcome %+v", in)
	}
	var here presence.State
	ann.await("presence_state", &here)
	if here.Len() != 1 || len(metas(here, "ann")) != 1 || metas(here, "ann")[0].Ref == "" {
		t.Errorf("here is %v", here)
	}

	bob := c.join("tea", "bob")
	var change presence.Diff
	ann.until(&change, func(f frame) bool {
		return f.Event == "presence_diff" && strings.Contains(string(f.Payload), "bob")
	})
	if len(metas(change.Joins, "bob")) != 1 || change.Leaves.Len() != 0 {
		t.Errorf("bob's coming is %v", change)
	}

	bob.push("typing", struct{}{})
	var who typing
	ann.await("typing", &who)
	if who.User != "bob" {
		t.Errorf("typing %v", who)
	}

	before := time.Now()
	var said message
	others := bob.ok("new_msg", map[string]any{"body": " hello\n", "user": "eve", "at": "2000-01-01T00:00:00Z"}, &said)
	if slices.ContainsFunc(others, func(f frame) bool { return f.Event == "typing" }) {
		t.Error("bob is told that he types")
	}
	if said.User != "bob" || said.Body != "hello" || said.ID == "" || said.At.Before(before.Add(-time.Second)) {
		t.Errorf("said %+v", said)
	}
	var heard message
	ann.await("new_msg", &heard)
	if heard != said {
		t.Errorf("heard %+v, said %+v", heard, said)
	}
	own := slices.IndexFunc(others, func(f frame) bool { return f.Event == "new_msg" })
	if own < 0 {
		t.Fatalf("bob does not hear himself before the reply: %v", others)
	}
	if err := json.Unmarshal(others[own].Payload, &heard); err != nil || heard != said {
		t.Errorf("bob heard %+v (%v), said %+v", heard, err, said)
	}
}

func TestHistoryAtJoin(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.join("tea", "ann")
	for i := range keptMessages + 3 {
		ann.ok("new_msg", map[string]any{"body": fmt.Sprint(i)}, nil)
	}
	var in welcome
	c.dial("tea").ok("phx_join", map[string]any{"user": "bob"}, &in)
	if n := len(in.Messages); n != keptMessages || in.Messages[0].Body != "3" || in.Messages[n-1].Body != fmt.Sprint(keptMessages+2) {
		t.Errorf("%d messages: %v", n, in.Messages)
	}
	c.dial("coffee").ok("phx_join", map[string]any{"user": "bob"}, &in)
	if len(in.Messages) > 0 {
		t.Errorf("another room has %v", in.Messages)
	}
}

// TestNothingMissed holds that what is said while a join is answered reaches who joins: it is in neither the welcome nor the broadcasts.
func TestNothingMissed(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	h := &hall{history: newHistory(10, 10), who: presence.New(ps, nil)}
	h.history.add("room:tea", message{ID: "1", Body: "before"})
	late := func(m *member, ctx context.Context, c *channel.Channel, p params) (any, error) {
		reply, err := h.join(m, ctx, c, p)
		h.history.add("room:tea", message{ID: "2", Body: "meanwhile"})
		return reply, err
	}
	sockets := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": channel.Define(late, channel.Info((*member).joined))}, PubSub: ps,
	})
	server := httptest.NewServer(sockets)
	t.Cleanup(func() {
		sockets.Shutdown(context.Background())
		server.Close()
	})
	w := dial(t, server.URL, "tea")
	var in welcome
	w.ok("phx_join", map[string]any{"user": "ann"}, &in)
	if len(in.Messages) != 1 || in.Messages[0].Body != "before" {
		t.Errorf("welcome %+v", in)
	}
	var missed message
	w.await("new_msg", &missed)
	if missed.Body != "meanwhile" {
		t.Errorf("heard %+v", missed)
	}
}

func TestSaidOnce(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.join("tea", "ann")
	var first, second message
	ann.ok("new_msg", map[string]any{"id": "x", "body": "hello"}, &first)
	others := ann.ok("new_msg", map[string]any{"id": "x", "body": "hello again"}, &second)
	others = append(others, ann.ok("new_msg", map[string]any{"body": "end"}, nil)...)
	if first.ID != "x" || second != first {
		t.Errorf("said %+v, then %+v", first, second)
	}
	for _, f := range others {
		if f.Event == "new_msg" && strings.Contains(string(f.Payload), "hello") {
			t.Errorf("said again: %s", f.Payload)
		}
	}
	// An id of somebody else's does not silence.
	bob := c.join("tea", "bob")
	bob.ok("new_msg", map[string]any{"id": "x", "body": "mine"}, &second)
	if second.User != "bob" || second.Body != "mine" {
		t.Errorf("bob said %+v", second)
	}
}

func TestHere(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.join("tea", "ann")
	bob1 := c.join("tea", "bob")
	bob2 := c.join("tea", "bob")
	c.join("coffee", "carl")
	var here presence.State
	late := c.dial("tea")
	late.ok("phx_join", map[string]any{"user": "dora"}, nil)
	late.await("presence_state", &here)
	if here.Len() != 3 || len(metas(here, "ann")) != 1 || len(metas(here, "bob")) != 2 || len(metas(here, "dora")) != 1 {
		t.Errorf("here is %v", here)
	}
	left := func() string {
		var d presence.Diff
		ann.until(&d, func(f frame) bool {
			return f.Event == "presence_diff" && !strings.Contains(string(f.Payload), `"leaves":{}`)
		})
		if len(metas(d.Leaves, "bob")) != 1 || d.Joins.Len() != 0 {
			t.Fatalf("bob's going is %v", d)
		}
		return metas(d.Leaves, "bob")[0].Ref
	}
	bob1.ok("phx_leave", struct{}{}, nil)
	first := left()
	bob2.conn.CloseNow()
	if second := left(); second == first {
		t.Errorf("both of bob's have the ref %s", first)
	}
	// Who joins again on the same connection is here once.
	ann.ok("phx_join", map[string]any{"user": "ann"}, nil)
	ann.await("presence_state", &here)
	if len(metas(here, "ann")) != 1 {
		t.Errorf("here is %v", here)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	long := func(n int) string { return strings.Repeat("ä", n) }
	for name, tc := range map[string]struct {
		room   string
		params any
		reason string // "" is let in
	}{
		"longest":        {long(roomLimit), map[string]any{"user": long(userLimit)}, ""},
		"no user":        {"tea", struct{}{}, "the name is missing"},
		"blank user":     {"tea", map[string]any{"user": " \n "}, "the name is missing"},
		"long user":      {"tea", map[string]any{"user": long(userLimit + 1)}, "the name can have at most 32 characters"},
		"control":        {"tea", map[string]any{"user": "a\u0007b"}, "the name has characters that cannot be shown"},
		"no room":        {"", map[string]any{"user": "ann"}, "the room's name is missing"},
		"long room":      {long(roomLimit + 1), map[string]any{"user": "ann"}, "the room's name can have at most 64 characters"},
		"user no string": {"tea", map[string]any{"user": 7}, "invalid payload"},
	} {
		t.Run("join/"+name, func(t *testing.T) {
			status, response, _ := dial(t, "http://"+c.addr, tc.room).request("phx_join", tc.params)
			checkReply(t, status, response, tc.reason)
		})
	}
	ann := c.join("tea", "ann")
	for name, tc := range map[string]struct {
		event   string
		payload any
		reason  string
	}{
		"longest":        {"new_msg", map[string]any{"body": long(bodyLimit), "id": long(idLimit)}, ""},
		"no body":        {"new_msg", struct{}{}, "a message needs some text"},
		"blank body":     {"new_msg", map[string]any{"body": " \n"}, "a message needs some text"},
		"long body":      {"new_msg", map[string]any{"body": long(bodyLimit + 1)}, "a message can have at most 1000 characters"},
		"long id":        {"new_msg", map[string]any{"body": "x", "id": long(idLimit + 1)}, "a message's id can have at most 64 characters"},
		"body no string": {"new_msg", map[string]any{"body": []int{1}}, "invalid payload"},
		"unknown event":  {"shout", struct{}{}, "unknown event shout"},
	} {
		status, response, _ := ann.request(tc.event, tc.payload)
		t.Run("push/"+name, func(t *testing.T) { checkReply(t, status, response, tc.reason) })
	}
}

func checkReply(t *testing.T, status string, response json.RawMessage, reason string) {
	t.Helper()
	if reason == "" {
		if status != "ok" {
			t.Errorf("%s %s", status, response)
		}
		return
	}
	var r struct{ Reason string }
	if err := json.Unmarshal(response, &r); err != nil || status != "error" || r.Reason != reason {
		t.Errorf("%s %s, want the reason %q", status, response, reason)
	}
}

// TestOtherPagesMayNotConnect holds that the chat is not open to the scripts of other sites.
// Two names that look the same are no two names, and a name does not rearrange the page.
func TestInvisibleCharacters(t *testing.T) {
	t.Parallel()
	for _, c := range []rune{
		0x00, '\n', 0x7f, 0x85, 0x9b, // control
		0x061c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069, // bidirectional
		0x00ad, 0x034f, 0x115f, 0x1160, 0x17b4, 0x180b, 0x180e, 0x200b, 0x200c, 0x200d, 0x2060, 0x2064, 0x206a, 0x2800, 0x3164, 0xfe0f, 0xfeff, 0xffa0,
		0xe0041, 0xe0100, // without width
		0x2028, 0x2029, 0xe000, 0xfffd, 0xffff, 0x10ffff,
	} {
		for _, name := range []string{"an" + string(c) + "n", string(c) + "x" + string(c)} {
			if checkName("name", name, userLimit) == nil {
				t.Errorf("%q may be used", name)
			}
		}
	}
	for _, name := range []string{"ann", "Ann Lee", "žluťoučký", "李小龍", "שלום", "مرحبا", "नमस्ते", "🙂", "e\u0301"} {
		if err := checkName("name", name, userLimit); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOtherPagesMayNotConnect(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	evil := &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}}
	conn, resp, err := websocket.Dial(ctx, "http://"+c.addr+"/socket/websocket?vsn=2.0.0", evil)
	if err == nil {
		conn.CloseNow()
		t.Fatal("let in")
	}
	if resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("refused with %v, %v", resp, err)
	}
}
