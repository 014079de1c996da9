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

// stranger is a client without anything of Bennu's: it writes and reads the messages of version 2.0.0 itself. So it sees what Bennu's clients would
// hide: every answer, and what comes when nothing should. Besides what its witnesses check, no message is answered twice or unasked, and whatever was
// pushed before a leave is answered before the leave is.
type stranger struct {
	book  *book
	stage *stage
	name  string
	rng   *rand.Rand
	addr  string
	slow  bool // it reads slowly, and is served by the lossy handler
	seats map[string]*stool
	order []*stool

	ctx  context.Context
	conn *websocket.Conn
	ref  atomic.Uint64
}

// stool is a stranger in a room, on one connection after the other.
type stool struct {
	*witness
	seq uint64 // the writer's

	mu      sync.Mutex
	joinRef string
	leaving string            // the leave's ref
	asked   map[string]string // events by ref: of this join, and earlier joins
}

func newStranger(b *book, st *stage, name, addr string, slow bool, rng *rand.Rand) *stranger {
	return &stranger{book: b, stage: st, name: name, rng: rng, addr: addr, slow: slow, seats: map[string]*stool{}}
}

func (x *stranger) sit(topic string) {
	s := &stool{witness: newWitness(x.book, x.name, topic, x.slow), asked: map[string]string{}}
	x.seats[topic] = s
	x.order = append(x.order, s)
}

// run connects again and again, and acts, until ctx ends.
func (x *stranger) run(ctx context.Context) {
	for pause(ctx, 20*time.Millisecond+randN(x.rng, 100*time.Millisecond)) {
		x.visit(ctx)
		for _, s := range x.order {
			s.ends()
		}
	}
}

// visit is one connection.
func (x *stranger) visit(ctx context.Context) {
	mount := "strict"
	if x.slow {
		mount = "lossy"
	}
	dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(dialing, fmt.Sprintf("ws://%s/%s/websocket?vsn=2.0.0&name=%s", x.addr, mount, x.name), nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	x.book.count("connections of strangers")
	visit, end := context.WithCancel(ctx)
	x.ctx, x.conn = visit, conn
	var reader sync.WaitGroup
	reader.Go(func() {
		defer end()
		x.read()
	})
	defer reader.Wait()
	defer end()
	for _, s := range x.order {
		clear(s.asked) // its reader is gone
		if !x.join(s) {
			return
		}
	}
	rolled := uint64(0)
	for beat := 1; pause(visit, randN(x.rng, 40*time.Millisecond)); beat++ {
		ok := x.back()
		if roll := x.stage.roll.Load(); roll != rolled && !x.isLeaving() {
			rolled = roll
			for _, s := range x.order {
				ok = ok && x.say(s, roll)
			}
		} else if beat%50 == 0 {
			ok = ok && x.send("", x.next(), "phoenix", "heartbeat", nil)
		} else if !x.stage.quiet.Load() {
			ok = ok && x.act()
		}
		if !ok {
			return
		}
	}
	if ctx.Err() != nil {
		_ = conn.Close(websocket.StatusGoingAway, "") // in good order, for once
	}
}

func (x *stranger) next() string { return fmt.Sprint(x.ref.Add(1)) }

// back joins where the stranger left, or its channel crashed. It reports whether the connection goes on.
func (x *stranger) back() bool {
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

func (x *stranger) isLeaving() bool { return slices.ContainsFunc(x.order, (*stool).isLeaving) }

func (s *stool) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving != ""
}

// act does one thing. It reports whether the connection goes on.
func (x *stranger) act() bool {
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
		return x.join(s) // though it is joined
	case n < 995:
		return x.leave(s)
	default:
		return false
	}
}

func (x *stranger) say(s *stool, roll uint64) bool {
	s.seq++
	return x.push(s, "say", said{Seq: s.seq, Roll: roll, Pad: padding(x.rng)})
}

func (x *stranger) join(s *stool) bool {
	ref := x.next()
	s.mu.Lock()
	s.joinRef, s.leaving = ref, ""
	maps.DeleteFunc(s.asked, func(_, event string) bool { return event != "phx_join" }) // what is answered yet is of no interest
	s.asked[ref] = "phx_join"
	s.mu.Unlock()
	return x.send(ref, ref, s.topic, "phx_join", hello{x.name, x.book.clock.Add(1)})
}

func (x *stranger) leave(s *stool) bool {
	ref := x.next()
	s.mu.Lock()
	s.leaving = ref
	joinRef := s.joinRef
	s.asked[ref] = "phx_leave"
	s.mu.Unlock()
	return x.send(joinRef, ref, s.topic, "phx_leave", nil)
}

