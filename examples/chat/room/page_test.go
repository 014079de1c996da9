package room

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"bennu.example/internal/testenv/chromium"
)

// visit opens a tab, chooses a name and enters the room, with the keyboard as a user would.
func (c *chat) visit(b *chromium.Browser, room, user, transport string) *chromium.Page {
	c.t.Helper()
	p := b.Open(fmt.Sprintf("http://%s/?room=%s&transport=%s", c.addr, room, transport), func(line string) { c.t.Logf("%s: %s", user, line) })
	p.Until(`document.activeElement === document.querySelector("#user") && document.querySelector("#enter").onsubmit`)
	if err := p.Eval(`document.querySelector("#user").select()`, nil); err != nil {
		c.t.Fatal(err)
	}
	p.Type(user + "\n")
	p.Until(`document.querySelector("#state").textContent === "Connected"`)
	p.Until(`document.activeElement === document.querySelector("#body")`)
	return p
}

// What pages are waited to show.
const (
	connected = `document.querySelector("#state").textContent === "Connected"`
	cut       = `document.querySelector("#state").textContent === "Reconnecting" && document.querySelector("#line").dataset.state === "off"`
)

func shows(user, body string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages > li:not([data-fate])")].filter((item) =>
		item.querySelector(".user").textContent === %q && item.querySelector(".body").textContent === %q).length === 1`, user, body)
}

func here(users string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#users > li")].map((item) => item.textContent).join(", ") === %q`, users)
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
			if err := second.Eval(`document.querySelector("#leave").click()`, nil); err != nil {
				t.Fatal(err)
			}
			ann.Until(here("ann (you), bob"))

			bob.Type("hello <b>ann</b> & all")
			ann.Until(`document.querySelector("#typing").textContent === "bob is typing …"`)
			bob.Type("\n")
			ann.Until(shows("bob", "hello <b>ann</b> & all"))
			ann.Until(`document.querySelector("#typing").textContent === ""`)
			bob.Until(shows("You", "hello <b>ann</b> & all"))
			bob.Until(`document.querySelector("#messages > .own time").textContent !== "" && document.querySelector("#body").value === ""`)

			// Who comes later is told.
			carl := c.visit(b, "tea", "carl", transport)
			carl.Until(shows("bob", "hello <b>ann</b> & all"))

			// A reload goes back in, a tab that leaves is gone at once, and the room is in the address.
			if err := carl.Eval(`location.reload()`, nil); err != nil {
				t.Fatal(err)
			}
			carl.Until(connected)
			carl.Until(`new URL(location.href).searchParams.get("room") === "tea"`)
			bob.Until(here("ann, bob (you), carl"))
			if err := carl.Eval(`document.querySelector("#leave").click()`, nil); err != nil {
				t.Fatal(err)
			}
			carl.Until(`!document.querySelector("#door").hidden && document.querySelector("#room").hidden`)
			bob.Until(here("ann, bob (you)"))
			if err := ann.Eval(`location.href = "about:blank"`, nil); err != nil {
				t.Fatal(err)
			}
			bob.Until(here("bob (you)"))
		})
	}
}

// TestSameName holds that the page knows what its own user said by the presence, which nobody else
// has, and not by the name, which anybody can choose.
func TestSameName(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Type("it is me\n")
	ann.Until(shows("You", "it is me"))
	other := c.join("tea", "ann")
	other.ok("new_msg", map[string]any{"body": "it is me, too"}, nil)
	ann.Until(shows("ann", "it is me, too"))
	ann.Until(here("ann (you) · 2 devices"))
	if err := ann.Eval(`location.reload()`, nil); err != nil {
		t.Fatal(err)
	}
	ann.Until(connected)
	ann.Until(shows("You", "it is me"))
	ann.Until(shows("ann", "it is me, too"))
}

func TestDroppedServer(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	for _, transport := range []string{"websocket", "longpoll"} {
		t.Run(transport, func(t *testing.T) {
			c := start(t, "127.0.0.1:0")
			ann := c.visit(b, "tea", "ann", transport)
			bob := c.visit(b, "tea", "bob", transport)
			ann.Type("before\n")
			bob.Until(shows("ann", "before"))

			c.end()
			ann.Until(cut)
			bob.Until(cut)
			ann.Until(`!document.querySelector("#now").hidden && / in\s\d+\ss$/.test(document.querySelector("#countdown").textContent)`)
			ann.Type("meanwhile\n")
			ann.Until(`document.querySelector("[data-fate=waiting] .body").textContent === "meanwhile"`)

			again := start(t, c.addr)
			ann.Until(connected)
			bob.Until(connected)
			bob.Until(shows("ann", "meanwhile"))
			ann.Until(shows("You", "meanwhile"))
			ann.Until(`document.querySelector("#line").dataset.state === "on" && document.querySelector("#now").hidden`)
			ann.Until(here("ann (you), bob"))

			// The button does not wait.
			again.end()
			ann.Until(`Number(document.querySelector("#countdown").textContent.match(/\d+/)) >= 2`)
			var text string
			if err := ann.Eval(`document.querySelector("#now").click(), document.querySelector("#status").textContent`, &text); err != nil || text != "Reconnecting …" {
				t.Errorf("a click on the button gives %q, %v", text, err)
			}
			start(t, c.addr)
			ann.Until(connected)
		})
	}
}

