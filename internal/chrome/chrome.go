// Package chrome drives a headless Chromium in tests, over the browser's own debugging protocol.
package chrome

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/need"
)

// patience is how long the browser may take for anything; it is waited out only when a test fails.
const patience = 30 * time.Second

// Browser is a running Chromium. It ends with the test that started it.
type Browser struct {
	t    testing.TB
	conn *websocket.Conn

	mu    sync.Mutex
	next  int
	calls map[int]chan reply
	pages map[string]*Page // by session
	err   error            // why the connection ended
}

// Page is one tab, in a window of its own, so that it is as visible as the others and its timers run as if looked at.
type Page struct {
	b       *Browser
	session string
	console func(string)
}

type reply struct {
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// Start runs the Chromium that is installed, with an empty profile. Where there is none, the test ends as by [need.Missing].
func Start(t testing.TB) *Browser {
	t.Helper()
	path := need.Program(t, "chromium", "chromium-browser", "google-chrome")
	args := []string{
		"--headless", "--remote-debugging-port=0", "--user-data-dir=" + profile(t),
		"--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars",
		// Nothing but what the test asks for.
		"--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-extensions", "--disable-default-apps",
		// Tabs that are not in front run as the one that is.
		"--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium's sandbox refuses root, which CI is
	}
	cmd := exec.Command(path, append(args, "about:blank")...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("chrome: start %s: %v", path, err)
	}
	b := &Browser{t: t, calls: map[int]chan reply{}, pages: map[string]*Page{}}
	url, drained := address(stderr)
	read := make(chan struct{}) // closed when nobody reads the connection, any more or yet
	t.Cleanup(func() {
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		if b.conn == nil {
			_ = cmd.Process.Kill()
		} else {
			_, _ = b.call("", "Browser.close", nil)
			_ = b.conn.CloseNow()
			<-read
		}
		<-drained
		_ = cmd.Wait()
	})
	select {
	case u := <-url:
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, u, nil)
		if err != nil {
			t.Fatalf("chrome: connect: %v", err)
		}
		conn.SetReadLimit(-1) // screenshots
		b.conn = conn
	case <-drained:
		t.Fatalf("chrome: %s ended before it listened", path)
	case <-time.After(patience):
		t.Fatalf("chrome: %s does not listen", path)
	}
	go func() { defer close(read); b.read() }()
	return b
}

