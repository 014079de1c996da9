package room

import (
	"context"
	"encoding/json"
	"errors"
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
	"bennu.example/socket"
)

// client sends and receives single frames: [join_ref, ref, topic, event, payload].
type client struct {
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

func (c *chat) dial(room string) *client {
	c.t.Helper()
	return dial(c.t, "http://"+c.addr, room)
}

func dial(t *testing.T, url, room string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url+"/socket/websocket?vsn=2.0.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return &client{t: t, conn: conn, topic: "room:" + room}
}

// join joins a room and waits for the presence state.
func (c *chat) join(room, user string) *client {
	c.t.Helper()
	w := c.dial(room)
	w.ok("phx_join", map[string]any{"user": user}, nil)
	w.await("presence_state", nil)
	return w
}

// push sends a message and returns its ref.
func (w *client) push(event string, payload any) string {
	w.t.Helper()
	w.ref++
	ref := fmt.Sprint(w.ref)
	data, err := json.Marshal([]any{"1", ref, w.topic, event, payload})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	defer cancel()
	if err := w.conn.Write(ctx, websocket.MessageText, data); err != nil {
		w.t.Fatal(err)
	}
	return ref
}

func (w *client) read() (frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	defer cancel()
	_, data, err := w.conn.Read(ctx)
	if err != nil {
		return frame{}, err
	}
	var f frame
	var joinRef, topic any
	return f, json.Unmarshal(data, &[]any{&joinRef, &f.Ref, &topic, &f.Event, &f.Payload})
}

// await reads frames until an event arrives, and stores its payload in v unless v is nil. The other
// frames are returned.
func (w *client) await(event string, v any) (others []frame) {
	w.t.Helper()
	return w.until(v, func(f frame) bool { return f.Event == event })
}

// until is await with a condition instead of the name of an event.
func (w *client) until(v any, want func(frame) bool) (others []frame) {
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

// request sends a message and reads frames until its reply. It returns the other frames as others.
func (w *client) request(event string, payload any) (status string, response json.RawMessage, others []frame) {
	w.t.Helper()
	ref := w.push(event, payload)
	var r struct {
		Status   string
		Response json.RawMessage
	}
	others = w.until(&r, func(f frame) bool { return f.Event == "phx_reply" && f.Ref == ref })
	return r.Status, r.Response, others
}

// ok sends a request that must succeed.
func (w *client) ok(event string, payload, v any) (others []frame) {
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

// accepted is the reply to a join.
type accepted struct {
	User     string
	Messages []message
	History  struct {
		Pos, Why  string
		Recovered bool
		Missed    int
	} `json:"$history"`
}

func TestTalk(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.dial("tea")
	var in accepted
	ann.ok("phx_join", map[string]any{"user": " ann "}, &in)
	if in.User != "ann" || in.Messages == nil || len(in.Messages) > 0 {
		t.Errorf("join reply %+v", in)
	}
	var here presence.State
	ann.await("presence_state", &here)
	if here.Len() != 1 || len(metas(here, "ann")) != 1 || metas(here, "ann")[0].Ref == "" {
		t.Errorf("presence state %v", here)
	}

	bob := c.join("tea", "bob")
	var change presence.Diff
	ann.until(&change, func(f frame) bool {
		return f.Event == "presence_diff" && strings.Contains(string(f.Payload), "bob")
	})
	if len(metas(change.Joins, "bob")) != 1 || change.Leaves.Len() != 0 {
		t.Errorf("bob's join gave %v", change)
	}

	bob.push("typing", struct{}{})
	var who typing
	ann.await("typing", &who)
	if who.User != "bob" {
		t.Errorf("typing %v", who)
	}

	before := time.Now()
	var reply sent
	others := bob.ok("new_msg", map[string]any{"body": " hello\n", "user": "eve", "at": "2000-01-01T00:00:00Z"}, &reply)
	if slices.ContainsFunc(others, func(f frame) bool { return f.Event == "typing" }) {
		t.Error("bob received his own typing event")
	}
	own := slices.IndexFunc(others, func(f frame) bool { return f.Event == "new_msg" })
	if own < 0 {
		t.Fatalf("bob did not receive his own message before the reply: %v", others)
	}
	var m message
	if err := json.Unmarshal(others[own].Payload, &m); err != nil {
		t.Fatal(err)
	}
	if m.User != "bob" || m.Body != "hello" || m.ID == "" || m.ID != reply.ID || m.At.Before(before.Add(-time.Second)) {
		t.Errorf("bob received %+v, the reply was %+v", m, reply)
	}
	var received message
	ann.await("new_msg", &received)
	if received != m {
		t.Errorf("ann received %+v, bob %+v", received, m)
	}
}

func TestHistoryAtJoin(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.join("tea", "ann")
	for i := range maxMessages + 3 {
		ann.ok("new_msg", map[string]any{"body": fmt.Sprint(i)}, nil)
	}
	var in accepted
	c.dial("tea").ok("phx_join", map[string]any{"user": "bob"}, &in)
	last := fmt.Sprint(maxMessages + 2)
	if n := len(in.Messages); n != maxMessages || in.Messages[0].Body != "3" || in.Messages[n-1].Body != last {
		t.Errorf("%d messages: %v", n, in.Messages)
	}
	c.dial("coffee").ok("phx_join", map[string]any{"user": "bob"}, &in)
	if len(in.Messages) > 0 {
		t.Errorf("the other room has %v", in.Messages)
	}
}

// TestMessageDuringJoin checks that a client receives a message that is sent between its join reply
// and its subscription, whether it asks for history or not.
func TestMessageDuringJoin(t *testing.T) {
	t.Parallel()
	ps := recorded()
	r := &rooms{ps: ps, who: presence.New(ps, presence.Config{})}
	send := func(body string) error {
		return ps.Broadcast(t.Context(), "room:tea", "new_msg", message{ID: body, Body: body})
	}
	late := func(m *member, ctx context.Context, c *channel.Channel, p params) (any, error) {
		reply, err := r.join(m, ctx, c, p)
		return reply, errors.Join(err, send("meanwhile"))
	}
	sockets := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"room:*": channel.Define(late, channel.Info((*member).joined))}, PubSub: ps,
	})
	server := httptest.NewServer(sockets)
	t.Cleanup(func() {
		sockets.Shutdown(context.Background())
		server.Close()
	})
	for _, params := range []map[string]any{{"user": "ann"}, {"user": "ann", "$history": struct{}{}}} {
		if err := ps.Forget(t.Context(), "room:tea"); err != nil {
			t.Fatal(err)
		}
		if err := send("before"); err != nil {
			t.Fatal(err)
		}
		w := dial(t, server.URL, "tea")
		var in accepted
		w.ok("phx_join", params, &in)
		if len(in.Messages) != 1 || in.Messages[0].Body != "before" {
			t.Errorf("%v: join reply %+v", params, in)
		}
		var missed message
		w.await("new_msg", &missed)
		if missed.Body != "meanwhile" {
			t.Errorf("%v: received %+v", params, missed)
		}
		w.conn.CloseNow()
	}
}

