// Package chromium controls a headless Chromium in tests, over the DevTools protocol.
package chromium

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

	"bennu.example/internal/testenv/require"
)

// maxWait bounds every operation of the browser.
const maxWait = 30 * time.Second

// Browser is a running Chromium. It is stopped at the end of the test that started it.
type Browser struct {
	t    testing.TB
	conn *websocket.Conn

	mu    sync.Mutex
	next  int
	calls map[int]chan reply
	pages map[string]*Page // by session ID
	err   error            // the reason why the connection ended
}

// Page is a tab. It has its own window, so that it counts as visible and its timers are not
// throttled.
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

// Start starts the installed Chromium with an empty profile. If Chromium is not installed, the test
// ends as described at [require.Missing].
func Start(t testing.TB) *Browser {
	t.Helper()
	path := require.Program(t, "chromium", "chromium-browser", "google-chrome")
	args := []string{
		"--headless", "--remote-debugging-port=0", "--user-data-dir=" + profile(t),
		"--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars",
		// No background activity.
		"--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-extensions", "--disable-default-apps",
		// Do not throttle background tabs.
		"--disable-background-timer-throttling", "--disable-renderer-backgrounding",
		"--disable-backgrounding-occluded-windows",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium's sandbox does not run as root, which CI uses
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
	read := make(chan struct{}) // closed while no goroutine reads the connection
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
		ctx, cancel := context.WithTimeout(context.Background(), maxWait)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, u, nil)
		if err != nil {
			t.Fatalf("chrome: connect: %v", err)
		}
		conn.SetReadLimit(-1) // screenshots are large
		b.conn = conn
	case <-drained:
		t.Fatalf("chrome: %s exited before listening", path)
	case <-time.After(maxWait):
		t.Fatalf("chrome: %s is not listening", path)
	}
	go func() { defer close(read); b.read() }()
	return b
}

// profile creates an empty directory. It is removed on a best-effort basis, because Chromium's
// helper processes may write to it for a moment after the exit.
func profile(t testing.TB) string {
	//nolint:usetesting // t.TempDir fails the test if it cannot remove everything
	dir, err := os.MkdirTemp("", "bennu-chrome-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// address finds the address of the debugger in Chromium's output. The second channel is closed at
// the end of the output.
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

// Open opens a tab at the given address. If console is not nil, it is called with each line that
// the page writes to its console and with each uncaught exception, sequentially and in order.
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

// Eval evaluates JavaScript in the page. It awaits a promise, and decodes the value into v as JSON
// unless v is nil.
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

// Run evaluates JavaScript in the page and fails the test if that fails.
func (p *Page) Run(js string) {
	p.b.t.Helper()
	if err := p.Eval(js, nil); err != nil {
		p.b.t.Fatal(err)
	}
}

// Until waits until a JavaScript expression is true in the page. It fails the test after the
// timeout.
func (p *Page) Until(js string) {
	p.b.t.Helper()
	end := time.Now().Add(maxWait)
	for {
		var ok bool
		err := p.Eval("Boolean("+js+")", &ok)
		if ok {
			return
		}
		if time.Now().After(end) {
			p.b.t.Fatalf("chrome: timeout after %v waiting for %s (%v)", maxWait, js, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Resize sets the size of the window in CSS pixels. With mobile, the page is displayed as on a
// phone.
func (p *Page) Resize(width, height int, mobile bool) {
	p.b.t.Helper()
	p.b.must(p.session, "Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile,
	}, nil)
}

// Type types text into the focused element. "\n" is the Enter key.
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

// Press presses a key that types no text, such as "Tab" or "Escape".
func (p *Page) Press(key string) {
	p.b.t.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		p.b.must(p.session, "Input.dispatchKeyEvent", map[string]any{
			"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": keyCodes[key],
		}, nil)
	}
}

// keyCodes are the virtual key codes of Press.
var keyCodes = map[string]int{"Tab": 9, "Escape": 27}

// Screenshot writes a screenshot of the page to a PNG file.
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

// call sends a command to the browser, or to a page if session is not empty, and waits for the
// result.
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

	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
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

// read dispatches results and events until the connection ends.
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
			if line, err := consoleLine(m.Method, m.Params); err == nil {
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

// consoleLine returns the text of a console event.
func consoleLine(method string, params json.RawMessage) (string, error) {
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
	return "", errors.New("not a console event")
}
