package live

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/wstest"
)

// shots names a directory in which TestPage writes pictures of the page. One of them, live.png, is
// that of the guide:
//
//	go test ./live -run TestPage -shots "$PWD/shots"
var shots = flag.String("shots", "", "directory for pictures of the page")

// tab is a browser's tab with the page.
type tab struct {
	*chromium.Page
	t *testing.T

	mu    sync.Mutex
	lines []string // of its console
}

func (n *node) visit(t *testing.T, b *chromium.Browser, level string) *tab {
	p := &tab{t: t}
	p.Page = b.Open(n.url+"/login/"+level, func(line string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lines = append(p.lines, line)
	})
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.lines) > 0 {
			t.Errorf("the console of the %s's page: %q", level, p.lines)
		}
	})
	return p
}

// has is a condition: the element has the text.
func has(selector, text string) string {
	return fmt.Sprintf(`document.querySelector(%q)?.textContent.includes(%q)`, selector, text)
}

// focusOn is a condition: an element that matches has the focus.
func focusOn(selector string) string {
	return fmt.Sprintf(`document.activeElement?.matches(%q)`, selector)
}

// TestPage uses the page of a cluster of two nodes in a browser: it reads, opens a topic and acts
// by keyboard.
func TestPage(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	nodes := cluster(t, "tokyo", "paris")
	const html = `<img src=x onerror="document.title='owned'">`
	_, room := nodes[1].join("ann", "room:"+html)
	ann, tea := nodes[1].join("ann", "room:tea")
	nodes[0].join("bob", "room:tea")
	for i := range 12 {
		nodes[i%2].join(fmt.Sprint("user-", i), []string{"room:tea", "room:coffee", "room:lobby"}[i%3])
	}
	if _, err := room.Push("crash", map[string]string{"text": html}).Wait(t.Context()); err == nil {
		t.Fatal("the crash has succeeded")
	}
	stall(t, nodes[0])

	p := nodes[0].visit(t, b, "operate")
	p.Resize(1280, 1400, false)
	p.Until(has("#status", "Connected"))
	p.Until(has("#nodes", "tokyo") + " && " + has("#nodes", "paris"))
	p.Until(has("#total-connections", "16") + " && " + has("#total-crashed", "1"))
	p.Until(has("#topics", html) + " && " + has("#topics tbody tr:first-child", "room:tea"))
	p.Until(has("#crashes summary", html) + " && " + has("#crashes pre", "rig_test.go"))
	p.Until(has("#connections tbody tr:first-child td.bad", "B") + " && " + has("#connections", "ann"))
	p.Until(has("#times", "room:*") + " && " + has("#times", "join"))
	p.Until(`document.querySelector("#notice").hidden`)
	p.Run(`if (document.images.length || document.title !== "Bennu live") throw new Error("HTML was not escaped")`)

	// The keyboard opens a topic.
	p.Run(`document.querySelector("#topic-name").focus()`)
	p.Type("room:tea\n")
	p.Until(`document.querySelector("#topic").open`)
	p.Until(has("#members", "ann") + " && " + has("#members", "bob") + " && " + has("#members", "paris"))
	p.Until(has("#present", "ann") + " && " + has("#present", "<b>well</b>"))
	if _, err := tea.Push("say", map[string]string{"body": html}).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Until(has("#events", "said") + ` && document.querySelector("#events code").textContent.includes("<img")`)
	p.shoot("topic")

	// A member is removed, and the dialog asks before.
	closed := make(chan error, 1)
	tea.OnClose(func(err error) { closed <- err })
	p.Run(`document.querySelector('#members button[aria-label="Remove ann"]').focus()`)
	p.Type("\n")
	p.Until(`document.querySelector("#confirm").open && ` + focusOn("#confirm *"))
	p.Press("Escape")
	p.Until(`!document.querySelector("#confirm").open && ` + focusOn("#members button"))
	p.Type("\n")
	p.Until(`document.querySelector("#confirm").open`)
	p.Run(`document.querySelector("#confirm-reason").focus()`)
	p.Type("be nice")
	p.Press("Tab")
	p.Press("Tab")
	p.Until(focusOn("#confirm-yes"))
	p.Type("\n")
	if err := <-closed; err == nil || !strings.Contains(err.Error(), "be nice") {
		t.Errorf("kick: %v", err)
	}
	p.Until(`!document.querySelector("#confirm").open`)

	// A broadcast with a payload that is not an object is refused, and one that is arrives.
	p.Run(`document.querySelector("#broadcast-event").focus()`)
	p.Type("announced")
	p.Press("Tab")
	p.Run(`document.activeElement.value = '[1]'`)
	p.Press("Tab")
	p.Type("\n")
	p.Until(focusOn("#confirm *"))
	p.Run(`document.querySelector("#confirm-yes").click()`)
	p.Until(has("#confirm-error", "the payload must be an object"))
	p.Press("Escape")
	p.Run(`document.querySelector("#broadcast-payload").value = '{"from": "operator"}'`)
	p.Run(`document.querySelector("#broadcast").requestSubmit()`)
	p.Until(`document.querySelector("#confirm").open`)
	p.Run(`document.querySelector("#confirm-yes").click()`)
	p.Until(has("#broadcast-result", "announced was broadcast") + " && " + has("#events", "announced"))
	p.Press("Escape")
	p.Until(`!document.querySelector("#topic").open && ` + focusOn("#open-topic *"))

	// A connection is ended.
	connection := ann.Info().ConnectionID
	row := fmt.Sprintf(`document.querySelector("#connections tr[data-key='%s']")`, connection)
	p.Until(row)
	p.Run(row + `.querySelector("button").click()`)
	p.Run(`document.querySelector("#confirm-yes").click()`)
	await(t, "another connection", func() bool { return ann.Info().ConnectionID != connection })
	p.Until("!" + row)

	// A visitor who may only look sees no buttons for actions.
	viewer := nodes[1].visit(t, b, "view")
	viewer.Until(has("#status", "Connected") + " && " + has("#level", "View only") + " && " + has("#nodes", "tokyo"))
	viewer.Until(has("#connections", "bob"))
	viewer.Run(`if (document.querySelector("main .danger")) throw new Error("a viewer has buttons for actions")`)
	viewer.Run(`document.querySelector("#topics button").click()`)
	viewer.Until(has("#members", "bob") + ` && document.querySelector("#broadcast").hidden`)
	viewer.Press("Escape")

	viewer.Run(modelTest)

	// It pauses, and nothing is wider than the window.
	viewer.Run(`document.querySelector("#pause").click()`)
	viewer.Until(has("#status", "Paused"))
	for _, width := range []int{360, 768, 1280, 1920} {
		for _, scheme := range []string{"light", "dark"} {
			p.Resize(width, 1300, width < 600)
			p.Media("prefers-color-scheme", scheme)
			p.Until(`document.documentElement.scrollWidth <= innerWidth`)
			p.shoot(fmt.Sprintf("page-%d-%s", width, scheme))
		}
	}
	if *shots != "" {
		picture(t, b)
	}
}