// TestReturningClient checks that a client that comes back receives what it missed, and no
// snapshot; and that after a restart without the log it gets what there is.
func TestReturningClient(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann, bob := c.dial("tea"), c.join("tea", "bob")
	var in accepted
	ann.ok("phx_join", map[string]any{"user": "ann", "$history": struct{}{}}, &in)
	if in.History.Recovered || in.History.Why != "new" || in.Messages == nil {
		t.Errorf("first join: %+v", in)
	}
	ann.conn.CloseNow()
	since := map[string]any{"user": "ann", "$history": map[string]string{"since": in.History.Pos}}
	for i := range maxMessages + 3 { // more than a snapshot has
		bob.ok("new_msg", map[string]any{"body": fmt.Sprint(i)}, nil)
	}
	ann = c.dial("tea")
	in = accepted{}
	ann.ok("phx_join", since, &in)
	if !in.History.Recovered || in.History.Missed != maxMessages+3 || in.Messages != nil {
		t.Errorf("rejoin: %+v", in)
	}
	for i := range maxMessages + 3 {
		var m message
		if ann.await("new_msg", &m); m.Body != fmt.Sprint(i) {
			t.Fatalf("message %d is %+v", i, m)
		}
	}

	c.stop()
	c = start(t, c.addr)
	c.join("tea", "bob").ok("new_msg", map[string]any{"body": "anew"}, nil)
	in = accepted{}
	c.dial("tea").ok("phx_join", since, &in)
	if in.History.Recovered || in.History.Why != "epoch" || len(in.Messages) != 1 || in.Messages[0].Body != "anew" {
		t.Errorf("join after a restart: %+v", in)
	}
}

func TestRepeatedMessageIsIgnored(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ann := c.join("tea", "ann")
	var first, second sent
	ann.ok("new_msg", map[string]any{"id": "x", "body": "hello"}, &first)
	others := ann.ok("new_msg", map[string]any{"id": "x", "body": "hello again"}, &second)
	others = append(others, ann.ok("new_msg", map[string]any{"body": "end"}, nil)...)
	if first.ID != "x" || second != first {
		t.Errorf("replies %+v and %+v", first, second)
	}
	for _, f := range others {
		if f.Event == "new_msg" && strings.Contains(string(f.Payload), "hello") {
			t.Errorf("broadcast again: %s", f.Payload)
		}
	}
	// Another user's message may have the same ID.
	bob := c.join("tea", "bob")
	var m message
	others = bob.ok("new_msg", map[string]any{"id": "x", "body": "mine"}, &second)
	own := slices.IndexFunc(others, func(f frame) bool { return f.Event == "new_msg" })
	if own < 0 || json.Unmarshal(others[own].Payload, &m) != nil || m.User != "bob" || m.Body != "mine" {
		t.Errorf("bob received %+v", others)
	}
}

