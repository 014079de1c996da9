package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/internal/testenv/chromium"
	"bennu.example/internal/testenv/npm"
	"bennu.example/internal/testenv/race"
	"bennu.example/internal/testenv/require"
)

// event is one report of recovery.mjs. Which fields are set depends on the kind.
type event struct {
	Client, Kind   string
	Since, Pos, ID string
	Status, Reason string
	History        *struct {
		Pos, Why  string
		Recovered bool
		Missed    int
	}
	Messages []struct{ ID string }
	Text     string
	Frames   map[string][]string
}

// follower is what the reports say about one client.
type follower struct {
	name   string
	last   string   // the id that it received last
	reset  string   // the position at which what it shows begins
	shown  []string // ids that it has shown since
	starts int      // how often it had to begin anew
	closed int      // how often its channel ended by phx_close, after which the page is loaded anew
}

// followers collects the reports of all clients of a run and records them.
type followers struct {
	s         *recordedServer
	longPoll  bool
	late      bool // joins take long
	mu        sync.Mutex
	all       map[string]*follower
	changed   chan struct{}   // has room for one
	ended     <-chan struct{} // the script ended by itself
	rests     int             // calls of awaitRest's append
	replies   map[string]histcheck.Reply
	recovered int // joins
	missed    int // records of these joins
}

// line records one line of reports.
func (f *followers) line(line string) {
	var events []event
	if err := json.Unmarshal([]byte(line), &events); err != nil {
		f.s.t.Logf("output: %s", line)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		c := f.all[e.Client]
		if c == nil {
			c = &follower{name: e.Client}
			f.all[e.Client] = c
		}
		if err := f.event(c, e); err != nil {
			f.s.t.Errorf("%s: %v", e.Client, err)
		}
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *followers) event(c *follower, e event) error {
	switch e.Kind {
	case "reply":
		return f.reply(c, e)
	case "new_msg":
		f.s.Received(c.name, e.Pos, e.ID)
		c.last = e.ID
	case "$history":
		f.s.Moved(c.name, e.Pos)
	case "close":
		// phoenix.js hands on the messages of a poll one by one, some of them after the session's end.
		if !f.longPoll {
			f.s.Cut(c.name)
		}
	case "closed":
		c.closed++
		f.s.Cut(c.name)
	case "reset":
		c.starts++
		c.shown = nil
		c.reset = f.replies[c.name].Pos
	case "show":
		c.shown = append(c.shown, e.ID)
	default:
		return errors.New(e.Kind + ": " + e.Text)
	}
	return nil
}

func (f *followers) reply(c *follower, e event) error {
	if e.Status != "ok" {
		return errors.New("the join failed: " + e.Reason)
	}
	r := histcheck.Reply{Loaded: e.Messages != nil}
	for _, m := range e.Messages {
		r.Snapshot = append(r.Snapshot, m.ID)
	}
	if h := e.History; h != nil {
		r.Pos, r.Recovered, r.Why = h.Pos, h.Recovered, h.Why
		if h.Recovered {
			f.recovered++
			f.missed += h.Missed
		}
	}
	f.replies[c.name] = r
	f.s.Join(c.name, e.Since, asks(c.name))
	f.s.Joined(c.name, r)
	return nil
}

// asks reports whether a client asks for history, which its name tells.
func asks(name string) bool { return strings.HasPrefix(name, "c") }

// allHave reports whether id is the last record that every client has. Pages ignore what they
// receive while phoenix.js considers their join as timed out, so they have what they show.
func (f *followers) allHave(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.all {
		last := c.last
		if asks(c.name) {
			last = ""
			if n := len(c.shown); n > 0 {
				last = c.shown[n-1]
			}
		}
		if last != id {
			return false
		}
	}
	return len(f.all) == askingClients+plainClients
}

// awaitRest appends records until every client has the same last one.
func (f *followers) awaitRest() {
	late := time.After(limit)
	for {
		f.rests++
		id := fmt.Sprintf("rest-%d", f.rests)
		f.s.append("rest", id)
		again := time.After(300 * time.Millisecond)
		for waiting := true; waiting; {
			if f.allHave(id) {
				return
			}
			select {
			case <-f.changed:
			case <-again:
				waiting = false
			case <-f.ended:
				f.s.t.Fatal("the script ended")
			case <-late:
				f.s.t.Fatalf("not at rest after %v: %s", limit, f.state())
			}
		}
	}
}

// enough reports whether clients were cut while records were sent: without that, the test would
// prove little.
func (f *followers) enough() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	joins := askingClients
	if f.longPoll || f.late { // the clients take long to come back
		joins = askingClients / 2
	}
	return f.recovered >= joins && f.missed >= 2*askingClients
}

