package room

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"bennu.example/internal/testenv/chromium"
	"bennu.example/socket"
)

// visit opens a tab, enters a name and joins the room with the keyboard.
func (c *chat) visit(b *chromium.Browser, room, user, transport string) *chromium.Page {
	c.t.Helper()
	url := fmt.Sprintf("http://%s/?room=%s&transport=%s", c.addr, room, transport)
	p := b.Open(url, func(line string) { c.t.Logf("%s: %s", user, line) })
	p.Until(formReady)
	p.Run(`document.querySelector("#user").select()`)
	p.Type(user + "\n")
	p.Until(connected)
	p.Until(`document.activeElement === document.querySelector("#body")`)
	return p
}

// Conditions to wait for on a page.
const (
	formReady = `document.activeElement === document.querySelector("#user") &&
		document.querySelector("#enter").onsubmit`
	connected    = `document.querySelector("#state").textContent === "Connected"`
	reconnecting = `document.querySelector("#state").textContent === "Reconnecting" &&
		document.querySelector("#connection").dataset.state === "off"`
)

// shows returns the condition that the page shows a sent message exactly once.
func shows(user, body string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages > [id]:not([data-pending])")].filter((item) =>
		item.querySelector(".user").textContent === %q &&
		item.querySelector(".body").textContent === %q).length === 1`, user, body)
}

// here returns the condition that the page lists these present users.
func here(users string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#users > li")].
		map((item) => item.textContent).join(", ") === %q`, users)
}

func TestTwoTabs(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	for _, transport := range []string{"websocket", "longpoll"} {
		t.Run(transport, func(t *testing.T) {
			c := start(t, "127.0.0.1:0")
			ann := c.visit(b, "tea", "ann", transport)
			bob := c.visit(b, "tea", "bob", transport)
			ann.Until(here("ann (you), bob"))
			bob.Until(here("ann, bob (you)"))
			second := c.visit(b, "tea", "bob", transport)
			ann.Until(here("ann (you), bob · 2 devices"))
			second.Run(`document.querySelector("#leave").click()`)
			ann.Until(here("ann (you), bob"))

			bob.Type("hello <b>ann</b> & all")
			ann.Until(`document.querySelector("#typing").textContent === "bob is typing …"`)
			bob.Type("\n")
			ann.Until(shows("bob", "hello <b>ann</b> & all"))
			ann.Until(`document.querySelector("#typing").textContent === ""`)
			bob.Until(shows("You", "hello <b>ann</b> & all"))
			bob.Until(`document.querySelector("#messages > .own time").textContent !== ""`)
			bob.Until(`document.querySelector("#body").value === ""`)

			// A user who joins later receives earlier messages.
			carl := c.visit(b, "tea", "carl", transport)
			carl.Until(shows("bob", "hello <b>ann</b> & all"))

			// A reload joins the same room, which is in the page's address. A tab that leaves is
			// removed from the list immediately.
			carl.Run(`location.reload()`)
			carl.Until(connected)
			carl.Until(`new URL(location.href).searchParams.get("room") === "tea"`)
			bob.Until(here("ann, bob (you), carl"))
			carl.Run(`document.querySelector("#leave").click()`)
			carl.Until(`!document.querySelector("#entry").hidden && document.querySelector("#room").hidden`)
			bob.Until(here("ann, bob (you)"))
			ann.Run(`location.href = "about:blank"`)
			bob.Until(here("bob (you)"))
		})
	}
}

