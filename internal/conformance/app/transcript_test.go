package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/conformance/app"
	"bennu.example/internal/testenv/leak"
	"bennu.example/socket"
	"bennu.example/will"
)

func TestMain(m *testing.M) { leak.Main(m) }

// maxWait bounds the wait for an expected frame on a busy machine.
const maxWait = 20 * time.Second

// TestTranscripts runs the transcripts in testdata/wire against the application. They contain what
// each client sends and what it must receive. The README there describes the format.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../testdata/wire/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			play(t, string(script))
		})
	}
}

// client is a client in a transcript.
type client interface {
	send(ctx context.Context, frame []byte, binary bool) error
	receive(ctx context.Context) (frame []byte, binary bool, err error)
	close()
}

func play(t *testing.T, script string) {
	ctx, cancel := context.WithTimeout(t.Context(), maxWait)
	defer cancel()
	cfg, err := config(script)
	if err != nil {
		t.Fatal(err)
	}
	store := &awayStore{Store: will.NewMemory()}
	cfg.Wills = store
	a := app.New(cfg)
	var advised sync.WaitGroup
	server := httptest.NewServer(a)
	clients := make(map[string]client)
	defer func() {
		for _, c := range clients {
			c.close()
		}
		advised.Wait()
		if err := a.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		server.Close()
	}()
	for n, line := range strings.Split(script, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		who, rest, _ := strings.Cut(line, " ")
		verb, arg, _ := strings.Cut(rest, " ")
		var err error
		switch c := clients[who]; verb {
		case "config": // see config
		case "advise":
			advised.Go(func() { // the clients receive the advice meanwhile
				if err := a.Advise(ctx, arg); err != nil {
					t.Errorf("advise: %v", err)
				}
			})
		case "revoke", "ban":
			user, reason, _ := strings.Cut(arg, " ")
			if a.Ban(user, reason); verb == "revoke" {
				err = a.Revoke(ctx, user, reason)
			}
		case "store":
			store.away.Store(arg == "away")
		case "ws", "lp":
			clients[who], err = open(ctx, server.URL, verb, arg)
		case "refused":
			err = expectRefusal(ctx, server.URL, arg)
		case ">":
			err = send(ctx, c, arg)
		case "<":
			err = expect(ctx, c, arg)
		case "quiet":
			err = quiet(ctx, c, arg)
		case "closed":
			err = expectClose(ctx, c, arg)
		case "close":
			c.close()
			delete(clients, who)
		default:
			err = fmt.Errorf("unknown verb %q", verb)
		}
		if err != nil {
			t.Fatalf("line %d: %s: %v", n+1, line, err)
		}
	}
}

// awayStore is a store of wills that can be away.
type awayStore struct {
	will.Store

	away atomic.Bool
}

var errAway = errors.New("the store is away")

func (s *awayStore) Put(ctx context.Context, w will.Will) error {
	if s.away.Load() {
		return errAway
	}
	return s.Store.Put(ctx, w)
}

func (s *awayStore) Arrive(ctx context.Context, topic string, c will.Connection) (time.Duration, error) {
	if s.away.Load() {
		return 0, errAway
	}
	return s.Store.Arrive(ctx, topic, c)
}

func (s *awayStore) Delete(ctx context.Context, topic string, c will.Connection, ids ...string) error {
	if s.away.Load() {
		return errAway
	}
	return s.Store.Delete(ctx, topic, c, ids...)
}

// config returns the configuration of a transcript, from its line "server config".
func config(script string) (cfg app.Config, err error) {
	for line := range strings.Lines(script) {
		text, found := strings.CutPrefix(line, "server config ")
		if !found {
			continue
		}
		var in struct{ Advice, Notice, Grace int }
		if err := json.Unmarshal([]byte(text), &in); err != nil {
			return cfg, fmt.Errorf("server config: %w", err)
		}
		ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
		cfg.Drain.Notice = ms(in.Advice)
		if in.Notice > 0 {
			cfg.Auth = &socket.Auth{Notice: ms(in.Notice), Grace: ms(in.Grace)}
		}
	}
	return cfg, nil
}

func open(ctx context.Context, base, transport, query string) (client, error) {
	if transport == "lp" {
		p := &poller{url: base + "/socket/longpoll?" + query}
		return p, p.open(ctx)
	}
	c, _, err := websocket.Dial(ctx, base+"/socket/websocket?"+query, nil)
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(1 << 24)
	return wsClient{c}, nil
}

// send handles "send". Its argument is text, or "bin HEX".
func send(ctx context.Context, c client, arg string) error {
	if h, ok := strings.CutPrefix(arg, "bin "); ok {
		b, err := hex.DecodeString(strings.ReplaceAll(h, " ", ""))
		if err != nil {
			return err
		}
		return c.send(ctx, b, true)
	}
	return c.send(ctx, []byte(arg), false)
}

