package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// rawClient is a client that does not use Bennu: it reads and writes the messages of version 2.0.0
// itself. It detects what Bennu's clients would hide, such as unexpected messages. In addition to
// the rules of its checkers, no message may be answered twice or without a request, and everything
// pushed before a leave must be answered before the leave.
type rawClient struct {
	report      *report
	schedule    *schedule
	name        string
	rng         *rand.Rand
	addr        string
	slow        bool // reads slowly, and is served by the lossy handler
	memberships map[string]*rawMembership
	order       []*rawMembership

	ctx  context.Context
	conn *websocket.Conn
	ref  atomic.Uint64
}

// rawMembership is a raw client in a room. It persists across connections.
type rawMembership struct {
	*checker
	seq uint64 // used by the writer only

	mu      sync.Mutex
	joinRef string
	leaving string            // the ref of phx_leave
	pending map[string]string // events by ref, of this join and, for joins, of earlier ones
}

func newRawClient(rep *report, sched *schedule, name, addr string, slow bool, rng *rand.Rand) *rawClient {
	return &rawClient{
		report: rep, schedule: sched, name: name, rng: rng, addr: addr, slow: slow,
		memberships: map[string]*rawMembership{},
	}
}

func (x *rawClient) addMembership(topic string) {
	s := &rawMembership{checker: newChecker(x.report, x.name, topic, x.slow), pending: map[string]string{}}
	x.memberships[topic] = s
	x.order = append(x.order, s)
}

// run connects repeatedly and performs random actions until ctx ends.
func (x *rawClient) run(ctx context.Context) {
	for pause(ctx, 20*time.Millisecond+randN(x.rng, 100*time.Millisecond)) {
		x.connectOnce(ctx)
		for _, s := range x.order {
			s.endInterval()
		}
	}
}

// connectOnce runs one connection.
func (x *rawClient) connectOnce(ctx context.Context) {
	mount := "strict"
	if x.slow {
		mount = "lossy"
	}
	dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := fmt.Sprintf("ws://%s/%s/websocket?vsn=2.0.0&name=%s", x.addr, mount, x.name)
	conn, _, err := websocket.Dial(dialing, url, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	x.report.count("connections of raw clients")
	connCtx, end := context.WithCancel(ctx)
	x.ctx, x.conn = connCtx, conn
	var reader sync.WaitGroup
	reader.Go(func() {
		defer end()
		x.read()
	})
	defer reader.Wait()
	defer end()
	for _, s := range x.order {
		clear(s.pending) // its reader has exited
		if !x.join(s) {
			return
		}
	}
	rolled := uint64(0)
	for beat := 1; pause(connCtx, randN(x.rng, 40*time.Millisecond)); beat++ {
		ok := x.rejoin()
		if roll := x.schedule.roll.Load(); roll != rolled && !x.isLeaving() {
			rolled = roll
			for _, s := range x.order {
				ok = ok && x.say(s, roll)
			}
		} else if beat%50 == 0 {
			ok = ok && x.send("", x.next(), "phoenix", "heartbeat", nil)
		} else if !x.schedule.quiet.Load() {
			ok = ok && x.act()
		}
		if !ok {
			return
		}
	}
	if ctx.Err() != nil {
		_ = conn.Close(websocket.StatusGoingAway, "") // an orderly close
	}
}

func (x *rawClient) next() string { return fmt.Sprint(x.ref.Add(1)) }

// rejoin joins the rooms that the client left or whose channel crashed. It returns false if the
// connection is lost.
func (x *rawClient) rejoin() bool {
	for _, s := range x.order {
		s.mu.Lock()
		out := s.joinRef == ""
		s.mu.Unlock()
		if out && !x.join(s) {
			return false
		}
	}
	return true
}

func (x *rawClient) isLeaving() bool { return slices.ContainsFunc(x.order, (*rawMembership).isLeaving) }

func (s *rawMembership) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving != ""
}

// act performs one random action. It returns false if the connection is lost.
func (x *rawClient) act() bool {
	s := x.order[x.rng.IntN(len(x.order))]
	if s.isLeaving() {
		return true
	}
	switch n := x.rng.IntN(1000); {
	case n < 700:
		return x.say(s, 0)
	case n < 800:
		return x.push(s, "echo", map[string]int{"x": n})
	case n < 900:
		return x.push(s, "tick", 1+n%5)
	case n < 930:
		return x.push(s, "ignore", nil)
	case n < 940:
		return x.push(s, "crash", nil)
	case n < 950:
		return x.join(s) // a duplicate join
	case n < 995:
		return x.leave(s)
	default:
		return false
	}
}

func (x *rawClient) say(s *rawMembership, roll uint64) bool {
	s.seq++
	return x.push(s, "say", message{Seq: s.seq, Roll: roll, Pad: padding(x.rng)})
}