// TestSameName checks that the page recognizes its own messages by their presence ref, and not by
// the user's name, which another user can choose too.
func TestSameName(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Type("it is me\n")
	ann.Until(shows("You", "it is me"))
	other, err := socket.Dial(t.Context(), "ws://"+c.addr+"/socket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	tea := other.Channel("room:tea", user("ann"))
	tea.Join()
	if _, err := tea.Push("new_msg", message{Body: "it is me, too"}).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	ann.Until(shows("ann", "it is me, too"))
	ann.Until(here("ann (you) · 2 devices"))
	ann.Run(`location.reload()`)
	ann.Until(connected)
	ann.Until(shows("You", "it is me"))
	ann.Until(shows("ann", "it is me, too"))
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	for _, transport := range []string{"websocket", "longpoll"} {
		t.Run(transport, func(t *testing.T) {
			c := start(t, "127.0.0.1:0")
			ann := c.visit(b, "tea", "ann", transport)
			bob := c.visit(b, "tea", "bob", transport)
			ann.Type("before\n")
			bob.Until(shows("ann", "before"))

			c.stop()
			ann.Until(reconnecting)
			bob.Until(reconnecting)
			ann.Until(`!document.querySelector("#now").hidden`)
			ann.Until(`/ in\s\d+\ss$/.test(document.querySelector("#countdown").textContent)`)
			ann.Type("meanwhile\n")
			ann.Until(`document.querySelector("[data-pending=waiting] .body").textContent === "meanwhile"`)

			again := start(t, c.addr)
			ann.Until(connected)
			bob.Until(connected)
			bob.Until(shows("ann", "meanwhile"))
			ann.Until(shows("You", "meanwhile"))
			ann.Until(`document.querySelector("#connection").dataset.state === "on"`)
			ann.Until(`document.querySelector("#now").hidden`)
			ann.Until(here("ann (you), bob"))

			// The button reconnects immediately.
			again.stop()
			ann.Until(`Number(document.querySelector("#countdown").textContent.match(/\d+/)) >= 2`)
			var text string
			err := ann.Eval(`document.querySelector("#now").click(), document.querySelector("#status").textContent`, &text)
			if err != nil || text != "Reconnecting …" {
				t.Errorf("a click on the button gives %q, %v", text, err)
			}
			start(t, c.addr)
			ann.Until(connected)
		})
	}
}

// TestDeadConnection checks that the page detects and replaces a connection that is open but no
// longer carries data.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	p := newProxy(t, c.addr)
	b := chromium.Start(t)
	proxied := &chat{t: t, addr: p.addr}
	ann := proxied.visit(b, "tea", "ann", "websocket")
	p.drop(true)
	ann.Type("hello\n")
	ann.Until(`document.querySelector("[data-pending=waiting] .why").textContent === "Sending …"`)
	// The browser fires this event when the network changes. Without it, the page would check the
	// connection after the timeout of the push, or by the next heartbeat.
	ann.Run(`dispatchEvent(new Event("online"))`)
	ann.Until(shows("You", "hello"))
	ann.Until(connected)
}

// proxy forwards connections to a server. It can drop the data of its present connections, and cut
// them.
type proxy struct {
	addr string

	mu       sync.Mutex
	dropping *dropping
	open     context.Context // ends with the present connections; later ones are closed at once
	cut      context.CancelFunc
}

// dropping says what is dropped on the connections that share it.
type dropping struct{ toServer, toClient atomic.Bool }

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String()}
	p.restore()
	var all sync.WaitGroup
	forward := func(ctx context.Context, from, to net.Conn, drop *atomic.Bool) {
		defer to.Close()
		defer context.AfterFunc(ctx, func() { from.Close() })()
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if !drop.Load() {
				_, _ = to.Write(buf[:n])
			}
		}
	}
	all.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			p.mu.Lock()
			open, dropping := p.open, p.dropping
			p.mu.Unlock()
			all.Go(func() { forward(open, near, far, &dropping.toServer) })
			all.Go(func() { forward(open, far, near, &dropping.toClient) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		all.Wait()
	})
	return p
}

// restore lets connections through again after cut.
func (p *proxy) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open, p.cut = context.WithCancel(context.Background())
	p.dropping = new(dropping)
}

// drop drops everything that is sent on the present connections, or only what is sent to the
// client. Later connections work.
func (p *proxy) drop(toServer bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropping.toClient.Store(true)
	p.dropping.toServer.Store(toServer)
	p.dropping = new(dropping)
}

