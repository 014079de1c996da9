package live

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/serializer"
	"bennu.example/socket"
)

func TestNewHandlerNeedsAuthorize(t *testing.T) {
	t.Parallel()
	ps := pubsub.New(nil)
	for name, cfg := range map[string]Config{
		"Authorize": {PubSub: ps},
		"PubSub":    {Authorize: authorize},
		"Presence":  {PubSub: ps, Authorize: authorize, Presences: []*presence.Presence{nil}},
	} {
		if h, err := NewHandler(cfg); h != nil || err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v, %v", name, h, err)
		}
	}
}

// TestEverythingNeedsPermission checks that a visitor without a level gets nothing, and that the
// policy of the page's answers is strict.
func TestEverythingNeedsPermission(t *testing.T) {
	t.Parallel()
	n := serve(t, nil, nil)
	const websocketPath = "socket/websocket?vsn=2.0.0"
	for path, want := range map[string]int{
		"": 200, "index.html": 200, "live.css": 200, "live.mjs": 200, "js/socket.mjs": 200, "nothing": 404, "js/nothing": 404,
		"socket/nothing": 404, websocketPath: 400 /* no handshake */, "socket/longpoll?vsn=2.0.0": 200,
	} {
		for level, want := range map[string]int{"": 403, "none": 403, "view": want, "operate": want} {
			r, err := http.NewRequest(http.MethodGet, n.url+"/admin/live/"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Level", level)
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != want {
				t.Errorf("%q as %q: %d, %v, want %d: %.100s", path, level, res.StatusCode, err, want, body)
			}
			for _, source := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} {
				if policy := res.Header.Get("Content-Security-Policy"); !strings.Contains(policy, source) {
					t.Errorf("%q has the policy %q, without %s", path, policy, source)
				}
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestMethods(t *testing.T) {
	t.Parallel()
	n := serve(t, nil, nil)
	r, err := http.NewRequest(http.MethodPost, n.url+"/admin/live/", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Level", "operate")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

// TestOnlySameOriginConnects checks that a page of another origin, even of another port, cannot use
// a visitor's permission.
func TestOnlySameOriginConnects(t *testing.T) {
	t.Parallel()
	n := serve(t, nil, nil)
	for origin, want := range map[string]bool{
		n.url: true, "http://example.com": false, "http://127.0.0.1:1": false,
		strings.Replace(n.url, "http:", "https:", 1): false, "null": false,
	} {
		client, err := socket.Dial(t.Context(), n.url+"/admin/live/socket",
			&socket.ClientConfig{Header: http.Header{"X-Level": {"operate"}, "Origin": {origin}}})
		if (err == nil) != want {
			t.Errorf("origin %s: %v", origin, err)
		}
		if client != nil {
			client.Close(context.Background())
		}
	}
}

// TestSummary checks what the page shows of a node with a few clients.
func TestSummary(t *testing.T) {
	t.Parallel()
	n := serve(t, nil, nil)
	const html = `<img src=x onerror="alert(1)">`
	_, first := n.join("ann", "room:"+html)
	n.join("bob", "room:tea")
	n.join("eve", "room:tea")
	if _, err := first.Push("crash", map[string]string{"text": html}).Wait(t.Context()); err == nil {
		t.Fatal("the crash has succeeded")
	}
	if err := n.ps.Broadcast(t.Context(), "room:tea", "said", nil); err != nil {
		t.Fatal(err)
	}
	p := n.open("view")
	if p.greeting.Operate || !p.greeting.Events || p.greeting.ID != n.page.id {
		t.Errorf("greeting: %+v", p.greeting)
	}
	s := until(t, p.summaries, "the summary", func(s *summary) bool { return len(s.Crashes) == 1 && s.Channels == 3 })
	if s.Node != "this node" || s.WebSocket != 3 || s.LongPoll != 0 || s.Watched != 1 || !s.Engine.Connected {
		t.Errorf("summary: %+v", s)
	}
	if want := []topicRow{{"room:tea", 2}, {"room:" + html, 1}}; !slices.Equal(s.Largest, want) {
		t.Errorf("topics %+v, want %+v", s.Largest, want)
	}
	if len(s.Slowest) != 3 || s.Slowest[0].Connection == "" || s.Slowest[0].Begun == 0 || s.Slowest[0].Channels != 1 {
		t.Errorf("connections: %+v", s.Slowest)
	}
	c := s.Crashes[0]
	if c.Route != "room:*" || c.Topic != "room:"+html || !strings.Contains(c.Err, html) ||
		!strings.Contains(c.Stack, "rig_test.go") || strings.Contains(c.Stack, "debug.Stack") {
		t.Errorf("crash: %+v", c)
	}
	for name, least := range map[string]uint64{
		"opened": 3, "joined": 4, "crashed": 1, "events": 1, "broadcasts": 1, "delivered": 2,
	} {
		if s.Counts[name] < least {
			t.Errorf("%s: %d", name, s.Counts[name])
		}
	}
	if !slices.ContainsFunc(s.Times, func(r timeRow) bool {
		return r.Route == "room:*" && r.Kind == "join" && r.Count >= 3 && r.Median > 0 && r.Median <= r.P99 && r.P99 <= r.Max
	}) {
		t.Errorf("times: %+v", s.Times)
	}
}

// TestCluster has a page on one node that shows both, and checks that the nodes tell nothing when
// no page is open.
func TestCluster(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b")
	nodes[1].join("ann", "room:tea")
	asked := make(calls, 1000)
	defer nodes[1].ps.Control().Subscribe(topicAsk, asked).Cancel()
	if n := nodes[0].ps.Control().Subscribers(topicAnswer); n != 0 {
		t.Errorf("%d subscriptions to answers without a page", n)
	}

	p := nodes[0].open("view")
	for i, channels := range []int{0, 1} {
		until(t, p.summaries, nodes[i].ps.Node(), func(s *summary) bool {
			return s.ID == nodes[i].page.id && s.Channels == channels && strings.HasPrefix(s.Node, nodes[i].ps.Node())
		})
	}
	p.look("room:tea")
	l := until(t, p.members, "the member on the other node", func(l *memberList) bool { return l.Total == 1 })
	if l.ID != nodes[1].page.id || l.Members[0].ID != "ann" || l.Members[0].Begun == 0 || l.Topic != "room:tea" {
		t.Errorf("members: %+v", l)
	}
	v := until(t, p.views, "the presence", func(v *topicView) bool { return v.Count == 1 })
	if v.Present[0].Key != "ann" || v.Present[0].Metas != 1 || !strings.Contains(v.Present[0].Entry, "<b>well</b>") {
		t.Errorf("present: %+v", v.Present)
	}

	p.client.Close(context.Background())
	await(t, "the page's end", func() bool { return nodes[0].ps.Control().Subscribers(topicAnswer) == 0 })
	for len(asked) > 0 {
		<-asked
	}
	<-time.After(5 * often) // nothing happens: there is no event to wait for
	if len(asked) > 0 {
		t.Errorf("%d questions without a page", len(asked))
	}
}

// calls is a subscriber that counts its deliveries.
type calls chan struct{}

func (c calls) Deliver(*pubsub.Broadcast) error {
	select {
	case c <- struct{}{}:
	default:
	}
	return nil
}

// TestMalformedAnswersAreIgnored sends what no node of this version sends.
func TestMalformedAnswersAreIgnored(t *testing.T) {
	t.Parallel()
	n := serve(t, nil, nil)
	p := n.open("view")
	until(t, p.summaries, "a summary", func(*summary) bool { return true })
	send := func(topic, event string, payload any) {
		t.Helper()
		if err := n.ps.Control().Broadcast(t.Context(), topic, event, payload); err != nil {
			t.Fatal(err)
		}
	}
	for _, event := range []string{eventSummary, eventMembers, eventDisconnect, "unknown"} {
		for _, payload := range []any{
			nil, 1, "x", []int{1}, map[string]any{"version": "x"}, map[string]any{"version": version + 1, "id": "later"},
			map[string]any{"version": version, "id": ""}, map[string]any{"version": version, "id": "later", "largest": 7},
			map[string]any{"version": version, "id": strings.Repeat("later", maxMessage)},
		} {
			send(topicAnswer, event, payload)
			send(topicAsk, event, payload)
		}
	}
	// A summary beyond the bounds is cut off.
	big := summary{Version: version, ID: "big", Node: strings.Repeat("n", 1000)}
	big.Counts = map[string]uint64{"opened": 1, "?": 2}
	for i := range 2 * maxRows {
		big.Largest = append(big.Largest, topicRow{strings.Repeat("x", 1000), i})
	}
	send(topicAnswer, eventSummary, big)
	s := until(t, p.summaries, "the big summary", func(s *summary) bool {
		if s.ID != "big" && s.ID != n.page.id {
			t.Errorf("a malformed summary arrived: %+v", s)
		}
		return s.ID == "big"
	})
	if len(s.Largest) != maxRows || len(s.Largest[0].Topic) > maxName+10 || len(s.Node) > maxName+10 {
		t.Errorf("%d topics of %d bytes, node of %d bytes", len(s.Largest), len(s.Largest[0].Topic), len(s.Node))
	}
	if _, found := s.Counts["?"]; found {
		t.Error("an unknown counter arrived")
	}

	// Of too many nodes, those that are known stay.
	for i := range 2 * maxNodes {
		send(topicAnswer, eventSummary, summary{Version: version, ID: fmt.Sprint("many-", i)})
	}
	send(topicAnswer, eventSummary, summary{Version: version, ID: "big", Node: "end"})
	others := map[string]bool{}
	until(t, p.summaries, "the end", func(s *summary) bool {
		others[s.ID] = true
		return s.Node == "end"
	})
	if len(others) > maxNodes {
		t.Errorf("summaries of %d nodes", len(others))
	}
}

// TestActions checks every action on another node than the page's, and that a visitor who may only
// look cannot act.
func TestActions(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, "a", "b")
	ann, room := nodes[1].join("ann", "room:tea")
	said := make(chan string, 10)
	room.On("said", func(p serializer.Payload) { json, _ := p.JSON(); said <- string(json) })
	closed := make(chan error, 10)
	room.OnClose(func(err error) { closed <- err })
	lost := make(chan error, 10)
	ann.OnState(func(s socket.State) {
		if s.Status == socket.StatusWaiting {
			lost <- s.Cause
		}
	})
	connection := ann.Info().ConnectionID
	actions := []struct {
		event   string
		payload map[string]any
	}{
		{"broadcast", map[string]any{"topic": "room:tea", "event": "said", "payload": map[string]any{"body": "hi"}}},
		{"kick", map[string]any{"topic": "room:tea", "connection": connection, "reason": "be nice"}},
		{"disconnect", map[string]any{"connection": connection}},
	}
	viewer := nodes[0].open("view")
	for _, a := range actions {
		if err := viewer.act(a.event, a.payload); err == nil || !strings.Contains(err.Error(), "you may only look") {
			t.Errorf("%s by a viewer: %v", a.event, err)
		}
	}
	operator := nodes[0].open("operate")
	if !operator.greeting.Operate {
		t.Errorf("greeting: %+v", operator.greeting)
	}
	for _, bad := range []struct {
		event   string
		payload map[string]any
	}{
		{"broadcast", map[string]any{"topic": "room:tea", "event": "phx_close"}},
		{"broadcast", map[string]any{"topic": "room:tea", "event": "presence_diff"}},
		{"broadcast", map[string]any{"topic": "room:tea", "event": "$pos"}},
		{"broadcast", map[string]any{"topic": "room:tea", "event": "chan_reply_1"}},
		{"broadcast", map[string]any{"topic": "room:tea", "event": ""}},
		{"broadcast", map[string]any{"topic": "room:tea", "event": "said", "payload": []int{1}}},
		{"kick", map[string]any{"topic": "room:tea"}},
		{"disconnect", map[string]any{}},
	} {
		if err := operator.act(bad.event, bad.payload); err == nil {
			t.Errorf("%s %v succeeded", bad.event, bad.payload)
		}
	}
	if len(said)+len(closed)+len(lost) > 0 {
		t.Fatal("a refused action had an effect")
	}
	effects := map[string]func(){ // each is awaited: a connection that ends may overtake a kick
		"broadcast": func() {
			if got := <-said; got != `{"body":"hi"}` {
				t.Errorf("broadcast: %s", got)
			}
		},
		"kick": func() {
			if err := <-closed; err == nil || !strings.Contains(err.Error(), "be nice") {
				t.Errorf("kick: %v", err)
			}
		},
		"disconnect": func() {
			if err := <-lost; err == nil || !strings.Contains(err.Error(), "1001") {
				t.Errorf("disconnect: %v", err)
			}
		},
	}
	for _, a := range actions {
		if err := operator.act(a.event, a.payload); err != nil {
			t.Errorf("%s: %v", a.event, err)
		}
		effects[a.event]()
	}
	for _, a := range actions {
		if log := nodes[0].log.String(); !strings.Contains(log, `"action":"`+a.event+`"`) {
			t.Errorf("%s is not in the log: %s", a.event, log)
		}
	}
}

// TestKickNeedsAHandler checks the error of a page that watches no handler.
func TestKickNeedsAHandler(t *testing.T) {
	t.Parallel()
	n := serve(t, nil, nil)
	n.page.mu.Lock()
	n.page.sockets = nil
	n.page.mu.Unlock()
	p := n.open("operate")
	err := p.act("kick", map[string]any{"topic": "room:tea", "connection": "x"})
	if err == nil || !strings.Contains(err.Error(), errNotWatched.Error()) {
		t.Error(err)
	}
}

// TestAuthorizeDecidesAgain checks that the connection of a page is ended from time to time, and
// that a visitor whose permission was withdrawn does not come back.
func TestAuthorizeDecidesAgain(t *testing.T) {
	t.Parallel()
	var forbidden atomic.Bool
	ps := pubsub.New(nil)
	page, err := newHandler(Config{PubSub: ps, Authorize: func(*http.Request) Level {
		if forbidden.Load() {
			return None
		}
		return View
	}}, often, 3*often)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(page)
	defer server.Close()
	defer page.Shutdown(context.Background())
	client, err := socket.Dial(t.Context(), server.URL+"/socket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	opened, denied := make(chan bool, 1000), make(chan bool, 1000)
	client.OnState(func(s socket.State) {
		switch s.Status {
		case socket.StatusConnected:
			opened <- true
		case socket.StatusDenied:
			denied <- true
		}
	})
	client.Channel(topicLive, nil).Join()
	<-opened
	<-opened // again
	forbidden.Store(true)
	<-denied
}

// TestEngineIsDown checks that a page shows its own node when the engine does not work, and that it
// says so.
func TestEngineIsDown(t *testing.T) {
	t.Parallel()
	engine := pubsubtest.NewCluster().Node("alone") // that does not run
	n := serve(t, pubsub.New(engine), nil)
	n.join("ann", "room:tea")
	p := n.open("operate")
	for range 3 {
		s := until(t, p.summaries, "a summary", func(s *summary) bool { return s.Channels == 1 })
		if s.Engine.Connected {
			t.Errorf("engine: %+v", s.Engine)
		}
	}
	p.look("room:tea")
	until(t, p.members, "the member", func(l *memberList) bool { return l.Total == 1 })
	if n := n.page.own.Stats().Crashes; n != 0 {
		t.Errorf("%d crashes of the page", n)
	}
}