func (x *rawClient) join(s *rawMembership) bool {
	ref := x.next()
	s.mu.Lock()
	s.joinRef, s.leaving = ref, ""
	// The replies to the pushes of the previous join are no longer checked.
	maps.DeleteFunc(s.pending, func(_, event string) bool { return event != "phx_join" })
	s.pending[ref] = "phx_join"
	s.mu.Unlock()
	return x.send(ref, ref, s.topic, "phx_join", joinParams{x.name, x.report.clock.Add(1)})
}

func (x *rawClient) leave(s *rawMembership) bool {
	ref := x.next()
	s.mu.Lock()
	s.leaving = ref
	joinRef := s.joinRef
	s.pending[ref] = "phx_leave"
	s.mu.Unlock()
	return x.send(joinRef, ref, s.topic, "phx_leave", nil)
}

func (x *rawClient) push(s *rawMembership, event string, payload any) bool {
	ref := x.next()
	s.mu.Lock()
	joinRef := s.joinRef
	if joinRef != "" {
		s.pending[ref] = event
	}
	s.mu.Unlock()
	return joinRef == "" || x.send(joinRef, ref, s.topic, event, payload)
}

// send writes a message. It returns false if the connection is lost.
func (x *rawClient) send(joinRef, ref, topic, event string, payload any) bool {
	if payload == nil {
		payload = struct{}{}
	}
	b, err := json.Marshal([]any{joinRef, ref, topic, event, payload})
	if err != nil {
		x.report.fault("%s: %v", x.name, err)
		return false
	}
	ctx, cancel := context.WithTimeout(x.ctx, 20*time.Second) // a stalled connection may delay it
	defer cancel()
	return x.conn.Write(ctx, websocket.MessageText, b) == nil
}

// read handles messages until the connection ends.
func (x *rawClient) read() {
	rng := rand.New(rand.NewPCG(x.ref.Load(), 1)) // the other generator belongs to the writer
	for i := 0; ; i++ {
		if x.slow && i%20 == 0 && !x.schedule.quiet.Load() && !pause(x.ctx, randN(rng, 1500*time.Millisecond)) {
			return
		}
		_, b, err := x.conn.Read(x.ctx)
		if err != nil {
			if code := websocket.CloseStatus(err); code > 0 {
				x.report.count(fmt.Sprintf("raw clients closed with %d", code))
			}
			return
		}
		if err := x.handle(b); err != nil {
			x.report.fault("%s: %v: %.200q", x.name, err, b)
		}
	}
}

// handle checks one message.
func (x *rawClient) handle(b []byte) error {
	var joinRef, ref *string
	var topic, event string
	var payload json.RawMessage
	if err := json.Unmarshal(b, &[]any{&joinRef, &ref, &topic, &event, &payload}); err != nil {
		return err
	}
	s := x.memberships[topic]
	switch {
	case topic == "phoenix":
		return nil
	case s == nil:
		return fmt.Errorf("unknown topic")
	}
	var err error
	switch event {
	case "message":
		var m message
		if err = json.Unmarshal(payload, &m); err == nil {
			s.checkMessage(m)
		}
	case "tick":
		var m tick
		if err = json.Unmarshal(payload, &m); err == nil && s.isOf(joinRef) {
			s.checkTick(m)
		}
	case "phx_reply":
		if ref == nil {
			return fmt.Errorf("reply without ref")
		}
		err = s.reply(*ref, joinRef, payload)
	case "phx_error", "phx_close":
		if s.isOf(joinRef) { // otherwise of a join that this one replaced
			s.ended()
		}
	case "presence_state", "presence_diff":
	default:
		err = fmt.Errorf("unknown event")
	}
	return err
}

func (s *rawMembership) isOf(joinRef *string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return joinRef != nil && *joinRef == s.joinRef
}

// ended records that the channel ended.
func (s *rawMembership) ended() {
	s.mu.Lock()
	s.joinRef, s.leaving = "", ""
	s.mu.Unlock()
	s.endInterval()
}

// reply checks a reply.
func (s *rawMembership) reply(ref string, joinRef *string, payload json.RawMessage) error {
	var r struct {
		Status   string
		Response json.RawMessage
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	var a answer
	s.mu.Lock()
	event, isPending := s.pending[ref]
	delete(s.pending, ref)
	var pending []string
	for ref, e := range s.pending {
		if e != "ignore" && e != "crash" {
			pending = append(pending, e+" "+ref)
		}
	}
	isCurrent := joinRef != nil && *joinRef == s.joinRef
	s.mu.Unlock()
	s.report.count("replies to raw clients")
	switch {
	case !isPending && isCurrent:
		return fmt.Errorf("unexpected or duplicate reply")
	case r.Status != "ok" || !isPending: // the channel has just crashed or was replaced
		return nil
	case event == "phx_leave" && isCurrent:
		s.ended()
		if len(pending) > 0 {
			return fmt.Errorf("leave answered before %v", pending)
		}
	case event == "phx_join", event == "say", event == "tick":
		if err := json.Unmarshal(r.Response, &a); err != nil {
			return err
		}
		if event == "phx_join" {
			s.beginInterval(a.Generation)
		} else {
			s.checkReply(event, a)
		}
	}
	return nil
}
