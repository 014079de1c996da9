package channel

import (
	"errors"
	"fmt"
	"strings"

	"bennu.example/internal/clientlink"
	"bennu.example/internal/promise"
	"bennu.example/push"
	"bennu.example/serializer"
)

// clientRig feeds clientStep with lines of text and returns its outputs as text.
//
//	open, closed, end, giveup                the inputs of these names
//	join, joinN                              the Join of life 1, of life N
//	leave, leaveN                            a Leave that was called in that life; 0 is before the first
//	again                                    records were dropped
//	rejoin                                   Rejoin was called
//	manual                                   ManualRejoin, before join
//	taken                                    marks the topic as still being left by another channel, before join
//	free                                     that other channel is closed
//	params N [error]                         the params of attempt N
//	push NAME, cancel NAME                   pushes are named
//	now NAME [congested]                     PushNow
//	due join|rejoin|leave|NAME               a timer
//	refused REF                              an encoding error
//	unsent NAME                              marks a push before closed
//	needs                                    WaitForAuth, before join
//	auth pending|granted|missing|expired     the socket's authentication changed
//	msg JOINREF REF EVENT [STATUS]           a message; "-" is null, '' the empty string. The status
//	                                         expired is an error because of that, and busy one because
//	                                         there are too many joins. A phx_close with the status
//	                                         logout is the end after a logout.
type clientRig struct {
	s      clientState
	refs   uint64
	pushes map[string]*clientPush
	armed  map[string]bool
	out    []clientOutput

	attached bool // the topic is the channel's
}

var errRig = errors.New("cause")

func newClientRig() *clientRig {
	r := &clientRig{pushes: make(map[string]*clientPush), armed: make(map[string]bool)}
	r.s = clientState{topic: "t", refs: func() uint64 { r.refs++; return r.refs }}
	return r
}

func (r *clientRig) named(name string) *clientPush {
	p := r.pushes[name]
	if p == nil {
		p = &clientPush{event: name}
		switch {
		case strings.HasPrefix(name, "join"):
			p.event, p.life = serializer.EventJoin, rigLife(name)
		case strings.HasPrefix(name, "leave"):
			p.event, p.life = serializer.EventLeave, rigLife(name)
		}
		r.pushes[name] = p
	}
	return p
}

// rigLife returns the number in the name of a join or leave.
func rigLife(name string) uint64 {
	life := uint64(1)
	fmt.Sscan(strings.TrimLeft(name, "joinleav"), &life)
	return life
}

func (r *clientRig) nameOf(p *clientPush) string {
	for name, q := range r.pushes {
		if p == q {
			return name
		}
	}
	return "?"
}

func rigRef(s string) serializer.Ref {
	switch s {
	case "-":
		return ""
	case "''":
		return serializer.EmptyRef
	}
	return serializer.Ref(`"` + s + `"`)
}

