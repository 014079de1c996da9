//go:build !race

package interop_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/testenv/npm"
)

// TestChromium runs each suite that TestNode and others run in Node.
func TestChromium(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"scenarios", "advice", "auth", "presence", "wills"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			each(t, suite, runChromium)
		})
	}
}

// TestAPIChromium runs the rows with js/socket.mjs in a browser, and what the clients do when their
// page is hidden or left.
func TestAPIChromium(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	b := chromium.Start(t)
	for _, run := range []struct{ suite, transport, client string }{
		{"api", "websocket", "/js/socket.mjs"},
		{"api", "longpoll", "/js/socket.mjs"},
		{"page", "websocket", "/js/socket.mjs"},
		{"page", "longpoll", "/js/socket.mjs"},
		{"page", "websocket", "/phoenix.mjs"},
	} {
		t.Run(run.suite+"/"+run.transport+run.client, func(t *testing.T) {
			t.Parallel()
			runPage(t, b, c, run.suite, run.transport, run.client)
		})
	}
}

// TestPageReload loads a page with the code of the guide again and again. It continues where it
// was, and begins anew if what it stored is not a position.
func TestPageReload(t *testing.T) {
	t.Parallel()
	s := newRecordedServer(t, history.Rules{"room:*": {Events: []string{"new_msg"}}})
	origin := pages(t, npm.Modules(t))
	b := chromium.Start(t)
	n := 0
	send := func(k int) {
		for range k {
			s.append("job", fmt.Sprintf("m%d", n))
			n++
		}
	}
	// shows waits until the page shows all records, in order, and has begun anew that often.
	shows := func(p *chromium.Page, resets int) {
		t.Helper()
		want := make([]string, n)
		for i := range want {
			want[i] = fmt.Sprintf("m%d", i)
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		p.Until(fmt.Sprintf("JSON.stringify([...document.querySelectorAll('li')].map(e => e.textContent)) === %q", text))
		p.Until(fmt.Sprintf("resets === %d", resets))
	}
	// reload evaluates js and reloads the page. Meanwhile, records are sent.
	reload := func(p *chromium.Page, js string, records int) {
		t.Helper()
		p.Run("window.old = true; setTimeout(() => { " + js + "; location.reload() })")
		send(records)
		p.Until("!window.old && window.resets !== undefined")
		send(3)
	}
	address := origin + "/client/reload.html?" + url.Values{"url": {s.url(0)}}.Encode()
	send(5)
	p := b.Open(address, func(line string) { t.Log(line) })
	p.Until("document.querySelectorAll('li').length === 5")
	send(5)
	shows(p, 1)
	for range 3 {
		reload(p, "", 3)
		shows(p, 0)
	}
	again := b.Open(address, func(line string) { t.Log(line) })
	shows(again, 0)
	again.Run("setTimeout(() => { location = 'about:blank' })") // it would store its own position
	again.Until("location.href === 'about:blank'")
	// A record would make the page store its own position before it is gone.
	reload(p, `const {list} = JSON.parse(localStorage.getItem("room:lobby"));
		localStorage.setItem("room:lobby", JSON.stringify({at: "not a position", list}))`, 0)
	shows(p, 1)
}

func runChromium(t *testing.T, suite, transport string) {
	c := newControl(t)
	runPage(t, chromium.Start(t), c, suite, transport, "/phoenix.mjs")
}

// runPage runs a suite in a tab, with the client at a path of the control server.
func runPage(t *testing.T, b *chromium.Browser, c *control, suite, transport, client string) {
	t.Helper()
	lines := make(chan string, 1024)
	end := make(chan struct{})
	defer close(end)
	query := url.Values{"client": {client}, "suite": {suite}, "transport": {transport}, "match": {*scenario}}
	b.Open(c.url+"/client/page.html?"+query.Encode(), func(line string) {
		select {
		case lines <- line:
		case <-end:
		}
	})
	var r report
	late := time.After(limit)
	for !r.ended {
		select {
		case line := <-lines:
			r.line(t, line)
		case <-late:
			t.Errorf("chromium: not done after %v", limit)
			r.ended = true
		}
	}
	r.check(t)
}
