//go:build !race

package room

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/internal/testenv/chromium"
	"bennu.example/pubsub"
)

// say broadcasts the numbered messages from first to last to a room.
func say(t *testing.T, ps *pubsub.PubSub, topic string, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		m := message{ID: fmt.Sprint(i), User: "bob", Body: fmt.Sprint(i)}
		if err := ps.Broadcast(t.Context(), topic, "new_msg", m); err != nil {
			t.Fatal(err)
		}
	}
}

// showsAll returns the condition that the page shows these numbered messages, each once and in
// order, and says nothing of missing ones.
func showsAll(first, last int) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages > li")].map((item) =>
		item.querySelector(".body")?.textContent).join() ===
		Array.from({ length: %d }, (_, i) => i + %d).join()`, last-first+1, first)
}

const gaps = `document.querySelectorAll("#messages > .gap").length`

// TestOfflineTab checks that a tab that was offline receives all that it missed, which is more than
// the reply to a new join contains.
func TestOfflineTab(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	for _, transport := range []string{"websocket", "longpoll"} {
		t.Run(transport, func(t *testing.T) {
			ps := recorded()
			c := startWith(t, "127.0.0.1:0", ps)
			p := newProxy(t, c.addr)
			proxied := &chat{t: t, addr: p.addr}
			ann := proxied.visit(b, "tea", "ann", transport)
			last := 0
			for range 2 {
				say(t, ps, "room:tea", last+1, last+1)
				ann.Until(showsAll(1, last+1))
				p.cut()
				ann.Until(reconnecting)
				say(t, ps, "room:tea", last+2, last+maxMessages+10)
				last += maxMessages + 10
				p.restore()
				ann.Until(showsAll(1, last))
			}
		})
	}
}

// TestUnsentMessageOfOfflineTab checks that a message that the server has received, without the tab
// knowing it, is shown once when the tab is back, and at its place.
func TestUnsentMessageOfOfflineTab(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	ps := recorded()
	c := startWith(t, "127.0.0.1:0", ps)
	p := newProxy(t, c.addr)
	proxied := &chat{t: t, addr: p.addr}
	ann, bob := proxied.visit(b, "tea", "ann", "websocket"), c.visit(b, "tea", "bob", "websocket")
	p.drop(false)
	ann.Type("hello\n")
	bob.Until(shows("ann", "hello"))
	ann.Until(`document.querySelector("[data-pending=waiting] .why").textContent === "Sending …"`)
	say(t, ps, "room:tea", 1, 2)
	p.cut()
	ann.Until(reconnecting)
	p.restore()
	ann.Until(`document.querySelector("#messages").textContent.includes("2")`)
	ann.Until(`[...document.querySelectorAll("#messages > li:not([data-pending]) > .body")].
		map((body) => body.textContent).join() === "hello,1,2"`)
	batch, err := ps.Before(t.Context(), "room:tea", history.Position{}, 10)
	if err != nil || len(batch.Records) != 3 {
		t.Errorf("there are %d messages, %v", len(batch.Records), err)
	}
}

// TestReload checks that a tab that is loaded again keeps its messages and receives what was sent
// meanwhile, and that one that has left the room begins anew.
func TestReload(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	ps := recorded()
	c := startWith(t, "127.0.0.1:0", ps)
	ann := c.visit(b, "tea", "ann", "websocket")
	const before = maxMessages + 20
	say(t, ps, "room:tea", 1, before)
	ann.Until(showsAll(1, before))
	ann.Run(`location.reload()`)
	ann.Until(showsAll(1, before) + " && " + connected)

	ann.Run(`location.href = "about:blank"`)
	ann.Until(`location.href === "about:blank"`)
	say(t, ps, "room:tea", before+1, 2*before)
	ann.Run(fmt.Sprintf(`location.href = "http://%s/?room=tea"`, c.addr))
	ann.Until(showsAll(1, 2*before) + " && " + connected)

	ann.Run(`document.querySelector("#leave").click()`)
	ann.Until(`!document.querySelector("#entry").hidden`)
	ann.Run(`document.querySelector("#enter").requestSubmit()`)
	ann.Until(connected)
	ann.Until(showsAll(2*before-maxMessages+1, 2*before))
}

// durable returns a PubSub that keeps the messages in a file, and a function that closes it.
func durable(t *testing.T, path string) (ps *pubsub.PubSub, end func()) {
	t.Helper()
	engine, err := boltengine.New(boltengine.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ps = pubsub.NewRecorded(engine.Adapter(), engine.History(), Rules())
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ps.Run(ctx) }()
	for !ps.LogHealth().Connected {
		runtime.Gosched()
	}
	return ps, sync.OnceFunc(func() {
		stop()
		if err := errors.Join(<-ended, engine.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestRestartWithData checks that a page goes on after a restart of a server that keeps its
// messages in a file.
func TestRestartWithData(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	path := filepath.Join(t.TempDir(), "rooms.db")
	ps, end := durable(t, path)
	t.Cleanup(end)
	c := startWith(t, "127.0.0.1:0", ps)
	ann := c.visit(b, "tea", "ann", "websocket")
	const before = maxMessages + 10
	say(t, ps, "room:tea", 1, before)
	ann.Until(showsAll(1, before))
	c.stop()
	end()
	ann.Until(reconnecting)

	ps, end = durable(t, path)
	t.Cleanup(end)
	say(t, ps, "room:tea", before+1, 2*before) // before the page is back
	startWith(t, c.addr, ps)
	ann.Until(connected)
	ann.Until(showsAll(1, 2*before))
}

// TestGapIsShown checks that the page tells where messages may be missing, and only there.
func TestGapIsShown(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	ps := recorded()
	c := startWith(t, "127.0.0.1:0", ps)
	p := newProxy(t, c.addr)
	proxied := &chat{t: t, addr: p.addr}
	ann := proxied.visit(b, "tea", "ann", "websocket")
	say(t, ps, "room:tea", 1, 2)
	ann.Until(showsAll(1, 2))

	// The history is lost twice, without a message between.
	for range 2 {
		p.cut()
		ann.Until(reconnecting)
		if err := ps.Forget(t.Context(), "room:tea"); err != nil {
			t.Fatal(err)
		}
		p.restore()
		ann.Until(connected)
		ann.Until(gaps + ` === 1`)
	}
	say(t, ps, "room:tea", 3, 3)
	ann.Until(`[...document.querySelectorAll("#messages > li")].map((item) =>
		item.querySelector(".body")?.textContent ?? "gap").join() === "1,2,gap,3"`)

	// More is missed than the room keeps.
	p.cut()
	ann.Until(reconnecting)
	kept := Rules()["room:*"].Count
	say(t, ps, "room:tea", 4, 4+kept)
	p.restore()
	ann.Until(gaps + ` === 2`)
	ann.Until(fmt.Sprintf(`document.querySelectorAll("#messages > [id]").length === %d`, 3+maxMessages))
	ann.Until(fmt.Sprintf(`document.querySelector("#messages > li:last-child > .body").textContent === "%d"`, 4+kept))
}

// TestInvalidPosition checks that a page whose position the server cannot read begins anew.
func TestInvalidPosition(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	ps := recorded()
	c := startWith(t, "127.0.0.1:0", ps)
	say(t, ps, "room:tea", 1, 1)
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Run(`location.href = "about:blank"`)
	ann.Until(`location.href === "about:blank"`)
	ann.Run(fmt.Sprintf(`location.href = "http://%s/icon.svg"`, c.addr))
	ann.Until(`location.pathname === "/icon.svg"`)
	ann.Run(`sessionStorage.setItem("room:tea", '{"at":"not a position","messages":[]}')`)
	ann.Run(fmt.Sprintf(`location.href = "http://%s/?room=tea"`, c.addr))
	ann.Until(connected)
	ann.Until(showsAll(1, 1))
}