// input returns the input of a line.
func (r *clientRig) input(line string) clientInput {
	f := strings.Fields(line)
	switch {
	case strings.HasPrefix(f[0], "join"):
		return clientInput{kind: inJoin, push: r.named(f[0])}
	case strings.HasPrefix(f[0], "leave"):
		return clientInput{kind: inLeave, push: r.named(f[0])}
	}
	switch f[0] {
	case "open":
		return clientInput{kind: inOpened}
	case "closed":
		return clientInput{kind: inClosed, err: errRig}
	case "end":
		return clientInput{kind: inEnd, err: errRig}
	case "free":
		return clientInput{kind: inFree}
	case "rejoin":
		return clientInput{kind: inRejoinCall}
	case "again":
		return clientInput{kind: inAgain}
	case "giveup":
		return clientInput{kind: inGiveUp}
	case "params":
		in := clientInput{kind: inParams}
		fmt.Sscan(f[1], &in.attempt)
		if len(f) > 2 {
			in.err = errRig
		}
		return in
	case "auth":
		return clientInput{kind: inAuth, auth: map[string]clientlink.Auth{
			"granted": clientlink.AuthGranted, "missing": clientlink.AuthMissing, "expired": clientlink.AuthExpired,
		}[f[1]]}
	case "push":
		return clientInput{kind: inPush, push: r.named(f[1])}
	case "now":
		p := r.named(f[1])
		p.isNow = true
		return clientInput{kind: inPushNow, push: p, isCongested: len(f) > 2}
	case "cancel":
		return clientInput{kind: inCancel, push: r.named(f[1])}
	case "refused":
		in := clientInput{kind: inRefused, err: serializer.ErrPayload}
		fmt.Sscan(f[1], &in.ref)
		return in
	case "due":
		delete(r.armed, f[1])
		switch f[1] {
		case "join":
			return clientInput{kind: inJoinTimeout}
		case "rejoin":
			return clientInput{kind: inRejoin}
		case "leave":
			return clientInput{kind: inLeaveTimeout}
		}
		return clientInput{kind: inPushTimeout, push: r.named(f[1])}
	case "msg":
		m := &serializer.Message{Topic: "t", JoinRef: rigRef(f[1]), Ref: rigRef(f[2]), Event: f[3], Kind: serializer.KindPush}
		if f[3] == serializer.EventReply {
			m.Kind, m.Status = serializer.KindReply, f[4]
		}
		switch f[len(f)-1] {
		case "busy":
			m.Status, m.Payload = "error", serializer.Value(map[string]string{"reason": "too many joins"})
		case "expired":
			m.Status, m.Payload = "error", serializer.Value(map[string]string{"reason": "token expired"})
		case "logout":
			m.Payload = serializer.Value(map[string]string{"reason": "deauthenticated"})
		}
		return clientInput{kind: inMessage, msg: m}
	}
	panic("no such input: " + line)
}

// do feeds a line and returns the outputs.
func (r *clientRig) do(line string) string {
	if name, ok := strings.CutPrefix(line, "unsent "); ok {
		r.named(name).unsent = true
		return ""
	}
	if line == "taken" {
		r.s.taken = true
		return ""
	}
	if line == "needs" {
		r.s.needsAuth = true
		return ""
	}
	if line == "manual" {
		r.s.manual = true
		return ""
	}
	in := r.input(line)
	if in.kind == inJoin && r.s.wants(in.push) {
		r.attached = true
	}
	r.s, r.out = clientStep(r.s, in, r.out[:0])
	var list []string
	for i := range r.out {
		if text := r.render(&r.out[i]); text != "" {
			list = append(list, text)
		}
	}
	return strings.Join(list, "; ")
}

func (r *clientRig) render(o *clientOutput) string {
	timers := []string{"join", "rejoin", "leave"}
	switch o.kind {
	case outParams:
		return fmt.Sprintf("params %d", o.attempt)
	case outNoParams:
		return "" // always correct
	case outSend:
		return fmt.Sprintf("send %d %d %s", o.joinRef, o.ref, o.event)
	case outAnswer:
		delete(r.armed, r.nameOf(o.push))
		return fmt.Sprintf("answer %s %s", r.nameOf(o.push), rigAnswer(o.answer))
	case outEvent:
		return "event " + o.msg.Event
	case outDrop:
		return "drop"
	case outArm:
		switch o.timer {
		case timerPush:
			r.armed[r.nameOf(o.push)] = true
			return "" // see armed
		case timerRejoin:
			r.armed["rejoin"] = true
			return fmt.Sprintf("rejoin in %d", o.tries)
		}
		r.armed[timers[o.timer]] = true
		return ""
	case outDisarm:
		delete(r.armed, timers[o.timer])
		return ""
	case outState:
		return o.status.String()
	case outJoined:
		return "joined!"
	case outErrored:
		return "error!"
	case outClosed:
		return "closed!"
	case outCanceled:
		return "canceled"
	case outDetach:
		r.attached = false
		return ""
	}
	panic("no such output")
}

// rigAnswer returns the text of an answer.
func rigAnswer(a promise.Result) string {
	if a.Err == nil {
		return a.Status
	}
	for _, e := range []struct {
		err  error
		name string
	}{
		{push.ErrOffline, "offline"}, {push.ErrTimeout, "timeout"}, {push.ErrLost, "lost"}, {push.ErrCanceled, "canceled"},
		{serializer.ErrPayload, "payload"}, {ErrNotJoined, "not joined"},
		{ErrDuplicate, "duplicate"}, {ErrClosed, "closed"}, {errRig, "cause"},
	} {
		if errors.Is(a.Err, e.err) {
			return e.name
		}
	}
	return a.Err.Error()
}