func TestPresence(t *testing.T) {
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
		t.Errorf("presence state %v", here)
	}
	left := func() string {
		var d presence.Diff
		ann.until(&d, func(f frame) bool {
			return f.Event == "presence_diff" && !strings.Contains(string(f.Payload), `"leaves":{}`)
		})
		if len(metas(d.Leaves, "bob")) != 1 || d.Joins.Len() != 0 {
			t.Fatalf("bob's leave gave %v", d)
		}
		return metas(d.Leaves, "bob")[0].Ref
	}
	bob1.ok("phx_leave", struct{}{}, nil)
	first := left()
	bob2.conn.CloseNow()
	if second := left(); second == first {
		t.Errorf("both of bob's presences have the ref %s", first)
	}
	// A client that joins again on the same connection is listed once.
	ann.ok("phx_join", map[string]any{"user": "ann"}, nil)
	ann.await("presence_state", &here)
	if len(metas(here, "ann")) != 1 {
		t.Errorf("presence state %v", here)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	long := func(n int) string { return strings.Repeat("ä", n) }
	tooLong := func(what string, limit int) string {
		return fmt.Sprintf("%s can have at most %d characters", what, limit)
	}
	for name, tc := range map[string]struct {
		room   string
		params any
		reason string // empty if the join is accepted
	}{
		"longest":          {long(maxRoom), map[string]any{"user": long(maxUser)}, ""},
		"no user":          {"tea", struct{}{}, "the name is missing"},
		"blank user":       {"tea", map[string]any{"user": " \n "}, "the name is missing"},
		"long user":        {"tea", map[string]any{"user": long(maxUser + 1)}, tooLong("the name", maxUser)},
		"control":          {"tea", map[string]any{"user": "a\u0007b"}, "the name has invisible characters"},
		"no room":          {"", map[string]any{"user": "ann"}, "the room's name is missing"},
		"long room":        {long(maxRoom + 1), map[string]any{"user": "ann"}, tooLong("the room's name", maxRoom)},
		"user is a number": {"tea", map[string]any{"user": 7}, "invalid payload"},
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
		"longest":        {"new_msg", map[string]any{"body": long(maxBody), "id": long(maxID)}, ""},
		"no body":        {"new_msg", struct{}{}, "the message is empty"},
		"blank body":     {"new_msg", map[string]any{"body": " \n"}, "the message is empty"},
		"long body":      {"new_msg", map[string]any{"body": long(maxBody + 1)}, tooLong("a message", maxBody)},
		"long ID":        {"new_msg", map[string]any{"body": "x", "id": long(maxID + 1)}, tooLong("a message's ID", maxID)},
		"body is a list": {"new_msg", map[string]any{"body": []int{1}}, "invalid payload"},
		"unknown event":  {"shout", struct{}{}, "unknown event shout"},
	} {
		status, response, _ := ann.request(tc.event, tc.payload)
		t.Run("push/"+name, func(t *testing.T) { checkReply(t, status, response, tc.reason) })
	}
}

// checkReply checks that a reply is an error with this reason, or ok if the reason is empty.
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

// TestInvisibleCharacters checks that names cannot contain characters that make two names look the
// same or that rearrange the page.
func TestInvisibleCharacters(t *testing.T) {
	t.Parallel()
	for _, c := range []rune{
		0x00, '\n', 0x7f, 0x85, 0x9b, // control
		0x061c, 0x200e, 0x200f, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069, // bidirectional
		0x00ad, 0x034f, 0x115f, 0x1160, 0x17b4, 0x180b, 0x180e, 0x200b, 0x200c, 0x200d, 0x2060, 0x2064, // without width
		0x206a, 0x2800, 0x3164, 0xfe0f, 0xfeff, 0xffa0, 0xe0041, 0xe0100, // without width
		0x2028, 0x2029, 0xe000, 0xfffd, 0xffff, 0x10ffff, // separators, private use and unassigned
	} {
		for _, name := range []string{"an" + string(c) + "n", string(c) + "x" + string(c)} {
			if checkName("name", name, maxUser) == nil {
				t.Errorf("%q is allowed", name)
			}
		}
	}
	for _, name := range []string{"ann", "Ann Lee", "žluťoučký", "李小龍", "שלום", "مرحبا", "नमस्ते", "🙂", "e\u0301"} {
		if err := checkName("name", name, maxUser); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestOtherOriginIsRefused checks that scripts of other sites cannot connect.
func TestOtherOriginIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	defer cancel()
	evil := &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}}
	conn, resp, err := websocket.Dial(ctx, "http://"+c.addr+"/socket/websocket?vsn=2.0.0", evil)
	if err == nil {
		conn.CloseNow()
		t.Fatal("accepted")
	}
	if resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("response %v, error %v, want status 403", resp, err)
	}
}
