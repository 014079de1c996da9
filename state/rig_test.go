package state_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/wstest"
	"bennu.example/socket"
	"bennu.example/state"
)

// allowAll permits everything.
func allowAll(context.Context, *channel.Channel, state.Access) error { return nil }

// rig is a server with documents at doc:*, maps at map:*, lists at list:*, and trees at tree:*.
type rig struct {
	t       testing.TB
	objects *state.Objects
	server  *httptest.Server
}

// serve starts a server, which ends with the test.
func serve(t testing.TB, o *state.Objects, cfg state.Config, more ...func(*socket.Config)) *rig {
	t.Helper()
	quiet := zerolog.Nop()
	sc := socket.Config{
		Channels: channel.Routes{
			"doc:*": o.Documents(cfg), "map:*": o.Maps(cfg), "list:*": o.Lists(cfg), "tree:*": o.Trees(cfg),
		},
		JoinRate: -1, MessageRate: -1, Logger: &quiet,
	}
	for _, f := range more {
		f(&sc)
	}
	h := socket.NewHandler(sc)
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return &rig{t, o, server}
}

// memory starts a server with everything allowed.
func memory(t testing.TB) *rig {
	return serve(t, state.New(state.NewMemory(state.MemoryConfig{})), state.Config{Allow: allowAll})
}

// conn is a bare client.
type conn struct {
	t   testing.TB
	ws  *wstest.Conn
	ref int
}

func (r *rig) dial() *conn {
	r.t.Helper()
	return r.dialWith("")
}

func (r *rig) dialWith(query string) *conn {
	r.t.Helper()
	ws, err := wstest.Dial(strings.TrimPrefix(r.server.URL, "http://"), "/websocket?vsn=2.0.0"+query)
	if err != nil {
		r.t.Fatal(err)
	}
	late := time.AfterFunc(90*time.Second, func() { ws.Close() }) // a test that does not end fails
	r.t.Cleanup(func() {
		late.Stop()
		ws.Close()
	})
	return &conn{t: r.t, ws: ws}
}

// message is a message of the server.
type message struct {
	JoinRef, Ref any
	Topic, Event string
	Payload      map[string]any
}

func (m message) String() string {
	p, _ := json.Marshal(m.Payload)
	return fmt.Sprintf("%s %s %s", m.Topic, m.Event, p)
}

// next returns the next message.
func (c *conn) next() message {
	c.t.Helper()
	text, err := c.ws.Text()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return parse(c.t, text)
}

func parse(t testing.TB, text []byte) (m message) {
	t.Helper()
	if err := json.Unmarshal(text, &[]any{&m.JoinRef, &m.Ref, &m.Topic, &m.Event, &m.Payload}); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

// send sends a message and returns its ref.
func (c *conn) send(topic, event, payload string) string {
	c.t.Helper()
	c.ref++
	ref := fmt.Sprint(c.ref)
	joinRef := "null"
	if event == "phx_join" {
		joinRef = `"` + ref + `"`
	}
	if err := c.ws.Send(fmt.Appendf(nil, `[%s,"%s","%s","%s",%s]`, joinRef, ref, topic, event, payload)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
	return ref
}

// push sends a message and returns the reply, and the events that came before it.
func (c *conn) push(topic, event, payload string) (status string, response map[string]any, before []message) {
	c.t.Helper()
	ref := c.send(topic, event, payload)
	for {
		m := c.next()
		if m.Event == "phx_reply" && m.Ref == ref {
			response, _ = m.Payload["response"].(map[string]any)
			return m.Payload["status"].(string), response, before
		}
		before = append(before, m)
	}
}

// ok pushes and expects success.
func (c *conn) ok(topic, event, payload string) map[string]any {
	c.t.Helper()
	status, response, _ := c.push(topic, event, payload)
	if status != "ok" {
		c.t.Fatalf("%s %s: %s %v", event, payload, status, response)
	}
	return response
}

// join joins and returns $state, and the events up to synced.
func (c *conn) join(topic, params string) (state map[string]any, events []message) {
	c.t.Helper()
	response := c.ok(topic, "phx_join", `{"$state":`+params+`}`)
	state, _ = response["$state"].(map[string]any)
	for {
		m := c.next()
		events = append(events, m)
		if m.Event == "synced" {
			return state, events
		}
	}
}

// text returns v as JSON.
func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