// modelTest tests model.mjs with a clock of its own: rates, a restart, sums, and nodes that are
// silent or too many.
const modelTest = `import("./model.mjs").then(({ Cluster }) => {
	let now = 0;
	const cluster = new Cluster(() => now);
	const counts = (n) => ({ opened: n, joined: n, events: n, broadcasts: n, delivered: n, crashed: n, dropped: n });
	const summary = (id, at, n) => ({
		id, at, node: id, begun: 0, websocket: 1, longpoll: 1, channels: 2, queued: 3, mailbox: 4, watched: 1,
		counts: counts(n), largest: [{ topic: "a", subscribers: 2 }, { topic: id, subscribers: 1 }], slowest: [], times: [],
		crashes: [{ at: n }],
	});
	const want = (what, got, wanted) => {
		if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Error(what + ": " + JSON.stringify(got));
	};
	cluster.add(summary("x", 1000, 10));
	want("no rate at first", cluster.nodes()[0].rates.joined, undefined);
	cluster.add(summary("x", 3000, 30));
	want("rate", cluster.nodes()[0].rates.joined, 10);
	cluster.add(summary("x", 3000, 30)); // the same one again
	want("the same rate", cluster.nodes()[0].rates.joined, 10);
	cluster.add(summary("y", 3000, 7));
	const { connections, channels, waiting, crashed, joins } = cluster.totals();
	want("sums", [connections, channels, waiting, crashed, joins], [4, 4, 14, 37, 10]);
	const topics = cluster.topics().map((t) => [t.topic, t.subscribers, t.nodes]);
	want("topics", topics, [["a", 4, 2], ["x", 1, 1], ["y", 1, 1]]);
	want("crashes", cluster.crashes().map((c) => [c.node, c.at]), [["x", 30], ["y", 7]]);
	cluster.add(summary("x", 4000, 0)); // it has started again
	want("rate after a restart", cluster.nodes()[0].rates.joined, 0);
	now = 10000;
	cluster.add(summary("y", 5000, 7));
	want("silent", cluster.nodes().map((n) => [n.summary.id, n.silent]), [["x", true], ["y", false]]);
	want("sums without the silent", cluster.totals().connections, 2);
	now = 65000;
	cluster.add(summary("y", 6000, 7));
	want("forgotten", cluster.nodes().map((n) => n.summary.id), ["y"]);
	for (let i = 0; i < 100; i++) cluster.add(summary("many" + i, 1, 1));
	want("bound", cluster.nodes().length, 64);
	want("no advice", cluster.advice(), "");
	cluster.add({ ...summary("y", 7000, 0) });
	if (!cluster.advice().includes("Hooks")) throw new Error("no advice about missing hooks");
	for (let i = 0; i < 100; i++) cluster.record();
	want("charts", [...cluster.history.values()].map((points) => points.length), Array(8).fill(60));
})`

