package channel

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"bennu.example/serializer"
)

// serverRig feeds serverStep with lines of text and returns its outputs as text, as clientRig does.
//
//	join, done                               the mailbox dispatches the join, and is done with it
//	accepted, answered                       the join callback accepts; its reply was sent
//	refused, failed                          it rejects, or fails
//	unanswerable                             it accepts with a reply that cannot be encoded
//	exited [accepted]                        a callback ends its goroutine, or its results panic
//	leave, stop, crash, close                the mailbox dispatches the leave, a callback's result, its end
//	lost                                     the log of the topic lost records
//	terminated, finished                     Terminate and the OnEnd functions returned
//	watched, timeout                         the join may time out, and does
//	leaving, killed                          the client sent a leave; the mailbox is full
//	replaced, abandoned, succeeded           the topic is joined again
//
// A change of the status comes first among the outputs. Only armed shows the timeout.
type serverRig struct {
	s     serverState
	armed map[string]bool
	out   serverOutputs
}

func newServerRig() *serverRig { return &serverRig{armed: make(map[string]bool)} }

var serverRigInputs = map[string]serverInput{
	"join":            {kind: serverInJoin},
	"accepted":        {kind: serverInAccepted, accepted: true, frame: new(serializer.Frame)},
	"answered":        {kind: serverInAnswered},
	"refused":         {kind: serverInRefused, err: errRig, frame: new(serializer.Frame)},
	"failed":          {kind: serverInRefused, err: errRig, frame: new(serializer.Frame), crashed: true},
	"unanswerable":    {kind: serverInRefused, err: errRig, frame: new(serializer.Frame), crashed: true, accepted: true},
	"done":            {kind: serverInJoinDone},
	"exited":          {kind: serverInExited, err: errRig},
	"exited accepted": {kind: serverInExited, err: errRig, accepted: true},
	"leave":           {kind: serverInLeave, err: ErrLeft, frame: new(serializer.Frame)},
	"stop":            {kind: serverInStopped, err: ErrStop},
	"crash":           {kind: serverInCrashed, err: errRig},
	"close":           {kind: serverInClose, err: errRig},
	"lost":            {kind: serverInLost, err: errRig},
	"terminated":      {kind: serverInTerminated, err: errRig},
	"finished":        {kind: serverInFinished},
	"watched":         {kind: serverInWatched},
	"timeout":         {kind: serverInTimedOut, err: ErrJoinTimeout},
	"leaving":         {kind: serverInLeaving},
	"killed":          {kind: serverInKilled},
	"replaced":        {kind: serverInReplaced},
	"abandoned":       {kind: serverInAbandoned},
	"succeeded":       {kind: serverInSucceeded},
}

// do feeds a line and returns the outputs.
func (r *serverRig) do(line string) string {
	in, ok := serverRigInputs[line]
	if !ok {
		panic("no such input: " + line)
	}
	if line == "timeout" {
		delete(r.armed, "join")
	}
	before := r.s.status
	r.out = serverOutputs{}
	r.s = serverStep(r.s, in, &r.out)
	var list []string
	if r.s.status != before {
		list = append(list, r.s.status.String())
	}
	for _, o := range r.out.all() {
		if text := r.render(&o); text != "" {
			list = append(list, text)
		}
	}
	return strings.Join(list, "; ")
}

func (r *serverRig) render(o *serverOutput) string {
	switch o.kind {
	case serverOutArm:
		r.armed["join"] = true
		return ""
	case serverOutDisarm:
		delete(r.armed, "join")
		return ""
	case serverOutCallJoin:
		return "call join"
	case serverOutSubscribe:
		return "subscribe"
	case serverOutUnsubscribe:
		return "unsubscribe"
	case serverOutReply:
		return "send ok"
	case serverOutTell:
		return "tell" + rigFrames(o)
	case serverOutTellPrevious:
		return "tell previous"
	case serverOutHandOver:
		return "hand over"
	case serverOutAnswered:
		return "answered!"
	case serverOutReport:
		return "report " + o.report.String()
	case serverOutCancel:
		return "cancel " + rigReason(o.err)
	case serverOutClose:
		if o.keep {
			return "finish queue " + rigReason(o.err)
		}
		return "drop queue " + rigReason(o.err)
	case serverOutTerminate:
		return "terminate " + rigReason(o.err)
	case serverOutEnd:
		return "end"
	case serverOutEnded:
		return "ended!"
	}
	panic("no such output")
}

func rigFrames(o *serverOutput) (text string) {
	if o.frame != nil {
		text += " reply"
	}
	for i, name := range []string{"crashed", "phx_close", "phx_error", "phx_error lost"} {
		if o.frames&(1<<i) != 0 {
			text += " " + name
		}
	}
	return text
}

func rigReason(err error) string {
	if err == nil {
		return "-"
	}
	for _, e := range []struct {
		err  error
		name string
	}{
		{ErrFull, "full"}, {ErrReplaced, "replaced"}, {ErrJoinTimeout, "timeout"}, {ErrLeft, "left"}, {ErrStop, "stop"},
		{errRefused, "refused"}, {errRig, "cause"},
	} {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return err.Error()
}

// playScript feeds the lines of a script to do and compares the results. A line is an input, or
// "input => outputs". An input alone must have no visible output. Names are the timers that must
// run at the end.
func playScript(t *testing.T, script string, do func(string) string, armed map[string]bool, names string) {
	t.Helper()
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		in, want, _ := strings.Cut(line, " => ")
		if got := do(in); got != want {
			t.Fatalf("%s\n got %s\nwant %s", in, got, want)
		}
	}
	if got := strings.Join(slices.Sorted(maps.Keys(armed)), " "); got != names {
		t.Fatalf("armed: %q, want %q", got, names)
	}
}