func (f *followers) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for name, c := range f.all {
		fmt.Fprintf(&b, "%s has %q; ", name, c.last)
	}
	return b.String()
}

// checkShown checks what each page shows: every record after the position at which it began, in
// the log's order, each once.
func (f *followers) checkShown(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, c := range f.all {
		if !asks(name) {
			continue
		}
		begin, err := history.ParsePosition(c.reset)
		if err != nil {
			t.Errorf("%s began at %q: %v", name, c.reset, err)
			continue
		}
		want := f.s.after(begin.Offset())
		if slices.Equal(c.shown, want) {
			continue
		}
		same := 0
		for same < min(len(want), len(c.shown)) && want[same] == c.shown[same] {
			same++
		}
		next := func(ids []string) []string { return ids[same:min(same+3, len(ids))] }
		t.Errorf("%s shows %d records from %s on, want %d; after %d it shows %q, want %q",
			name, len(c.shown), c.reset, len(want), same, next(c.shown), next(want))
	}
}

const (
	askingClients = 12
	plainClients  = 2
	broadcasters  = 4
	cutEvery      = 15 * time.Millisecond
	sendEvery     = 20 * time.Millisecond // by each broadcaster
	cutsFor       = time.Second           // at least
)

// disturb broadcasts and cuts connections for a while, and until enough is true. It returns how
// many cuts there were.
func (s *recordedServer) disturb(enough func() bool) (cuts int) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	var senders sync.WaitGroup
	for i := range broadcasters {
		senders.Go(func() {
			tick := time.NewTicker(sendEvery)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-tick.C:
					s.append(fmt.Sprintf("b%d", i), fmt.Sprintf("b%d-%d", i, n))
				case <-ctx.Done():
					return
				}
			}
		})
	}
	defer senders.Wait()
	tick := time.NewTicker(cutEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			port := s.ports[rand.IntN(len(s.ports))]
			if rand.IntN(2) == 0 {
				port.reset()
			} else {
				port.hangUp()
			}
			cuts++
			if time.Since(start) > cutsFor && enough() {
				cancel()
			}
		case <-ctx.Done():
			return cuts
		}
	}
}

// variant is a client that the recovery is tested with.
type variant struct {
	phoenix, transport, vsn string // phoenix is an npm package, or a module of package js
	browser                 bool
	keep                    history.Keep
	// While connections are cut, join callbacks take up to that. phoenix.js waits for half as long.
	slow  time.Duration
	code  int  // which JavaScript of the guide the clients run
	addOn bool // clients of shared objects use bennu.mjs
}

// start runs recovery.mjs with a task until the test ends, and hands on what it reports. The
// channel is closed when the script ends.
func (v variant) start(t *testing.T, task map[string]any, line func(string)) <-chan struct{} {
	t.Helper()
	dir := npm.Modules(t)
	origin := pages(t, dir)
	if task["codeURL"] = fmt.Sprintf("%s/guide/%d", origin, v.code); task["task"] == "share" {
		task["codeURL"] = origin + "/state"
	}
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	if v.browser {
		query := url.Values{"phoenix": {v.phoenix}, "transport": {v.transport}, "vsn": {v.vsn}, "task": {string(text)}}
		chromium.Start(t).Open(origin+"/client/recovery.html?"+query.Encode(), line)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, require.Program(t, "node"), "client/recovery_node.mjs", dir, v.phoenix, v.transport,
		v.vsn, string(text))
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			line(lines.Text())
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		_ = cmd.Wait() // it was killed
		if stderr.Len() > 0 {
			t.Logf("node: %s", stderr.String())
		}
	})
	return read
}