func TestSwitchTransport(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	for _, transport := range []string{"longpoll", "websocket"} {
		ann.Run(fmt.Sprintf(`{
			const select = document.querySelector("#transport");
			select.value = %q;
			select.dispatchEvent(new Event("change"));
			document.querySelector("#body").focus();
		}`, transport))
		ann.Until(connected)
		ann.Until(fmt.Sprintf(`new URL(location.href).searchParams.get("transport") === %q`, transport))
		ann.Type("by " + transport + "\n")
		ann.Until(shows("You", "by "+transport))
		ann.Until(here("ann (you)"))
	}
}

func TestRefusedMessage(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	long := fmt.Sprintf("%0*d", maxBody+1, 1)
	ann.Run(`document.querySelector("#body").removeAttribute("maxlength")`)
	ann.Type(long + "\n")
	ann.Until(`document.querySelector("[data-pending=refused] .why").textContent ===
		"Not sent: a message can have at most 1000 characters."`)
	ann.Type("this one is fine\n")
	ann.Until(shows("You", "this one is fine"))
	ann.Until(`document.querySelectorAll("[data-pending=refused]").length === 1`)

	// It can never be accepted, so it can be edited or discarded, but not sent again.
	const buttons = `[...document.querySelectorAll("[data-pending] button")].
		filter((button) => button.checkVisibility()).map((button) => button.textContent).join()`
	ann.Until(buttons + ` === "Edit,Discard"`)
	ann.Run(`document.querySelector(".edit").click()`)
	ann.Until(`document.activeElement === document.querySelector("#body")`)
	ann.Until(`document.querySelector("#body").value.length > 1000`)
	ann.Run(`document.querySelector("#body").value = "shorter"`)
	ann.Type("\n")
	ann.Until(shows("You", "shorter"))
	ann.Type(long + "\n")
	ann.Until(`document.querySelectorAll("[data-pending=refused]").length === 1`)
	ann.Run(`document.querySelector(".discard").click()`)
	ann.Until(`document.querySelectorAll("#messages > li").length === 2`)

	// Near the limit, the page counts the characters that are left.
	ann.Run(`document.querySelector("#body").maxLength = 1000`)
	ann.Type(long[:899])
	ann.Until(`document.querySelector("#left").textContent === ""`)
	ann.Type("0")
	ann.Until(`document.querySelector("#left").textContent === "100 left"`)
	ann.Type("\n")
	ann.Until(`document.querySelector("#left").textContent === ""`)

	// After a refused join, the page shows the entry form and the reason.
	refused := b.Open("http://"+c.addr+"/?room="+fmt.Sprintf("%0*d", maxRoom+1, 1), nil)
	refused.Until(formReady)
	refused.Run(`document.querySelector("#name").removeAttribute("maxlength")`)
	refused.Type("eve\n")
	refused.Until(`document.querySelector("#problem").textContent ===
		"Cannot join: the room's name can have at most 64 characters."`)
}

// TestWindowSizes checks that the page fits the window of a small phone and a wide one.
func TestWindowSizes(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Type(fmt.Sprintf("%0300d", 0) + "\n")
	ann.Until(`document.querySelectorAll("#messages > li:not([data-pending])").length === 1`)
	fits := func(size [2]int) {
		ann.Resize(size[0], size[1], size[0] < 500)
		ann.Until(fmt.Sprintf("innerWidth === %d", size[0]))
		ann.Until(`document.documentElement.scrollWidth <= innerWidth`)
		ann.Until(`document.documentElement.scrollHeight <= innerHeight`)
		ann.Run(`document.querySelector("#panel").open = true`)
		ann.Until(`["#leave", "#state", "#transport", "#rtt", "#users", "#log", "#body", ".send"].every((selector) => {
			const box = document.querySelector(selector).getBoundingClientRect();
			return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
		})`)
	}
	sizes := [][2]int{{320, 568}, {360, 740}, {1280, 800}}
	for _, size := range sizes {
		fits(size)
	}
	c.stop()
	ann.Until(reconnecting)
	ann.Until(`!document.querySelector("#now").hidden`)
	for _, size := range sizes {
		fits(size)
	}
}