func (x *stranger) push(s *stool, event string, payload any) bool {
	ref := x.next()
	s.mu.Lock()
	joinRef := s.joinRef
	if joinRef != "" {
		s.asked[ref] = event
	}
	s.mu.Unlock()
	return joinRef == "" || x.send(joinRef, ref, s.topic, event, payload)
}

// send writes a message and reports whether the connection goes on.
func (x *stranger) send(joinRef, ref, topic, event string, payload any) bool {
	if payload == nil {
		payload = struct{}{}
	}
	b, err := json.Marshal([]any{joinRef, ref, topic, event, payload})
	if err != nil {
		x.book.fault("%s: %v", x.name, err)
		return false
	}
	ctx, cancel := context.WithTimeout(x.ctx, 20*time.Second) // a stalled connection may hold it up
	defer cancel()
	return x.conn.Write(ctx, websocket.MessageText, b) == nil
}

// read reads what comes until the connection ends.
func (x *stranger) read() {
	rng := rand.New(rand.NewPCG(x.ref.Load(), 1)) // the other one is the writer's
	for i := 0; ; i++ {
		if x.slow && i%20 == 0 && !x.stage.quiet.Load() && !pause(x.ctx, randN(rng, 1500*time.Millisecond)) {
			return
		}
		_, b, err := x.conn.Read(x.ctx)
		if err != nil {
			if code := websocket.CloseStatus(err); code > 0 {
				x.book.count(fmt.Sprintf("strangers closed with %d", code))
			}
			return
		}
		if err := x.take(b); err != nil {
			x.book.fault("%s: %v: %.200q", x.name, err, b)
		}
	}
}

// take looks at one message.
func (x *stranger) take(b []byte) error {
	var joinRef, ref *string
	var topic, event string
	var payload json.RawMessage
	if err := json.Unmarshal(b, &[]any{&joinRef, &ref, &topic, &event, &payload}); err != nil {
		return err
	}
	s := x.seats[topic]
	switch {
	case topic == "phoenix":
		return nil
	case s == nil:
		return fmt.Errorf("a topic of nobody's")
	}
	var err error
	switch event {
	case "said":
		var m said
		if err = json.Unmarshal(payload, &m); err == nil {
			s.hears(m)
		}
	case "tick":
		var m tick
		if err = json.Unmarshal(payload, &m); err == nil && s.isOf(joinRef) {
			s.ticked(m)
		}
	case "phx_reply":
		if ref == nil {
			return fmt.Errorf("a reply without ref")
		}
		err = s.reply(*ref, joinRef, payload)
	case "phx_error", "phx_close":
		if s.isOf(joinRef) { // else of the join that this one replaced
			s.gone()
		}
	case "presence_state", "presence_diff":
	default:
		err = fmt.Errorf("an event of nobody's")
	}
	return err
}

func (s *stool) isOf(joinRef *string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return joinRef != nil && *joinRef == s.joinRef
}

// gone takes note that the channel ended.
func (s *stool) gone() {
	s.mu.Lock()
	s.joinRef, s.leaving = "", ""
	s.mu.Unlock()
	s.ends()
}

// reply takes the answer to a message.
func (s *stool) reply(ref string, joinRef *string, payload json.RawMessage) error {
	var r struct {
		Status   string
		Response json.RawMessage
	}
	if err := json.Unmarshal(payload, &r); err != nil {
		return err
	}
	var a answer
	s.mu.Lock()
	event, isAsked := s.asked[ref]
	delete(s.asked, ref)
	var unanswered []string
	for ref, e := range s.asked {
		if e != "ignore" && e != "crash" {
			unanswered = append(unanswered, e+" "+ref)
		}
	}
	isCurrent := joinRef != nil && *joinRef == s.joinRef
	s.mu.Unlock()
	s.book.count("replies to strangers")
	switch {
	case !isAsked && isCurrent:
		return fmt.Errorf("a reply that was not asked for, or came before")
	case r.Status != "ok" || !isAsked: // the channel had just crashed, or was replaced
		return nil
	case event == "phx_leave" && isCurrent:
		s.gone()
		if len(unanswered) > 0 {
			return fmt.Errorf("left, but not answered are %v", unanswered)
		}
	case event == "phx_join", event == "say", event == "tick":
		if err := json.Unmarshal(r.Response, &a); err != nil {
			return err
		}
		if event == "phx_join" {
			s.begins(a.Life)
		} else {
			s.answered(event, a)
		}
	}
	return nil
}