// expect compares JSON by value, and "bin HEX" byte by byte.
func expect(ctx context.Context, c client, want string) error {
	got, binary, err := c.receive(ctx)
	if err != nil {
		return err
	}
	if h, ok := strings.CutPrefix(want, "bin "); ok {
		if g := hex.EncodeToString(got); !binary || g != strings.ReplaceAll(h, " ", "") {
			return fmt.Errorf("got %s (binary: %v)", g, binary)
		}
		return nil
	}
	var g, w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		return fmt.Errorf("invalid JSON in the transcript: %w", err)
	}
	if binary || json.Unmarshal(got, &g) != nil || !reflect.DeepEqual(mask(g, w), w) {
		return fmt.Errorf("got %s", got)
	}
	return nil
}

// mask returns got with "<any>" wherever want has it.
func mask(got, want any) any {
	switch want := want.(type) {
	case string:
		if want == "<any>" && got != nil {
			return want
		}
	case []any:
		if list, ok := got.([]any); ok && len(list) == len(want) {
			for i := range list {
				list[i] = mask(list[i], want[i])
			}
		}
	case map[string]any:
		if fields, ok := got.(map[string]any); ok {
			for k, v := range fields {
				fields[k] = mask(v, want[k])
			}
		}
	}
	return got
}

// quiet checks that no frame is pending: it sends a heartbeat, whose reply must be the next frame.
func quiet(ctx context.Context, c client, vsn string) error {
	if vsn == "1.0.0" {
		return errors.Join(send(ctx, c, `{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"quiet"}`),
			expect(ctx, c, `{"topic":"phoenix","event":"phx_reply","payload":{"status":"ok","response":{}},"ref":"quiet"}`))
	}
	return errors.Join(send(ctx, c, `[null,"quiet","phoenix","heartbeat",{}]`),
		expect(ctx, c, `[null,"quiet","phoenix","phx_reply",{"status":"ok","response":{}}]`))
}

func expectClose(ctx context.Context, c client, want string) error {
	frame, _, err := c.receive(ctx)
	if err == nil {
		return fmt.Errorf("got %s", frame)
	}
	if got := closeReason(err); got != want {
		return fmt.Errorf("got %s (%v)", got, err)
	}
	return nil
}

var errGone = errors.New("session is gone")

// closeReason returns the close code, or "gone" for a long-polling session.
func closeReason(err error) string {
	if errors.Is(err, errGone) {
		return "gone"
	}
	return fmt.Sprint(int(websocket.CloseStatus(err)))
}

// expectRefusal handles "ws QUERY STATUS" and "lp QUERY BODY".
func expectRefusal(ctx context.Context, base, arg string) error {
	f := strings.Fields(arg)
	if len(f) != 3 {
		return errors.New("want transport, query and answer")
	}
	if f[0] == "ws" {
		c, resp, err := websocket.Dial(ctx, base+"/socket/websocket?"+f[1], nil)
		if err == nil {
			c.CloseNow()
			return errors.New("accepted, want a refusal")
		}
		if resp == nil || fmt.Sprint(resp.StatusCode) != f[2] {
			return fmt.Errorf("answered %v", err)
		}
		return nil
	}
	body, err := request(ctx, http.MethodGet, base+"/socket/longpoll?"+f[1], nil)
	if err != nil || string(body) != f[2] {
		return fmt.Errorf("answered %s (%v)", body, err)
	}
	return nil
}

type wsClient struct{ c *websocket.Conn }

func (w wsClient) send(ctx context.Context, frame []byte, binary bool) error {
	typ := websocket.MessageText
	if binary {
		typ = websocket.MessageBinary
	}
	return w.c.Write(ctx, typ, frame)
}

func (w wsClient) receive(ctx context.Context) ([]byte, bool, error) {
	typ, b, err := w.c.Read(ctx)
	return b, typ == websocket.MessageBinary, err
}

func (w wsClient) close() { w.c.Close(websocket.StatusNormalClosure, "") }

// poller is a long-polling client that makes one request at a time.
type poller struct {
	url, token string
	got        []string
}

type answer struct {
	Status   int
	Token    string
	Messages []string
}

func request(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	return io.ReadAll(resp.Body)
}

func (p *poller) do(ctx context.Context, method string, body []byte) (a answer, err error) {
	b, err := request(ctx, method, p.url+"&token="+url.QueryEscape(p.token), body)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(b, &a)
}

func (p *poller) open(ctx context.Context) error {
	a, err := p.do(ctx, http.MethodGet, nil)
	if err != nil || a.Status != 410 || a.Token == "" {
		return fmt.Errorf("opening: %+v, %w", a, err)
	}
	p.token = a.Token
	return nil
}

func (p *poller) send(ctx context.Context, frame []byte, binary bool) error {
	if binary {
		frame = base64.StdEncoding.AppendEncode(nil, frame)
	}
	a, err := p.do(ctx, http.MethodPost, frame)
	if err == nil && a.Status != 200 && a.Status != 408 {
		err = fmt.Errorf("status %d", a.Status)
	}
	return err
}

func (p *poller) receive(ctx context.Context) ([]byte, bool, error) {
	for len(p.got) == 0 {
		a, err := p.do(ctx, http.MethodGet, nil)
		switch {
		case err != nil:
			return nil, false, err
		case a.Status == 410:
			return nil, false, errGone
		}
		p.got = a.Messages
	}
	m := p.got[0]
	p.got = p.got[1:]
	return []byte(m), false, nil
}

func (p *poller) close() {}
