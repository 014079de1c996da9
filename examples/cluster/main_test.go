package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/testenv/chromium"
	"bennu.example/presence"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// maxWait bounds every wait. It only expires when a test fails.
const maxWait = 2 * time.Minute

// start runs two nodes until the test ends or end is called, and returns their addresses.
func start(t *testing.T) (addrs map[string]string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, out := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := run(ctx, []string{"127.0.0.1:0", "127.0.0.1:0"}, out, t.Output()); err != nil {
			t.Errorf("it ended with %v", err)
		}
		out.Close()
	}()
	end = func() {
		cancel()
		<-ended
	}
	t.Cleanup(end)
	output := bufio.NewScanner(in)
	addrs = make(map[string]string)
	for output.Scan() && output.Text() != "(Ctrl-C ends it)" {
		m := regexp.MustCompile(`^Chat is open at http://(\S+)/ on node (\S+)$`).FindStringSubmatch(output.Text())
		if m == nil {
			t.Fatalf("unexpected output %q", output.Text())
		}
		addrs[m[2]] = m[1]
	}
	if len(addrs) != 2 || addrs["A"] == "" || addrs["B"] == "" {
		t.Fatalf("there are nodes at %v", addrs)
	}
	return addrs, end
}

// member is a client in a room.
type member struct {
	t        *testing.T
	socket   *socket.Client
	room     *channel.Client
	who      *presence.Client
	node     string
	messages []string // in the reply to the join
	received chan string
	came     chan string
}

func join(t *testing.T, addr, user string, by socket.ClientTransport) *member {
	t.Helper()
	return joinAt(t, addr, user, by, channel.ResumeConfig{})
}

