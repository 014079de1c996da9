//go:build !race

package room

import (
	"flag"
	"testing"

	"bennu.example/internal/testenv/chromium"
)

// picture names the PNG file that TestPicture writes. This command makes the README's picture:
//
//	go test ./examples/chat/room -run TestPicture -picture "$PWD/docs/chat.png"
var picture = flag.String("picture", "", "file for the picture of the chat page")

// TestPicture takes a picture of the page during a conversation.
func TestPicture(t *testing.T) {
	t.Parallel()
	b := chromium.Start(t)
	c := start(t, "127.0.0.1:0")
	ann := c.visit(b, "lobby", "ann", "websocket")
	bob := c.visit(b, "lobby", "bob", "longpoll")
	c.visit(b, "lobby", "carl", "websocket")
	ann.Until(here("ann (you), bob, carl"))
	say := func(p *chromium.Page, from, text string) {
		p.Type(text + "\n")
		ann.Until(shows(from, text))
	}
	say(ann, "You", "Good morning! The build is green.")
	say(bob, "bob", "Well done!")
	say(bob, "bob", "Let's release it before lunch.")
	say(ann, "You", "Tagging it now.")
	bob.Type("I'll write the announcement")
	ann.Until(`document.querySelector("#typing").textContent === "bob is typing …"`)

	ann.Picture(*picture)
}
