package chromium_test

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestPage(t *testing.T) {
	const html = `<title>t</title>
		<form onsubmit="console.log('sent', this.q.value); return false"><input name="q" autofocus></form>
		<script>console.log("hello", 1, {a: 1}.a); setTimeout(() => { throw new Error("oops") })</script>`
	lines := make(chan string, 8)
	p := chromium.Start(t).Open("data:text/html,"+url.PathEscape(html), func(line string) { lines <- line })
	if got := <-lines; got != "hello 1 1" {
		t.Errorf("console: %q", got)
	}
	if got := <-lines; !bytes.Contains([]byte(got), []byte("oops")) {
		t.Errorf("exception: %q", got)
	}
	p.Until(`document.activeElement.name === "q"`)
	p.Type("žluť\n")
	if got := <-lines; got != "sent žluť" {
		t.Errorf("console: %q", got)
	}
	var seen struct {
		Visible string
		N       int
	}
	const later = `new Promise(r => setTimeout(() => r({Visible: document.visibilityState, N: 2})))`
	if err := p.Eval(later, &seen); err != nil {
		t.Fatal(err)
	}
	if seen.Visible != "visible" || seen.N != 2 {
		t.Errorf("eval: %+v", seen)
	}
	if err := p.Eval(`nothing.here`, nil); err == nil {
		t.Error("eval of what throws: no error")
	}
	p.Run(`document.body.append(document.createElement("button"))`)
	p.Press("Tab")
	p.Until(`document.activeElement.tagName === "BUTTON"`)
	for _, scheme := range []string{"dark", "light"} {
		p.Media("prefers-color-scheme", scheme)
		p.Until(`matchMedia("(prefers-color-scheme: ` + scheme + `)").matches`)
	}
	p.Resize(320, 480, true)
	file := filepath.Join(t.TempDir(), "page.png")
	if err := p.Screenshot(file); err != nil {
		t.Fatal(err)
	}
	if png, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(png, []byte("\x89PNG")) {
		t.Errorf("screenshot: %v", err)
	}
}