// joinAt is join after a position.
func joinAt(t *testing.T, addr, user string, by socket.ClientTransport, resume channel.ResumeConfig) *member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{}}
	s, err := socket.Dial(ctx, "http://"+addr+"/socket", &socket.ClientConfig{Transport: by, HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, socket: s, received: make(chan string, 1000), came: make(chan string, 1000)}
	t.Cleanup(func() {
		_ = s.Close(context.Background())
		client.CloseIdleConnections()
	})
	m.room = s.Channel("room:tea", map[string]string{"user": user})
	m.room.Resume(resume)
	m.room.On("new_msg", func(p serializer.Payload) {
		var msg struct{ User, Body string }
		if err := p.Decode(&msg); err != nil {
			t.Error(err)
		}
		m.received <- msg.User + ": " + msg.Body
	})
	m.who = presence.NewClient(m.room, nil)
	m.who.OnJoin(func(key string, _, _ presence.Entry) { m.came <- key })
	reply, err := m.room.Join().Wait(ctx)
	for isUnavailable(err) {
		_, _ = m.room.Leave().Wait(ctx) // which ends its own attempts
		reply, err = m.room.Join().Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	var welcome struct {
		Node     string
		Messages []struct{ Body string }
	}
	if err := reply.Decode(&welcome); err != nil {
		t.Fatal(err)
	}
	m.node = welcome.Node
	for _, msg := range welcome.Messages {
		m.messages = append(m.messages, msg.Body)
	}
	return m
}

// isUnavailable reports whether a node has refused something because it did not have the history,
// as at its start if it is slow. Nothing is stored then, and a client may try again.
func isUnavailable(err error) bool {
	refused, ok := errors.AsType[*push.Error](err)
	return ok && refused.Reason() == "history unavailable"
}

// until waits for a text.
func until(t *testing.T, texts <-chan string, want string) {
	t.Helper()
	timeout := time.After(maxWait)
	var others []string
	for {
		select {
		case got := <-texts:
			if got == want {
				return
			}
			others = append(others, got)
		case <-timeout:
			t.Fatalf("no %q, only %q", want, others)
		}
	}
}

// meet waits until two members receive each other's messages. It repeats the messages, because a
// subscription takes a moment to reach the other nodes.
func meet(t *testing.T, a, b *member) {
	t.Helper()
	for _, pair := range [][2]*member{{a, b}, {b, a}} {
		met := false
		for timeout := time.After(maxWait); !met; {
			pair[0].room.Push("new_msg", map[string]string{"body": "hello"})
			select {
			case <-pair[1].received:
				met = true
			case <-time.After(50 * time.Millisecond):
			case <-timeout:
				t.Fatal("members do not receive each other's messages")
			}
		}
	}
}

func TestTalkAcrossNodes(t *testing.T) {
	t.Parallel()
	addrs, end := start(t)
	ann := join(t, addrs["A"], "ann", socket.TransportWebSocket)
	bob := join(t, addrs["B"], "bob", socket.TransportLongPoll)
	if ann.node != "A" || bob.node != "B" {
		t.Errorf("ann is on node %q and bob on %q", ann.node, bob.node)
	}
	until(t, ann.came, "bob")
	until(t, bob.came, "ann")
	meet(t, ann, bob)
	for i := range 20 {
		speaker, listener, name := ann, bob, "ann"
		if i%2 > 0 {
			speaker, listener, name = bob, ann, "bob"
		}
		if _, err := speaker.room.Push("new_msg", map[string]string{"body": fmt.Sprint(i)}).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		until(t, listener.received, fmt.Sprintf("%s: %d", name, i))
	}
	left := make(chan string, 10)
	ann.who.OnLeave(func(key string, _, _ presence.Entry) { left <- key })
	bob.room.Leave()
	until(t, left, "bob")

	// Ctrl-C shuts down gracefully and stops all goroutines.
	begun := time.Now()
	end()
	if d := time.Since(begun); d > 8*time.Second {
		t.Errorf("it took %v to end", d)
	}
}

// TestHistoryAcrossNodes checks that a client goes on at another node, and that a new one receives
// what was sent on all of them.
func TestHistoryAcrossNodes(t *testing.T) {
	t.Parallel()
	addrs, _ := start(t)
	ann := join(t, addrs["A"], "ann", socket.TransportWebSocket)
	bob := join(t, addrs["B"], "bob", socket.TransportWebSocket)
	say := func(m *member, body string) {
		t.Helper()
		for start := time.Now(); ; {
			_, err := m.room.Push("new_msg", map[string]string{"body": body}).Wait(t.Context())
			if isUnavailable(err) && time.Since(start) < maxWait {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	say(ann, "1")
	until(t, bob.received, "ann: 1")
	position := bob.room.Position()
	if err := bob.socket.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eve := join(t, addrs["B"], "eve", socket.TransportLongPoll)
	say(ann, "2")
	say(eve, "3")
	say(ann, "4")

	var why []string
	back := joinAt(t, addrs["A"], "bob", socket.TransportWebSocket, channel.ResumeConfig{
		Since:   position,
		OnReset: func(_ serializer.Payload, reason string) { why = append(why, reason) },
	})
	for _, want := range []string{"ann: 2", "eve: 3", "ann: 4"} {
		if got := <-back.received; got != want {
			t.Errorf("received %q, want %q", got, want)
		}
	}
	if len(why) > 0 {
		t.Errorf("not recovered: %q", why)
	}
	// The node B may yet have to read the last message: then it follows the reply.
	carl := join(t, addrs["B"], "carl", socket.TransportWebSocket)
	for len(carl.messages) < 4 {
		carl.messages = append(carl.messages, strings.TrimLeft(<-carl.received, "anev: "))
	}
	if got := strings.Join(carl.messages, " "); got != "1 2 3 4" {
		t.Errorf("a new client has the messages %q", got)
	}
}

// TestLongPollAcrossNodes checks that the requests of a long-polling session may go to different
// nodes.
func TestLongPollAcrossNodes(t *testing.T) {
	t.Parallel()
	addrs, _ := start(t)
	ann := join(t, addrs["A"], "ann", socket.TransportWebSocket)
	eve := join(t, addrs["B"], "eve", socket.TransportWebSocket)
	until(t, ann.came, "eve") // the nodes receive each other's messages
	until(t, eve.came, "ann")
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	do := func(node, method, token, body string) string {
		t.Helper()
		url := "http://" + addrs[node] + "/socket/longpoll?vsn=2.0.0&token=" + token
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-ndjson")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	opened := do("A", "GET", "", "")
	m := regexp.MustCompile(`^{"status":410,"token":"([^"]+)"`).FindStringSubmatch(opened)
	if m == nil {
		t.Fatalf("no session: %s", opened)
	}
	token := m[1]
	large := strings.Repeat("x", 1000)
	if got := do("B", "POST", token, `["1","1","room:tea","phx_join",{"user":"bob"}]`); got != `{"status":200}` {
		t.Fatalf("join: %s", got)
	}
	got := ""
	for i := 0; !strings.Contains(got, "presence_state"); i++ {
		answer := do([]string{"B", "A"}[i%2], "GET", token, "")
		if !strings.HasPrefix(answer, `{"status":20`) {
			t.Fatalf("poll: %s", answer)
		}
		got += answer
	}
	if !strings.Contains(got, `\"node\":\"A\"`) {
		t.Errorf("bob gets %s", got)
	}
	var lines []string
	for i := range 90 {
		lines = append(lines, fmt.Sprintf(`["1","%d","room:tea","new_msg",{"body":"%d %s"}]`, i+2, i, large[:900]))
	}
	if got := do("B", "POST", token, strings.Join(lines, "\n")); got != `{"status":200}` {
		t.Fatalf("post: %s", got)
	}
	for i := range lines {
		until(t, ann.received, fmt.Sprintf("bob: %d %s", i, large[:900]))
	}
	got = ""
	for i := 0; strings.Count(got, `\"phx_reply\"`) < len(lines); i++ {
		answer := do([]string{"B", "A"}[i%2], "GET", token, "")
		if !strings.HasPrefix(answer, `{"status":200`) {
			t.Fatalf("poll: %.200s", answer)
		}
		got += answer
	}
}

// TestPageShowsNodeName checks that the page shows the name of its node.
func TestPageShowsNodeName(t *testing.T) {
	t.Parallel()
	addrs, _ := start(t)
	b := chromium.Start(t)
	pages := map[string]*chromium.Page{}
	for node, addr := range addrs {
		p := b.Open("http://"+addr+"/?room=tea", func(line string) { t.Logf("%s: %s", node, line) })
		p.Until(`document.activeElement === document.querySelector("#user")`)
		p.Until(`document.querySelector("#enter").onsubmit`)
		p.Run(`document.querySelector("#user").select()`)
		p.Type("user of " + node + "\n")
		p.Run(`document.querySelector("#panel").open = true`)
		p.Until(fmt.Sprintf(`document.querySelector("#node").textContent === %q`, node))
		p.Until(`document.querySelector("#node").getBoundingClientRect().width > 0`)
		p.Until(`document.activeElement === document.querySelector("#body")`)
		pages[node] = p
	}
	both := `[...document.querySelectorAll("#users > li")].length === 2`
	pages["A"].Until(both)
	pages["B"].Until(both)
	pages["A"].Type("hello from A\n")
	pages["B"].Until(`[...document.querySelectorAll("#messages .body")].
		some((body) => body.textContent === "hello from A")`)
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	addrs, _ := start(t)
	err := run(t.Context(), []string{"127.0.0.1:0", addrs["A"]}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), addrs["A"]) || !strings.Contains(err.Error(), "-addrs") {
		t.Errorf("it says %v", err)
	}
}
