package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"bennu.example/internal/histcheck"
)

// client is a stock phoenix.js page that follows one topic: it stores the position of each record,
// and sends it with each join.
type client struct {
	w     *world
	name  string
	asked bool
	rnd   *rand.Rand
	calm  *atomic.Bool // the run settles: no more cuts, and frames are read at once

	at     string // the stored position
	ref    int
	join   string // ref of the last join
	asking bool   // that join has no reply yet
	hidden string // id of an intercepted record whose position has not come yet
}

// run connects again and again until ctx ends.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		life, cancel := c.life(ctx)
		if conn := c.dial(life); conn != nil {
			c.session(life, conn)
			c.Cut()
			_ = conn.CloseNow() // it has ended
		}
		cancel()
		if !c.calm.Load() {
			_ = sleep(ctx, time.Duration(c.rnd.IntN(400))*time.Millisecond)
		} else {
			_ = sleep(ctx, 10*time.Millisecond)
		}
	}
}

func (c *client) Cut() {
	c.hidden = ""
	c.w.Cut(c.name)
}

// life ends when the connection is to be cut.
func (c *client) life(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.calm.Load() {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(1+c.rnd.IntN(900))*time.Millisecond)
}

func (c *client) dial(ctx context.Context) *websocket.Conn {
	transport := &http.Transport{DialContext: c.w.dialer(c.rnd.IntN(len(c.w.nodes))), DisableKeepAlives: true}
	conn, _, err := websocket.Dial(ctx, "ws://127.0.0.1:1/websocket?vsn=2.0.0", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return nil // the server restarts, or it is time for a cut
	}
	conn.SetReadLimit(-1)
	return conn
}

// dialer returns a function that connects to the server number i that runs now, whatever the
// address.
func (w *world) dialer(i int) func(ctx context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dialPipe(ctx, i) }
}

func (w *world) dialPipe(ctx context.Context, i int) (net.Conn, error) {
	n := w.current(i)
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *client) send(ctx context.Context, conn *websocket.Conn, joinRef any, event string, payload any) error {
	c.ref++
	b, err := json.Marshal([]any{joinRef, fmt.Sprint(c.ref), topic, event, payload})
	if err != nil {
		return err
	}
	return conn.Write(ctx, websocket.MessageText, b)
}

func (c *client) sendJoin(ctx context.Context, conn *websocket.Conn) error {
	params := map[string]any{"client": c.name, "slow": c.rnd.IntN(30)}
	since := ""
	if c.asked {
		since = c.at
		params["$history"] = map[string]any{"since": nil}
		if since != "" {
			params["$history"] = map[string]any{"since": since}
		}
	}
	c.join, c.asking = fmt.Sprint(c.ref+1), true
	c.w.Join(c.name, since, c.asked)
	return c.send(ctx, conn, c.join, "phx_join", params)
}

// session joins and reads until the connection ends.
func (c *client) session(ctx context.Context, conn *websocket.Conn) {
	if c.sendJoin(ctx, conn) != nil {
		return
	}
	for {
		_, data, err := conn.Read(ctx)
		if err != nil {
			return
		}
		again, err := c.frame(data)
		switch {
		case err != nil:
			c.w.t.Errorf("seed %d: %s: %v: %s", c.w.seed, c.name, err, data)
			return
		case again && sleep(ctx, 20*time.Millisecond) == nil:
			err = c.sendJoin(ctx, conn)
		case c.calm.Load(), c.asking:
		case c.rnd.IntN(40) == 0: // as leaving a page and coming back does
			err = c.sendJoin(ctx, conn)
		case c.rnd.IntN(10) == 0:
			err = c.send(ctx, conn, c.join, "say", struct{}{})
		case c.rnd.IntN(8) == 0:
			err = sleep(ctx, time.Duration(c.rnd.IntN(60))*time.Millisecond)
		}
		if err != nil {
			return
		}
	}
}

// frame handles a frame from the server. It reports whether the channel must be joined again.
func (c *client) frame(data []byte) (again bool, err error) {
	var joinRef, ref *string
	var topic, event string
	var payload json.RawMessage
	if err := json.Unmarshal(data, &[]any{&joinRef, &ref, &topic, &event, &payload}); err != nil {
		return false, err
	}
	switch event {
	case "phx_reply":
		if ref == nil || *ref != c.join {
			return false, nil
		}
		c.asking = false
		return c.reply(payload)
	case "phx_error":
		if joinRef != nil && *joinRef == c.join {
			c.Cut()
			return true, nil
		}
		return false, nil
	case "phx_close":
		return false, nil // of the join before this one
	case "note":
		return false, nil // is not recorded
	}
	return false, c.record(event, payload)
}

func (c *client) reply(payload json.RawMessage) (again bool, err error) {
	var r struct {
		Status   string
		Response struct {
			Reason  string
			Loaded  []string
			Reach   time.Time
			Began   int
			History *struct {
				Pos       string
				Recovered bool
				Missed    int
				Why       string
			} `json:"$history"`
		}
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return false, err
	}
	if r.Status != "ok" {
		switch reason := r.Response.Reason; {
		case reason == "join crashed": // its socket was closing
		case reason == "history changed" && c.w.plan.removes():
		case reason == "history unavailable" && c.w.log != nil:
		default:
			return true, fmt.Errorf("the join failed: %s", reason)
		}
		return true, nil
	}
	reply := histcheck.Reply{
		Loaded: r.Response.Loaded != nil, Snapshot: r.Response.Loaded,
		Reach: r.Response.Reach, Began: r.Response.Began,
	}
	if h := r.Response.History; h != nil {
		reply.Pos, reply.Recovered, reply.Why = h.Pos, h.Recovered, h.Why
	}
	c.hidden = ""
	c.w.Joined(c.name, reply)
	if !reply.Recovered {
		c.at = reply.Pos
	}
	return false, nil
}

// record handles a record, or an event that moves the position.
func (c *client) record(event string, payload json.RawMessage) error {
	var r struct {
		Pos    string `json:"$pos"`
		ID     string
		Passed bool
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	if event == "secret" && !r.Passed {
		return fmt.Errorf("%s came past the handler that intercepts it", r.ID)
	}
	switch {
	case event == "$history" && c.hidden != "":
		c.w.Received(c.name, r.Pos, c.hidden)
	case event == "$history":
		c.w.Moved(c.name, r.Pos)
	case c.asked && r.Pos == "":
		if c.hidden != "" {
			return fmt.Errorf("no position came after %s", c.hidden)
		}
		c.hidden = r.ID
		return nil
	default:
		c.w.Received(c.name, r.Pos, r.ID)
	}
	c.hidden = ""
	if r.Pos != "" && later(r.Pos, c.at) {
		c.at = r.Pos
	}
	return nil
}

// later reports whether a page moves on from the position at to pos: frames of an older join, which
// arrive before the reply to the next one, come again after it.
func later(pos, at string) bool {
	read := func(s string) (epoch string, offset uint64) {
		epoch, s, _ = strings.Cut(s, "-")
		s, _, _ = strings.Cut(s, "-")
		offset, _ = strconv.ParseUint(s, 10, 64) // an empty one is zero
		return epoch, offset
	}
	epoch, offset := read(pos)
	atEpoch, atOffset := read(at)
	return epoch != atEpoch || offset > atOffset
}