// TestRecovery runs the code of the guide with stock phoenix.js, while a connection is cut every
// 15 ms.
func TestRecovery(t *testing.T) {
	t.Parallel()
	roomy := history.Keep{Events: []string{"new_msg"}, Count: 100_000, Bytes: 64 << 20, MaxReplay: 100_000}
	tight := history.Keep{Events: []string{"new_msg"}, Count: 100, MaxReplay: 50}
	const v1, v2 = "1.0.0", "2.0.0"
	const addOn = 2 // the block of the guide that uses bennu.mjs
	for name, v := range map[string]variant{
		"1.8 websocket":           {"phoenix", "websocket", v2, false, roomy, 0, 0, false},
		"1.8 websocket, short":    {"phoenix", "websocket", v2, false, tight, 0, 0, false},
		"1.8 websocket, late":     {"phoenix", "websocket", v2, false, tight, time.Second, 0, false},
		"1.8 websocket, V1":       {"phoenix", "websocket", v1, false, roomy, 0, 0, false},
		"1.8 longpoll":            {"phoenix", "longpoll", v2, false, roomy, 0, 0, false},
		"1.7 websocket":           {"phoenix-1.7.23", "websocket", v2, false, roomy, 0, 0, false},
		"1.8 websocket, Chromium": {"phoenix", "websocket", v2, true, roomy, 0, 0, false},
		"1.8 longpoll, Chromium":  {"phoenix", "longpoll", v2, true, roomy, 0, 0, false},
		"1.7 longpoll, Chromium":  {"phoenix-1.7.23", "longpoll", v2, true, roomy, 0, 0, false},
		"bennu.mjs":               {"phoenix", "websocket", v2, false, tight, 0, addOn, false},
		"bennu.mjs, late":         {"phoenix", "websocket", v2, false, tight, time.Second, addOn, false},
		"bennu.mjs, Chromium":     {"phoenix", "longpoll", v2, true, roomy, 0, addOn, false},
		"bennu.mjs, socket.mjs":   {"socket.mjs", "websocket", v2, false, tight, 0, addOn, false},
	} {
		if v.browser && race.Enabled {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRecordedServer(t, history.Rules{"room:*": v.keep})
			task := map[string]any{"task": "follow"}
			if v.slow > 0 {
				task["timeout"] = v.slow.Milliseconds() / 2
			}
			f := &followers{
				s: s, longPoll: v.transport == "longpoll", late: v.slow > 0, all: map[string]*follower{},
				changed: make(chan struct{}, 1), replies: map[string]histcheck.Reply{},
			}
			urls := map[string]string{}
			for i := range askingClients + plainClients {
				name := fmt.Sprintf("c%d", i)
				if i >= askingClients {
					name = fmt.Sprintf("p%d", i)
				}
				urls[name] = s.url(i)
			}
			s.append("before", "first")
			task["urls"] = urls
			f.ended = v.start(t, task, f.line)
			f.awaitRest()
			s.slow.Store(int64(v.slow))
			cuts := s.disturb(f.enough)
			s.slow.Store(0)
			f.awaitRest()

			for _, violation := range s.Check(histcheck.Limits{Count: v.keep.Count, MaxReplay: v.keep.MaxReplay}) {
				t.Error(violation)
			}
			f.checkShown(t)
			if !f.enough() {
				t.Error("too few joins were recovered")
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			starts, closed := 0, 0
			for name, c := range f.all {
				starts += c.starts
				closed += c.closed
				if asks(name) && v.keep.Count == roomy.Count && c.starts != 1+c.closed {
					t.Errorf("%s began anew %d times although nothing was lost, and its channel ended %d times",
						name, c.starts-1, c.closed)
				}
			}
			t.Logf("%d cuts, %d records, %d joins recovered with %d missed records, %d pages began anew, %d closed",
				cuts, len(s.after(0)), f.recovered, f.missed, starts, closed)
		})
	}
}

// TestFramesWithoutHistory compares what a client that does not ask for history receives from a
// server with recorded topics and from one without, byte for byte.
func TestFramesWithoutHistory(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]variant{
		"1.8 websocket":          {phoenix: "phoenix", transport: "websocket", vsn: "2.0.0"},
		"1.8 websocket, V1":      {phoenix: "phoenix", transport: "websocket", vsn: "1.0.0"},
		"1.8 longpoll":           {phoenix: "phoenix", transport: "longpoll", vsn: "2.0.0"},
		"1.7 websocket":          {phoenix: "phoenix-1.7.23", transport: "websocket", vsn: "2.0.0"},
		"1.7 longpoll, Chromium": {phoenix: "phoenix-1.7.23", transport: "longpoll", vsn: "2.0.0", browser: true},
	} {
		if v.browser && race.Enabled {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := []string{"new_msg", "secret", "blob"}
			urls := map[string]string{
				"recorded": newRecordedServer(t, history.Rules{"script:*": {Events: events}}).url(0),
				"plain":    newRecordedServer(t, nil).url(0),
			}
			reports := make(chan string, 16)
			ended := v.start(t, map[string]any{"task": "compare", "urls": urls}, func(line string) { reports <- line })
			var got []event
			var line string
			select {
			case line = <-reports:
			case <-ended: // after its last line
				select {
				case line = <-reports:
				default:
				}
			case <-time.After(limit):
			}
			if json.Unmarshal([]byte(line), &got) != nil || len(got) != 1 || got[0].Kind != "frames" {
				t.Fatalf("the script reported %q", line)
			}
			recorded, plain := got[0].Frames["recorded"], got[0].Frames["plain"]
			if !slices.Equal(recorded, plain) {
				t.Errorf("with recorded topics:\n%s\nwithout:\n%s", strings.Join(recorded, "\n"), strings.Join(plain, "\n"))
			}
			if len(plain) < 25 || !strings.Contains(strings.Join(plain, ""), "revealed") {
				t.Errorf("the session has only %d frames:\n%s", len(plain), strings.Join(plain, "\n"))
			}
		})
	}
}
