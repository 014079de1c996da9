package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"bennu.example/history"
	"bennu.example/internal/histcheck"
	"bennu.example/internal/wstest"
)

// logTopic is a topic whose messages are recorded.
const logTopic = "log:1"

// logKeep is what the server keeps of it.
var logKeep = history.Keep{Events: []string{"record"}, Count: 500, MaxReplay: 200}

// logMessage is a message of logTopic.
type logMessage struct {
	ID string `json:"id"`
}

// oldPositions is the share of joins with an old position, in percent.
const oldPositions = 12

// maxStored bounds the positions that a client stores.
const maxStored = 1000

// historyClient follows logTopic as a page does that stores its position. Its Recorder records what
// it sends and receives, for internal/histcheck.
type historyClient struct {
	*histcheck.Recorder
	report   *report
	schedule *schedule
	name     string
	rng      *rand.Rand
	addr     string
	conns    int
	refs     int
	said     int

	mu      sync.Mutex
	conn    *wstest.Conn
	stored  []string          // positions, the newest last
	join    string            // ref of the last join. Empty means that the channel ended
	waiting bool              // that join has no reply yet
	leave   string            // ref of the last leave
	pending map[string]string // ids of pushed records, by ref
	last    string            // id of the record that it received last
}

// run connects again and again until ctx ends.
func (x *historyClient) run(ctx context.Context) {
	for pause(ctx, 20*time.Millisecond+randN(x.rng, 200*time.Millisecond)) {
		conn, err := wstest.Dial(x.addr, "/strict/websocket?vsn=2.0.0&name="+x.name)
		if err != nil {
			continue // the server restarts, or the connection was cut
		}
		x.mu.Lock()
		x.conns++
		x.conn, x.join, x.waiting, x.leave, x.pending = conn, "", false, "", map[string]string{}
		x.mu.Unlock()
		connCtx, end := context.WithCancel(ctx)
		var reader sync.WaitGroup
		reader.Go(func() {
			defer end()
			x.read()
		})
		x.act(connCtx)
		end()
		_ = conn.Close() // it may have ended
		reader.Wait()
		x.lost()
	}
}

// lost records the end of the connection.
func (x *historyClient) lost() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.giveUpPending()
	x.join, x.waiting = "", false
	x.Cut(x.name)
}

// giveUpPending records that the pushed records without a reply may be in the log or not. The
// caller holds mu.
func (x *historyClient) giveUpPending() {
	for _, id := range x.pending {
		x.Uncertain(id)
	}
	clear(x.pending)
}

// act joins and sends records until the connection ends.
func (x *historyClient) act(ctx context.Context) {
	for beat := 1; ctx.Err() == nil; beat++ {
		x.mu.Lock()
		err := x.step(beat)
		x.mu.Unlock()
		if err != nil || !pause(ctx, randN(x.rng, 100*time.Millisecond)) {
			return
		}
	}
}

// errHangUp ends a connection on purpose.
var errHangUp = errors.New("hang up")

func (x *historyClient) step(beat int) error {
	n := x.rng.IntN(100)
	switch {
	case beat%20 == 0:
		return x.send("", "phoenix", "heartbeat", struct{}{})
	case x.waiting || x.leave != "":
		return nil
	case x.join == "":
		return x.sendJoin()
	case x.schedule.quiet.Load():
		return nil
	case n < 3:
		return errHangUp
	case n < 6:
		return x.sendJoin()
	case n < 9:
		err := x.send(x.join, logTopic, "phx_leave", struct{}{})
		x.leave = fmt.Sprint(x.refs)
		return err
	}
	return x.say()
}

// say sends a record.
func (x *historyClient) say() error {
	x.said++
	id := fmt.Sprintf("%s-%d", x.name, x.said)
	// The server may still handle what came by the connection before this one.
	x.Append(fmt.Sprintf("%s, connection %d", x.name, x.conns), id, "")
	x.pending[fmt.Sprint(x.refs+1)] = id
	return x.send(x.join, logTopic, "record", logMessage{id})
}

func (x *historyClient) sendJoin() error {
	since := ""
	if n := len(x.stored); n > 0 {
		since = x.stored[n-1]
		if x.rng.IntN(100) < oldPositions {
			since = x.stored[x.rng.IntN(n)]
			x.report.count("joins with old positions")
		}
	}
	member := map[string]any{}
	if since != "" {
		member["since"] = since
	}
	x.join, x.waiting = fmt.Sprint(x.refs+1), true
	x.Join(x.name, since, true)
	return x.send(x.join, logTopic, "phx_join", map[string]any{"name": x.name, "$history": member})
}