// picture makes the picture of the guide: the page of a busy cluster.
func picture(t *testing.T, b *chromium.Browser) {
	nodes := cluster(t, "lagos", "paris", "tokyo")
	names := []string{"lobby", "coffee", "tea", "music", "books", "chess", "garden", "films"}
	var rooms []*channel.Client
	for i := range 60 {
		room := names[min(rand.IntN(len(names)), rand.IntN(len(names)))]
		_, c := nodes[i%3].join(fmt.Sprint("user-", i+1), "room:"+room)
		rooms = append(rooms, c)
	}
	stall(t, nodes[2])
	crash := rooms[1].Push("crash", map[string]string{"text": "index out of range [3] with length 3"})
	if _, err := crash.Wait(t.Context()); err == nil {
		t.Fatal("the crash has succeeded")
	}
	p := nodes[0].visit(t, b, "operate")
	p.Resize(1280, 740, false)
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); {
		for range rand.IntN(12) {
			rooms[rand.IntN(len(rooms))].Push("say", map[string]string{"body": "hello"})
		}
		<-time.After(100 * time.Millisecond) // so that the charts have a shape
	}
	p.shoot("live")
}

// stall adds a client that does not read, so that frames wait for it.
func stall(t *testing.T, n *node) {
	c, err := wstest.Dial(n.url[len("http://"):], "/socket/websocket?vsn=2.0.0&user=slow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Send([]byte(`["1","1","room:flood","phx_join",{}]`)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Text(); err != nil {
		t.Fatal(err)
	}
	pad := map[string]string{"pad": strings.Repeat("x", 100_000)}
	for n.sockets.Stats().WebSocket.Dropped == 0 { // the kernel may still accept something
		if err := n.ps.Broadcast(context.Background(), "room:flood", "tick", pad); err != nil {
			t.Fatal(err)
		}
	}
}

// shoot writes a picture if the flag says so.
func (p *tab) shoot(name string) {
	p.t.Helper()
	if *shots == "" {
		return
	}
	if err := os.MkdirAll(*shots, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Screenshot(filepath.Join(*shots, name+".png")); err != nil {
		p.t.Fatal(err)
	}
}
