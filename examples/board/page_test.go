package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"testing"

	"bennu.example/internal/testenv/chromium"
)

// picture names the PNG file that TestPage writes. This command makes the README's picture:
//
//	go test ./examples/board -run TestPage -picture "$PWD/docs/board.png"
var picture = flag.String("picture", "", "file for the picture of the board")

// tab is a page in which a user works.
type tab struct{ *chromium.Page }

// visit opens a tab and enters a name with the keyboard.
func visit(t *testing.T, br *chromium.Browser, url, name string) tab {
	t.Helper()
	p := tab{br.Open(url, func(line string) { t.Logf("%s: %s", name, line) })}
	p.Until(`document.activeElement?.id === "name"`)
	p.Type(name + "\n")
	p.status("Saved")
	return p
}

// status waits for the text of the status line.
func (p tab) status(text string) {
	p.Until(fmt.Sprintf(`document.querySelector("#status").textContent === %q`, text))
}

// add adds a card to a list.
func (p tab) add(list int, text string) {
	p.Run(fmt.Sprintf(`document.querySelectorAll("section input")[%d].focus()`, list))
	p.Type(text + "\n")
	p.status("Saved")
}

// key presses a key on a card.
func (p tab) key(text, key string) {
	p.Run(fmt.Sprintf(`{
		const card = [...document.querySelectorAll("section li")].find((c) => c.querySelector("p").textContent === %q);
		card.focus();
		card.dispatchEvent(new KeyboardEvent("keydown", { key: %q, bubbles: true, cancelable: true }));
	}`, text, key))
}

// cards waits until the lists show these cards.
func (p tab) cards(want string) {
	p.Until(fmt.Sprintf(`[...document.querySelectorAll("section")].map((list) =>
		[...list.querySelectorAll("p")].map((text) => text.textContent).join(", ")).join(" | ") === %q`, want))
}

// people waits until the page lists these users.
func (p tab) people(want string) {
	p.Until(fmt.Sprintf(`[...document.querySelectorAll("#people span")].
		map((item) => item.textContent).sort().join(", ") === %q`, want))
}

// point moves the pointer over a list, 70 pixels below its upper end.
func (p tab) point(list int) {
	p.Run(fmt.Sprintf(`{
		const list = document.querySelectorAll("section")[%d];
		const { left, top, width } = list.getBoundingClientRect();
		const at = { clientX: left + width * 0.6, clientY: top + 70, bubbles: true };
		list.dispatchEvent(new PointerEvent("pointermove", at));
	}`, list))
}

// showsCursor returns the condition that the page shows a user's cursor on a list.
func showsCursor(list int, name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("section")][%d].querySelector("i")?.textContent === %q`, list, name)
}

func TestPage(t *testing.T) {
	t.Parallel()
	br := chromium.Start(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := newBoard()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	url := fmt.Sprintf("http://%s/", ln.Addr())
	ann := visit(t, br, url+"#"+b.key, "Ann")
	bob := visit(t, br, url, "Bob")
	ann.people("Ann (you), Bob")
	bob.people("Ann, Bob (you)")

	ann.add(0, "Write the announcement")
	ann.add(0, "Book a room")
	ann.add(1, "Review the release notes")
	bob.cards("Write the announcement, Book a room | Review the release notes | ")
	bob.add(2, "Fix the build")

	// Bob moves a card, and then Ann edits it.
	bob.key("Book a room", "ArrowUp")
	ann.cards("Book a room, Write the announcement | Review the release notes | Fix the build")
	bob.key("Book a room", "ArrowRight")
	ann.cards("Write the announcement | Review the release notes, Book a room | Fix the build")
	bob.Until(`document.activeElement.textContent.startsWith("Book a room")`)
	bob.key("Book a room", "Delete")
	ann.cards("Write the announcement | Review the release notes | Fix the build")

	// Each of Bob's changes is undone, until one that another user has changed.
	undo := `document.querySelector("#undo").click()`
	bob.Run(undo)
	ann.cards("Write the announcement | Review the release notes, Book a room | Fix the build")
	bob.status("Saved")
	bob.Run(undo)
	ann.cards("Book a room, Write the announcement | Review the release notes | Fix the build")
	bob.status("Saved")
	bob.Run(undo)
	ann.cards("Write the announcement, Book a room | Review the release notes | Fix the build")
	ann.key("Fix the build", "Enter")
	ann.Run(`document.execCommand("selectAll")`)
	ann.Type("Fix the <b>build</b>\n")
	bob.cards("Write the announcement, Book a room | Review the release notes | Fix the <b>build</b>")
	bob.Run(undo)
	bob.status("Not changed: somebody else has changed the card")
	bob.cards("Write the announcement, Book a room | Review the release notes | Fix the <b>build</b>")
	ann.key("Fix the <b>build</b>", "Delete")

	// A page that has lost its connection gets what it missed.
	for id, entry := range b.who.List(room).All() {
		var u user
		if err := entry.Metas[0].Decode(&u); err != nil || u.Name == "Bob" {
			if err := errors.Join(err, b.sockets.Disconnect(t.Context(), id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ann.add(2, "Fix the build")
	bob.cards("Write the announcement, Book a room | Review the release notes | Fix the build")
	bob.status("Saved")
	ann.people("Ann (you), Bob")

	bob.point(1)
	ann.Until(showsCursor(1, "Bob"))
	carl := visit(t, br, url, "Carl")
	carl.add(2, "Choose a name")
	carl.point(0)
	ann.Until(showsCursor(0, "Carl"))
	ann.people("Ann (you), Bob, Carl")
	takePicture(t, ann)

	// Ann is a moderator, the others are not.
	bob.Until(`[...document.querySelectorAll("#people button")].every((button) => button.hidden)`)
	ann.Run(`document.querySelector("[aria-label='Remove Carl']").click()`)
	ann.people("Ann (you), Bob")
	carl.Until(`document.querySelector("#problem").textContent === "You cannot enter: a moderator has removed you."`)
	carl.Until(`document.querySelector("#board").hidden`)
	carl.Run(`document.querySelector("#entry button").click()`)
	carl.Run(`location.reload()`)
	carl.Until(`document.querySelector("#problem")?.textContent === "You cannot enter: a moderator has removed you."`)
	ann.Until(`document.querySelectorAll("section > i").length === 1`)

	for _, size := range [][2]int{{320, 568}, {360, 740}, {1280, 800}, {1920, 1080}} {
		ann.Resize(size[0], size[1], size[0] < 500)
		ann.Until(fmt.Sprintf("innerWidth === %d && document.documentElement.scrollWidth <= innerWidth", size[0]))
	}
}

// takePicture takes a picture of the page.
func takePicture(t *testing.T, p tab) {
	t.Helper()
	p.Resize(1000, 380, false)
	p.Until(`innerWidth === 1000`)
	p.Picture(*picture)
}