func (x *historyClient) send(joinRef, topic, event string, payload any) error {
	x.refs++
	b, err := json.Marshal([]any{joinRef, fmt.Sprint(x.refs), topic, event, payload})
	if err != nil {
		return err
	}
	if err := x.conn.SetWriteDeadline(time.Now().Add(maxWait)); err != nil {
		return err
	}
	return x.conn.Send(b)
}

// read handles frames until the connection ends.
func (x *historyClient) read() {
	for {
		frame, err := x.conn.Text()
		if err != nil {
			return
		}
		x.mu.Lock()
		err = x.frame(frame)
		x.mu.Unlock()
		if err != nil {
			x.report.fault("%s: %v: %s", x.name, err, frame)
			return
		}
	}
}

func (x *historyClient) frame(frame []byte) error {
	var joinRef, ref *string
	var topic, event string
	var payload json.RawMessage
	if err := json.Unmarshal(frame, &[]any{&joinRef, &ref, &topic, &event, &payload}); err != nil {
		return err
	}
	switch event {
	case "phx_reply":
		return x.reply(*ref, payload)
	case "phx_error":
		if joinRef != nil && *joinRef == x.join {
			return errors.New("the channel ended")
		}
	case "record", "$history":
		return x.record(event, payload)
	}
	return nil
}

func (x *historyClient) reply(ref string, payload json.RawMessage) error {
	var r struct {
		Status   string
		Response struct {
			Reason  string
			History *struct {
				Pos, Why  string
				Recovered bool
			} `json:"$history"`
		}
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	id, pushed := x.pending[ref]
	switch {
	case pushed && r.Status == "ok":
		x.Appended(id, "")
	case pushed:
		x.Uncertain(id) // the server shuts down, or the channel had ended
	case ref == x.leave:
		x.leave, x.join = "", ""
		x.Cut(x.name)
	case ref == x.join && r.Status == "ok" && r.Response.History != nil:
		h := r.Response.History
		x.giveUpPending() // what the channel of the join before had not handled, it never answers
		x.Joined(x.name, histcheck.Reply{Pos: h.Pos, Recovered: h.Recovered, Why: h.Why})
		x.waiting = false
		if !h.Recovered {
			x.store(h.Pos)
		}
		x.report.count("joins of clients with history")
	case ref == x.join:
		x.report.count("joins with history refused: " + r.Response.Reason)
		if r.Response.Reason != "join crashed" { // as the server shuts down
			return errors.New("the join failed")
		}
		x.join, x.waiting = "", false
	}
	delete(x.pending, ref)
	return nil
}

func (x *historyClient) record(event string, payload json.RawMessage) error {
	var r struct {
		Pos string `json:"$pos"`
		ID  string
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	if event == "$history" {
		x.Moved(x.name, r.Pos)
	} else {
		x.Received(x.name, r.Pos, r.ID)
		x.report.count("records received")
		x.last = r.ID
	}
	if !x.waiting { // otherwise it is a record of the join before, and comes again
		x.store(r.Pos)
	}
	return nil
}

func (x *historyClient) store(pos string) {
	if len(x.stored) >= maxStored {
		x.stored = slices.Delete(x.stored, 0, maxStored/2)
	}
	x.stored = append(x.stored, pos)
}

// atRest reports whether the client is joined and waits for no reply, and which record it received
// last.
func (x *historyClient) atRest() (last string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.last, x.join != "" && !x.waiting && x.leave == "" && len(x.pending) == 0
}

// checkHistory waits until the clients with history have received everything, and checks the
// recording. The clients perform no actions any more.
func (r *run) checkHistory() error {
	first := r.historyClients[0]
	id := ""
	err := within(func() error {
		if _, ok := first.atRest(); !ok {
			return errors.New("history: no client is at rest")
		}
		first.mu.Lock()
		err := first.say()
		id = fmt.Sprintf("%s-%d", first.name, first.said)
		first.mu.Unlock()
		for begun := time.Now(); err == nil && time.Since(begun) < rollCallTimeout; {
			late := slices.IndexFunc(r.historyClients, func(x *historyClient) bool {
				last, ok := x.atRest()
				return !ok || last != id
			})
			if late < 0 {
				return nil
			}
			pause(context.Background(), 50*time.Millisecond)
		}
		return errors.Join(err, errors.New("history: a client has not received the last record"))
	})
	if err != nil {
		return err
	}
	for _, v := range first.Check(histcheck.Limits{Count: logKeep.Count, MaxReplay: logKeep.MaxReplay}) {
		r.report.fault("history: %v", v)
	}
	return nil
}