// TestDeadConnection holds that a connection on which nothing comes any more, and which nobody has closed, is found out and replaced.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	l := newLine(t, c.addr)
	b := chromium.Start(t)
	behind := &chat{t: t, addr: l.addr}
	ann := behind.visit(b, "tea", "ann", "websocket")
	l.die()
	ann.Type("hello\n")
	ann.Until(`document.querySelector("[data-fate=waiting] .why").textContent === "Sending …"`)
	// As the browser does when the network changes. The page would ask by itself when there is no answer, or at the next heartbeat.
	if err := ann.Eval(`dispatchEvent(new Event("online"))`, nil); err != nil {
		t.Fatal(err)
	}
	ann.Until(shows("You", "hello"))
	ann.Until(connected)
}

// line is the network between a page and a server: it can lose all that is sent on the connections that there are.
type line struct {
	addr string
	mu   sync.Mutex
	dead *atomic.Bool // of the connections made since the last die
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{addr: ln.Addr().String(), dead: new(atomic.Bool)}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
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
			l.mu.Lock()
			dead := l.dead
			l.mu.Unlock()
			for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
				context.AfterFunc(ctx, func() { ends[0].Close() })
				all.Go(func() {
					defer ends[1].Close()
					buf := make([]byte, 4096)
					for {
						n, err := ends[0].Read(buf)
						if err != nil {
							return
						}
						if !dead.Load() {
							_, _ = ends[1].Write(buf[:n])
						}
					}
				})
			}
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		all.Wait()
	})
	return l
}

func (l *line) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead.Store(true)
	l.dead = new(atomic.Bool)
}

func TestSwitchTransport(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	for _, transport := range []string{"longpoll", "websocket"} {
		err := ann.Eval(fmt.Sprintf(`{
			const select = document.querySelector("#transport");
			select.value = %q;
			select.dispatchEvent(new Event("change"));
			document.querySelector("#body").focus();
		}`, transport), nil)
		if err != nil {
			t.Fatal(err)
		}
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
	long := fmt.Sprintf("%0*d", bodyLimit+1, 1)
	if err := ann.Eval(`document.querySelector("#body").removeAttribute("maxlength")`, nil); err != nil {
		t.Fatal(err)
	}
	ann.Type(long + "\n")
	ann.Until(`document.querySelector("[data-fate=refused] .why").textContent === "Not sent: a message can have at most 1000 characters."`)
	ann.Type("this one is fine\n")
	ann.Until(shows("You", "this one is fine"))
	ann.Until(`document.querySelectorAll("[data-fate=refused]").length === 1`)
	if err := ann.Eval(`document.querySelector(".discard").click()`, nil); err != nil {
		t.Fatal(err)
	}
	ann.Until(`document.querySelectorAll("#messages > li").length === 1`)

	// A name that is refused leads back to the door, with the reason.
	refused := b.Open("http://"+c.addr+"/?room="+fmt.Sprintf("%0*d", roomLimit+1, 1), nil)
	refused.Until(`document.activeElement === document.querySelector("#user") && document.querySelector("#enter").onsubmit`)
	if err := refused.Eval(`document.querySelector("#name").removeAttribute("maxlength")`, nil); err != nil {
		t.Fatal(err)
	}
	refused.Type("eve\n")
	refused.Until(`document.querySelector("#problem").textContent === "You cannot enter: the room's name can have at most 64 characters."`)
}

// TestNarrowAndWide holds that nothing sticks out of the window of a small phone or gets lost in a wide one.
func TestNarrowAndWide(t *testing.T) {
	t.Parallel()
	c := start(t, "127.0.0.1:0")
	b := chromium.Start(t)
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Type(fmt.Sprintf("%0300d", 0) + "\n")
	ann.Until(`document.querySelectorAll("#messages > li:not([data-fate])").length === 1`)
	fits := func(size [2]int) {
		ann.Resize(size[0], size[1], size[0] < 500)
		ann.Until(fmt.Sprintf("innerWidth === %d", size[0]))
		ann.Until(`document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight`)
		ann.Until(`["#leave", "#state", "#transport", "#users", "#log", "#body", "#composer button"].every((selector) => {
			const box = document.querySelector(selector).getBoundingClientRect();
			return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
		})`)
	}
	sizes := [][2]int{{320, 568}, {360, 740}, {1280, 800}}
	for _, size := range sizes {
		fits(size)
	}
	c.end()
	ann.Until(cut)
	ann.Until(`!document.querySelector("#now").hidden`)
	for _, size := range sizes {
		fits(size)
	}
}
