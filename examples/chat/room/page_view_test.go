//go:build !race

package room

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"bennu.example/internal/testenv/chromium"
	"bennu.example/js"
)

// items returns the condition that an expression of each message on the page has these values.
func items(expression, values string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages > li")].
		map((item) => %s).join() === %q`, expression, values)
}

// TestView checks what the page shows. Its parts share a browser.
func TestView(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	for name, test := range map[string]func(*testing.T, *chromium.Browser){
		"groups of messages": testMessageGroups, "people": testPeople, "links and unread messages": testLinksAndUnread,
		"door": testDoor, "connection panel": testConnectionPanel,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

// testMessageGroups checks that messages of one user that follow each other show the name, the
// avatar and the time once, and that each day is shown once.
func testMessageGroups(t *testing.T, b *chromium.Browser) {
	ps := recorded()
	c := startWith(t, "127.0.0.1:0", ps)
	now := time.Now()
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 1, 0, 0, now.Location())
	for i, m := range []message{
		{User: "bob b", At: today.AddDate(0, 0, -9)},
		{User: "bob b", At: today.AddDate(0, 0, -1)},
		{User: "bob b", At: today.AddDate(0, 0, -1).Add(time.Minute)},
		{User: "carl", At: today.AddDate(0, 0, -1).Add(2 * time.Minute)},
		{User: "carl", At: today.AddDate(0, 0, -1).Add(time.Hour)},
		{User: "carl", At: today},
		{User: "carl", At: today.Add(10 * time.Second)},
	} {
		m.ID, m.Body = fmt.Sprint(i), fmt.Sprint(i)
		if err := ps.Broadcast(t.Context(), "room:tea", "new_msg", m); err != nil {
			t.Fatal(err)
		}
	}
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Until(items(`item.querySelector(".avatar").checkVisibility()`, "true,true,false,true,true,true,false"))
	ann.Until(items(`item.querySelector(".by").offsetWidth > 1`, "true,true,false,true,true,true,false"))
	ann.Until(items(`item.querySelector(".avatar").dataset.initials`, "BB,BB,BB,C,C,C,C"))
	ann.Until(items(`item.querySelector(".day").textContent.replace(/.*\d.*/, "a date")`, "a date,Yesterday,,,,Today,"))

	// Own messages form groups, too, also while they are not confirmed.
	ann.Type("one\n")
	ann.Type("two\n")
	ann.Until(shows("You", "two"))
	ann.Until(`[...document.querySelectorAll("#messages > .own")].
		map((item) => item.matches(".more")).join() === "false,true"`)
}

// testPeople checks the list of users: their number, avatars, long names, and the hint for a user
// who is alone.
func testPeople(t *testing.T, b *chromium.Browser) {
	c := start(t, "127.0.0.1:0")
	const title = `document.querySelector("#here-title").textContent`
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Until(title + ` === "1 person here" && document.querySelector("#alone").checkVisibility()`)
	ann.Until(`document.querySelector("#second").href === location.href`)
	long := "Konstantin Maximilian the first"
	other := c.visit(b, "tea", long, "websocket")
	ann.Until(title + ` === "2 people here" && !document.querySelector("#alone").checkVisibility()`)
	other.Type("hello\n")
	ann.Until(shows(long, "hello"))
	const avatars = `[...document.querySelectorAll("#users > li:last-child > .avatar, #messages .avatar")]`
	ann.Until(avatars + `.map((avatar) => avatar.dataset.initials).join() === "KF,KF"`)
	ann.Until(`new Set(` + avatars + `.map((avatar) => getComputedStyle(avatar).backgroundColor)).size === 1`)
	ann.Until(`new Set([...document.querySelectorAll("#users .avatar")].map((avatar) =>
		getComputedStyle(avatar).backgroundColor)).size === 2`)

	ann.Resize(360, 740, true)
	ann.Until(`(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(
		document.querySelector("#users > li:last-child > .name"))`)
	ann.Until(`document.documentElement.scrollWidth <= 360`)
}

// testLinksAndUnread checks that links are recognized, and that the title has the number of
// messages that arrived while the tab was hidden.
func testLinksAndUnread(t *testing.T, b *chromium.Browser) {
	c := start(t, "127.0.0.1:0")
	ann, bob := c.visit(b, "tea", "ann", "websocket"), c.visit(b, "tea", "bob", "websocket")
	hide := func(hidden bool) {
		ann.Run(fmt.Sprintf(`Object.defineProperty(document, "hidden", { value: %t, configurable: true });
			document.dispatchEvent(new Event("visibilitychange", { bubbles: true }))`, hidden))
	}
	hide(true)
	text := "See (https://go.dev/doc/?a=b#c), http://x.example. javascript:alert(1) https://"
	bob.Type(text + "\n")
	bob.Type("and this\n")
	ann.Until(shows("bob", text))
	ann.Until(`[...document.querySelectorAll(".body a")].map((link) => link.textContent).join() ===
		"https://go.dev/doc/?a=b#c,http://x.example"`)
	ann.Until(`[...document.querySelectorAll(".body a")].
		every((link) => link.target === "_blank" && link.rel.includes("noopener"))`)
	ann.Until(`document.title === "(2) tea · Chat"`)
	hide(false)
	ann.Until(`document.title === "tea · Chat"`)
	ann.Type("own\n")
	bob.Until(shows("ann", "own"))
	bob.Until(`document.title === "tea · Chat"`)
}

// testDoor checks what the page shows before there is a connection.
func testDoor(t *testing.T, b *chromium.Browser) {
	// The server is down when the user enters.
	c := start(t, "127.0.0.1:0")
	ann := b.Open("http://"+c.addr+"/?room=tea", nil)
	ann.Until(formReady)
	c.stop()
	ann.Type("ann\n")
	ann.Until(`document.querySelector("#problem").textContent === "The server does not answer. Try again later."`)
	ann.Until(`document.querySelector("#entry").checkVisibility()`)
	ann.Until(`document.querySelector("#go").textContent === "Enter"`)
	start(t, c.addr)
	ann.Run(`document.querySelector("#enter").requestSubmit()`)
	ann.Until(connected + ` && document.querySelector("#problem").textContent === ""`)
	ann.Until(`document.querySelector("#empty").textContent === "No messages yet."`)

	// The server does not answer the socket.
	mux := http.NewServeMux()
	mux.Handle("/", page())
	mux.Handle("/js/", js.Handler())
	mux.HandleFunc("/socket/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	silent := httptest.NewServer(mux)
	t.Cleanup(silent.Close)
	bob := b.Open(silent.URL+"/?room=tea", nil)
	bob.Until(formReady)
	bob.Type("bob\n")
	bob.Until(`document.querySelector("#go").textContent === "Connecting…"`)
	bob.Until(`document.querySelector("#entry").checkVisibility()`)
	bob.Run(`location.reload()`) // shows the room at once
	bob.Until(`document.querySelector("#room").checkVisibility()`)
	bob.Until(`document.querySelector("#empty").textContent === "Connecting…"`)
	bob.Run(`location.href = "about:blank"`) // ends the request
}

// testConnectionPanel checks the details of the connection, and that the dot of its state is
// visible in forced colors.
func testConnectionPanel(t *testing.T, b *chromium.Browser) {
	c := start(t, "127.0.0.1:0")
	ann := c.visit(b, "tea", "ann", "websocket")
	ann.Until(`!document.querySelector("#transport").checkVisibility()`)
	ann.Run(`document.querySelector("summary").click()`)
	ann.Until(`document.querySelector("#transport").checkVisibility()`)
	ann.Until(`/^\d+\sms$/.test(document.querySelector("#rtt").textContent)`)
	ann.Until(`document.querySelector("#node").textContent === "the only one"`)

	const dot = `getComputedStyle(document.querySelector("#status"), "::before")`
	ann.Media("forced-colors", "active")
	ann.Until(`matchMedia("(forced-colors: active)").matches`)
	ann.Until(dot + `.backgroundColor === getComputedStyle(document.querySelector("#state")).color`)
	c.stop()
	ann.Until(reconnecting)
	ann.Until(dot + `.backgroundColor === "rgba(0, 0, 0, 0)" && ` + dot + `.borderTopWidth === "2px"`)
	ann.Until(dot + `.borderTopColor === getComputedStyle(document.querySelector("#state")).color`)
}