// profile is an empty folder that is removed as far as possible: Chromium's helpers may still write into it for a moment.
func profile(t testing.TB) string {
	dir, err := os.MkdirTemp("", "bennu-chrome-*") //nolint:usetesting // t.TempDir fails the test if it cannot remove everything
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// address finds in what Chromium says where its debugger listens. The second channel is closed when it says no more.
func address(stderr io.Reader) (<-chan string, <-chan struct{}) {
	url, drained := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if u, ok := strings.CutPrefix(lines.Text(), "DevTools listening on "); ok {
				url <- u
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
	}()
	return url, drained
}

// Open opens a tab on the address. Each line that the page writes to its console, and each exception that it does not catch, is given
// to console, one at a time and in order, unless it is nil.
func (b *Browser) Open(url string, console func(string)) *Page {
	b.t.Helper()
	var target struct {
		ID string `json:"targetId"`
	}
	b.must("", "Target.createTarget", map[string]any{"url": "about:blank", "newWindow": true}, &target)
	var attached struct {
		Session string `json:"sessionId"`
	}
	b.must("", "Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached)
	p := &Page{b: b, session: attached.Session, console: console}
	b.mu.Lock()
	b.pages[p.session] = p
	b.mu.Unlock()
	b.must(p.session, "Runtime.enable", nil, nil)
	b.must(p.session, "Page.enable", nil, nil)
	b.must(p.session, "Emulation.setFocusEmulationEnabled", map[string]any{"enabled": true}, nil)
	b.must(p.session, "Page.navigate", map[string]any{"url": url}, nil)
	return p
}

// Eval evaluates JavaScript in the page, waits for it if it is a promise, and stores its value in v as JSON does; v may be nil.
func (p *Page) Eval(js string, v any) error {
	raw, err := p.b.call(p.session, "Runtime.evaluate", map[string]any{
		"expression": js, "awaitPromise": true, "returnByValue": true, "userGesture": true,
	})
	if err != nil {
		return err
	}
	var got struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		Exception *exception `json:"exceptionDetails"`
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		return err
	}
	if got.Exception != nil {
		return fmt.Errorf("chrome: eval: %s", got.Exception)
	}
	if v == nil || got.Result.Value == nil {
		return nil
	}
	return json.Unmarshal(got.Result.Value, v)
}

// Until waits until the JavaScript expression is true in the page, or fails the test.
func (p *Page) Until(js string) {
	p.b.t.Helper()
	end := time.Now().Add(patience)
	for {
		var ok bool
		err := p.Eval("Boolean("+js+")", &ok)
		if ok {
			return
		}
		if time.Now().After(end) {
			p.b.t.Fatalf("chrome: waited %v until %s (%v)", patience, js, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Resize gives the page a window of that size, in CSS pixels; mobile as a phone has it.
func (p *Page) Resize(width, height int, mobile bool) {
	p.b.t.Helper()
	p.b.must(p.session, "Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile,
	}, nil)
}

// Type types the text into whatever has the focus; "\n" is the Enter key.
func (p *Page) Type(text string) {
	p.b.t.Helper()
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			for _, kind := range []string{"keyDown", "keyUp"} {
				p.b.must(p.session, "Input.dispatchKeyEvent", map[string]any{
					"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r",
				}, nil)
			}
		}
		if line != "" {
			p.b.must(p.session, "Input.insertText", map[string]any{"text": line}, nil)
		}
	}
}

// Screenshot writes what the page looks like to a PNG file.
func (p *Page) Screenshot(file string) error {
	raw, err := p.b.call(p.session, "Page.captureScreenshot", map[string]any{"format": "png"})
	if err != nil {
		return err
	}
	var got struct {
		Data string `json:"data"`
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		return err
	}
	png, err := base64.StdEncoding.DecodeString(got.Data)
	if err != nil {
		return err
	}
	return os.WriteFile(file, png, 0o644)
}

func (b *Browser) must(session, method string, params, result any) {
	b.t.Helper()
	raw, err := b.call(session, method, params)
	if err == nil && result != nil {
		err = json.Unmarshal(raw, result)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// call asks the browser, or with a session one page, and waits for the answer.
func (b *Browser) call(session, method string, params any) (json.RawMessage, error) {
	answer := make(chan reply, 1)
	b.mu.Lock()
	if b.err != nil {
		defer b.mu.Unlock()
		return nil, fmt.Errorf("chrome: %s: %w", method, b.err)
	}
	b.next++
	id := b.next
	b.calls[id] = answer
	b.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m := map[string]any{"id": id, "method": method}
	if session != "" {
		m["sessionId"] = session
	}
	if params != nil {
		m["params"] = params
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if err := b.conn.Write(ctx, websocket.MessageText, data); err != nil {
		return nil, fmt.Errorf("chrome: %s: %w", method, err)
	}
	select {
	case r, ok := <-answer:
		switch {
		case !ok:
			return nil, fmt.Errorf("chrome: %s: the connection ended", method)
		case r.Error != nil:
			return nil, fmt.Errorf("chrome: %s: %s", method, r.Error.Message)
		}
		return r.Result, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("chrome: %s: %w", method, ctx.Err())
	}
}

// read hands out what the browser says until the connection ends.
func (b *Browser) read() {
	for {
		_, data, err := b.conn.Read(context.Background())
		if err != nil {
			b.mu.Lock()
			b.err = err
			for _, answer := range b.calls {
				close(answer)
			}
			b.calls = nil
			b.mu.Unlock()
			return
		}
		var m struct {
			ID      int             `json:"id"`
			Method  string          `json:"method"`
			Session string          `json:"sessionId"`
			Params  json.RawMessage `json:"params"`
			reply
		}
		if json.Unmarshal(data, &m) != nil {
			continue
		}
		b.mu.Lock()
		answer, page := b.calls[m.ID], b.pages[m.Session]
		delete(b.calls, m.ID)
		b.mu.Unlock()
		switch {
		case answer != nil:
			answer <- m.reply
		case page != nil && page.console != nil:
			if line, err := said(m.Method, m.Params); err == nil {
				page.console(line)
			}
		}
	}
}

type exception struct {
	Text      string `json:"text"`
	Exception struct {
		Description string `json:"description"`
	} `json:"exception"`
}

func (e *exception) String() string { return strings.TrimSpace(e.Text + " " + e.Exception.Description) }

// said is the line that an event of a page's console stands for.
func said(method string, params json.RawMessage) (string, error) {
	switch method {
	case "Runtime.consoleAPICalled":
		var e struct {
			Args []struct {
				Value       any    `json:"value"`
				Description string `json:"description"`
			} `json:"args"`
		}
		if err := json.Unmarshal(params, &e); err != nil {
			return "", err
		}
		words := make([]string, len(e.Args))
		for i, a := range e.Args {
			if words[i] = a.Description; a.Value != nil {
				words[i] = fmt.Sprint(a.Value)
			}
		}
		return strings.Join(words, " "), nil
	case "Runtime.exceptionThrown":
		var e struct {
			Details exception `json:"exceptionDetails"`
		}
		if err := json.Unmarshal(params, &e); err != nil {
			return "", err
		}
		return e.Details.String(), nil
	}
	return "", errors.New("not a line")
}
